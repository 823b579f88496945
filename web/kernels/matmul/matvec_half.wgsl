enable f16;
enable subgroups;
diagnostic(off, subgroup_uniformity);
// matvec_subgroup.wgsl with products of f16, two at a time: sums of four of them are f16, the rest f32.
// uses: types
// uses: dequantize
// uses: state
// uses: grid
// uses: activation
// uses: rows
// uses: matvec_common
// uses: matvec_rows
// uses: subgroup_sums
//
// Codes become f16 without a conversion: set as the mantissa of 1024, they are 1024 more than they were.
// Two 16 bits apart do so at once, so of four columns the first and third are together, the second and
// fourth, and activations are staged in that order. They are divided by X_SCALE, such that even 8 bits
// times a hundred thousand stay within f16.

alias Staged = vec4h;

override FOUR_BITS = FORM < Q5_0 || FORM == Q4_K || FORM == MXFP4 || PAIRS; // or fewer
override X_SCALE = select(select(64.0, 256.0, FORM == Q8_0 || FORM == IQ4_NL), 16.0, FOUR_BITS);
const LARGEST = 65504.0; // in f16

// What a weight of zero becomes: 1024 and its code.
fn zero() -> f16 {
  if (FORM == Q4_0) {
    return 1032.0h;
  } else if (FORM == Q5_0) {
    return 1040.0h;
  } else if (FORM == Q3_K) {
    return 1028.0h;
  } else if (FORM == Q8_0 || FORM == IQ4_NL) {
    return 1152.0h;
  } else if (FORM == Q6_K) {
    return 1056.0h;
  }
  return 1024.0h;
}

fn keep(v: vec4f) -> vec4h {
  return vec4h(clamp(v / X_SCALE, vec4f(-LARGEST), vec4f(LARGEST)).xzyw);
}

fn restored(v: vec4h) -> vec4f {
  return X_SCALE * vec4f(v.xzyw);
}

// The numbers in the low bits of both halves of `a`, and of `b`.
fn small_codes(a: u32, b: u32) -> vec4h {
  return vec4h(bitcast<vec2h>(a | 0x64006400u), bitcast<vec2h>(b | 0x64006400u)) - zero();
}

// twice_e2m1 of the nibbles in the low bits of both halves of x, and of y. (Zeros may be negative.)
fn twice_e2m1_halves(code: vec2u) -> vec4h {
  let h = bitcast<vec4h>(((code & vec2u(0x00070007u)) << vec2u(9u)) + vec2u(0x3c003c00u));
  let size = bitcast<vec2u>(min(h, 2.0h * h - 2.0h));
  return bitcast<vec4h>(size ^ ((code & vec2u(0x00080008u)) << vec2u(12u)));
}

// Four columns: the low nibbles of a word, and what bits they have in `upper`.
fn nibbles4(word: u32, upper: u32) -> vec4h {
  if (FORM == IQ4_NL) {
    let code = looked_up((vec4u(word) >> vec4u(0u, 8u, 16u, 24u)) & vec4u(15u));
    return small_codes(code.x | (code.z << 16u), code.y | (code.w << 16u));
  }
  var a = word & 0x000f000fu;
  var b = (word >> 8u) & 0x000f000fu;
  if (FORM == MXFP4) {
    return twice_e2m1_halves(vec2u(a, b));
  }
  if (FORM == Q5_0 || FORM == Q5_1 || FORM == Q5_K) { // a bit a column
    a |= ((upper << 4u) & 0x10u) | ((upper << 18u) & 0x100000u);
    b |= ((upper << 3u) & 0x10u) | ((upper << 17u) & 0x100000u);
  } else if (FORM == Q6_K) { // two
    a |= ((upper << 4u) & 0x30u) | ((upper << 16u) & 0x300000u);
    b |= ((upper << 2u) & 0x30u) | ((upper << 14u) & 0x300000u);
  }
  return small_codes(a, b);
}

fn bytes4(word: u32) -> vec4h {
  let plain = word ^ 0x80808080u; // 128 more than the signed bytes
  return small_codes(plain & 0x00ff00ffu, (plain >> 8u) & 0x00ff00ffu);
}

fn total4(v: vec4h) -> f32 {
  return total(vec4f(v));
}

// The sum of 16 activations as they are staged.
fn sum_of(v0: vec4h, v1: vec4h, v2: vec4h, v3: vec4h) -> f32 {
  return total(vec4f(v0) + vec4f(v1) + vec4f(v2) + vec4f(v3));
}

fn nibbles_product(w: vec4u, upper: u32, step: u32, v0: vec4h, v1: vec4h, v2: vec4h, v3: vec4h) -> f32 {
  return total4(nibbles4(w.x, upper) * v0 + nibbles4(w.y, upper >> step) * v1 +
    nibbles4(w.z, upper >> (2u * step)) * v2 + nibbles4(w.w, upper >> (3u * step)) * v3);
}

fn bytes_product(w: vec4u, v0: vec4h, v1: vec4h, v2: vec4h, v3: vec4h) -> f32 {
  return total4(bytes4(w.x) * v0 + bytes4(w.y) * v1 + bytes4(w.z) * v2 + bytes4(w.w) * v3);
}

fn product(group: Group, v: Activations) -> f32 {
  if (FORM < Q4_0) {
    return group_product(group,
      Half(restored(v.v0), restored(v.v1), restored(v.v2), restored(v.v3)),
      Half(restored(v.v4), restored(v.v5), restored(v.v6), restored(v.v7)), 0.0);
  }
  var first: f32;
  var second: f32;
  if (FORM == Q8_0) {
    first = bytes_product(group.a, v.v0, v.v1, v.v2, v.v3);
    second = bytes_product(group.b, v.v4, v.v5, v.v6, v.v7);
  } else {
    let step = select(4u, 8u, FORM == Q6_K);
    let later = select(group.high.x >> 16u, group.high.y, FORM == Q6_K);
    first = nibbles_product(group.a, group.high.x, step, v.v0, v.v1, v.v2, v.v3);
    second = nibbles_product(group.a >> vec4u(4u), later, step, v.v4, v.v5, v.v6, v.v7);
  }
  var less = group.minimum.x * v.sum;
  if (FORM == Q2_K) {
    let sums = vec2f(sum_of(v.v0, v.v1, v.v2, v.v3), sum_of(v.v4, v.v5, v.v6, v.v7));
    less = X_SCALE * dot(group.minimum, sums);
  }
  return X_SCALE * (group.scale.x * first + group.scale.y * second) - less;
}

// Weights in planes -> vec4f. Put before every kernel whose header says "uses: dequantize"; it needs types.wgsl.
//
// A matrix [rows, cols] lies in two planes, row after row, written by relayout.wgsl: codes, and what types.wgsl
// counts the words of, high bits of all groups of the row and then its scales:
//   FORM     codes                                 high bits       scales
//   F32      1 word a weight                       -               -
//   F16      2 weights a word, low half first      -               -
//   BF16     likewise                              -               -
//   Q4_0     4 words a group                       -               f16 d, 2 groups a word
//   Q4_1     4 words a group                       -               f16 d, f16 m: a word a group
//   Q5_0     4 words a group                       1 word          as Q4_0
//   Q5_1     4 words a group                       1 word          as Q4_1
//   Q8_0     8 words a group, signed bytes         -               as Q4_0
//   Q4_K     4 words a group                       -               4 words a 256-block, see below
//   Q5_K     4 words a group                       1 word          as Q4_K
//   Q6_K     4 words a group                       2 words         5 words a 256-block: 16 i8, f16 d
//   MXFP4    4 words a group                       -               a byte (an exponent) a group
//   IQ4_NL   4 words a group                       -               as Q4_0
//   Q3_K     2 words a group, see below            1 word          as Q6_K
//   Q2_K     as Q3_K                               -               5 words a 256-block, see below
// A group is 32 columns. Of 4-bit words, byte b of word w holds column 4w+b in its low nibble and
// 16+4w+b in its high one. High bits: bit i of the word is column i; Q6_K has two bits a column.
// Dense rows (F32, F16, BF16) are padded with zeros to a multiple of 4 columns. The scales of a K block: f16 d and
// dmin; then eight nibbles each, one a group: the low bits of its scale, of its minimum, and the high two
// bits of both, the scale's first. Of a Q2_K block: 16 bytes, a scale in the low nibble and a minimum in the
// high one; then d and dmin. A row's scales begin at a word.
// Nibbles of MXFP4 are small floats (E2M1: sign, exponent, mantissa), of IQ4_NL places in a codebook. The
// four words of nibbles of Q3_K and Q2_K are laid one into the other: word n has the low two bits of those of
// word 2n, and two bits above these, of word 2n + 1; the high word has the third bit of those of word n at
// bit n of the nibble.

override FORM: u32;
override PAIRS = FORM > IQ4_NL; // two bits of a column, or also a third

// What a nibble of IQ4_NL stands for, a byte each: 128 more than the number, so that none is negative.
const CODEBOOK = vec4u(0x3f2d1801u, 0x766a5d4fu, 0xa6998d81u, 0xf1d9c5b5u);

@group(0) @binding(0) var<storage, read> codes: array<vec4u>;
@group(0) @binding(1) var<storage, read> scales: array<u32>;

// 32 weights of a row as they lie in the planes: what can be asked for long before it is used.
struct Packed {
  a: vec4u,
  b: vec4u,
  high: vec2u,
  scale: vec4u,
}

// 32 weights of a row, with their scales. Weight = scale · code - minimum, of both .x for columns 0..15
// and .y for 16..31. Minimums differ in Q2_K only.
struct Group {
  a: vec4u,
  b: vec4u,
  high: vec2u,
  scale: vec2f,
  minimum: vec2f,
}

// f16 bits -> f32, exact for subnormals too, which small scales are and unpack2x16float may flush.
fn half(bits: u32) -> f32 {
  let exponent = (bits >> 10u) & 31u;
  let mantissa = bits & 1023u;
  let normal = bitcast<f32>(((exponent + 112u) << 23u) | (mantissa << 13u));
  let magnitude = select(normal, f32(mantissa) * 0x1p-24f, exponent == 0u);
  return select(magnitude, -magnitude, (bits & 0x8000u) != 0u);
}

fn signed_bytes(word: u32) -> vec4f {
  return vec4f(bitcast<vec4i>(vec4u(word) << vec4u(24u, 16u, 8u, 0u)) >> vec4u(24u));
}

// Groups of 32 columns in a row; the last one of a dense row may be short.
fn groups_of(cols: u32) -> u32 {
  return (cols + 31u) / 32u;
}

// Group g of row `row`; quantised forms only read what they need (FORM is known when compiling).
fn load_packed(row: u32, g: u32, cols: u32) -> Packed {
  var out: Packed;
  if (FORM < Q4_0) {
    let width = (cols + 3u) / 4u; // vec4s a row
    out.a = vec4u(row * width + g * 8u, width - g * 8u, 0u, 0u); // first vec4, how many are left
    return out;
  }
  let groups = cols / 32u;
  let at = row * groups + g;
  if (FORM == Q8_0) {
    out.a = codes[2u * at];
    out.b = codes[2u * at + 1u];
  } else if (PAIRS) {
    let two = codes[at / 2u];
    out.a = vec4u(select(two.xy, two.zw, (at & 1u) == 1u), 0u, 0u);
  } else {
    out.a = codes[at];
  }
  let start = row * row_words(FORM, groups);
  let base = start + high_words(FORM, groups);
  if (FORM == Q5_0 || FORM == Q5_1 || FORM == Q5_K || FORM == Q3_K) {
    out.high = vec2u(scales[start + g], 0u);
  } else if (FORM == Q6_K) {
    out.high = vec2u(scales[start + 2u * g], scales[start + 2u * g + 1u]);
  }
  if (FORM == Q4_0 || FORM == Q5_0 || FORM == Q8_0 || FORM == IQ4_NL) {
    out.scale.x = scales[base + g / 2u];
  } else if (FORM == Q4_1 || FORM == Q5_1) {
    out.scale.x = scales[base + g];
  } else if (FORM == MXFP4) {
    out.scale.x = scales[base + g / 4u];
  } else if (FORM == Q6_K || PAIRS) {
    let block = base + 5u * (g / 8u);
    out.scale = vec4u(scales[block + 4u], scales[block + (g % 8u) / 2u], 0u, 0u);
  } else {
    let block = base + 4u * (g / 8u);
    out.scale = vec4u(scales[block], scales[block + 1u], scales[block + 2u], scales[block + 3u]);
  }
  return out;
}

// (scale, minimum) of group j of a Q4_K or Q5_K block: six bits each, times d and dmin.
fn k_scale(words: vec4u, j: u32) -> vec2f {
  let nibbles = (words.yzw >> vec3u(4u * j)) & vec3u(15u);
  let bits = nibbles.xy | ((vec2u(nibbles.z, nibbles.z >> 2u) & vec2u(3u)) << vec2u(4u));
  return vec2f(half(words.x & 0xffffu), half(words.x >> 16u)) * vec2f(bits);
}

// Half of 2^(exponent - 127), which is subnormal below an exponent of 2: there a GPU may take it for zero.
fn half_power(exponent: u32) -> f32 {
  return bitcast<f32>(select((exponent - 1u) << 23u, 0x200000u << (exponent & 1u), exponent < 2u));
}

// Scales of columns 0..15 and of 16..31, then their minimums, of what was group g of its row.
fn scale_of(words: vec4u, g: u32) -> vec4f {
  if (FORM == Q4_0 || FORM == Q5_0 || FORM == Q8_0 || FORM == IQ4_NL) {
    return vec4f(vec2f(half((words.x >> (16u * (g & 1u))) & 0xffffu)), vec2f());
  }
  if (FORM == Q4_1 || FORM == Q5_1) {
    return vec4f(vec2f(half(words.x & 0xffffu)), vec2f(-half(words.x >> 16u)));
  }
  if (FORM == Q6_K || FORM == Q3_K) {
    return vec4f(half(words.x) * signed_bytes(words.y >> (16u * (g & 1u))).xy, vec2f());
  }
  if (FORM == Q2_K) {
    let nibbles = (vec4u(words.y >> (16u * (g & 1u))) >> vec4u(0u, 8u, 4u, 12u)) & vec4u(15u);
    return vec2f(half(words.x & 0xffffu), half(words.x >> 16u)).xxyy * vec4f(nibbles);
  }
  if (FORM == MXFP4) {
    return vec4f(vec2f(half_power((words.x >> (8u * (g & 3u))) & 255u)), vec2f());
  }
  return k_scale(words, g % 8u).xxyy;
}

// Codes of fewer bits as words of nibbles.
fn spread(words: vec2u, upper: u32) -> vec4u {
  let pairs = vec4u(words.x, words.x >> 2u, words.y, words.y >> 2u) & vec4u(0x33333333u);
  if (FORM == Q3_K) {
    return pairs | (((vec4u(upper) >> vec4u(0u, 1u, 2u, 3u)) & vec4u(0x11111111u)) << vec4u(2u));
  }
  return pairs;
}

fn unpack(packed: Packed, g: u32) -> Group {
  let scale = scale_of(packed.scale, g);
  var a = packed.a;
  if (PAIRS) {
    a = spread(packed.a.xy, packed.high.x);
  }
  return Group(a, packed.b, packed.high, scale.xy, scale.zw);
}

fn load_group(row: u32, g: u32, cols: u32) -> Group {
  return unpack(load_packed(row, g, cols), g);
}

// Vec4 i (i < 8) of a group of a dense row, zero beyond a short last group.
fn dense(group: Group, i: u32) -> vec4f {
  let index = group.a.x + i;
  let four = select(vec4u(), codes[select(index / 2u, index, FORM == F32)], i < group.a.y);
  if (FORM == F32) {
    return bitcast<vec4f>(four);
  }
  let pair = select(four.xy, four.zw, (index & 1u) == 1u);
  if (FORM == BF16) {
    return bitcast<vec4f>(vec4u(pair.x << 16u, pair.x, pair.y << 16u, pair.y) &
      vec4u(0xffff0000u));
  }
  return vec4f(half(pair.x & 0xffffu), half(pair.x >> 16u), half(pair.y & 0xffffu),
    half(pair.y >> 16u));
}

// What the codebook has for four nibbles, plus 128.
fn looked_up(code: vec4u) -> vec4u {
  let odd = (code & vec4u(4u)) != vec4u();
  let first = select(vec4u(CODEBOOK.x), vec4u(CODEBOOK.y), odd);
  let second = select(vec4u(CODEBOOK.z), vec4u(CODEBOOK.w), odd);
  let word = select(first, second, code > vec4u(7u));
  return (word >> (8u * (code & vec4u(3u)))) & vec4u(255u);
}

// Twice what four nibbles are as E2M1. Their exponent and mantissa, as those of a float, make h, which is right
// from 2 on; below, where E2M1 has no hidden bit, 2 h - 2 is.
fn twice_e2m1(code: vec4u) -> vec4f {
  let sign = (code & vec4u(8u)) << vec4u(28u);
  let h = bitcast<vec4f>((((code & vec4u(7u)) << vec4u(22u)) + vec4u(0x3f800000u)) | sign);
  let two = bitcast<vec4f>(sign | vec4u(0x40000000u));
  return h + (clamp(h, vec4f(-2.0), vec4f(2.0)) - two);
}

// The codes of four columns: nibbles (the low ones of each byte of `word`) with their high bits, or what
// stands for them.
fn values(word: u32, upper: u32) -> vec4f {
  var code = (vec4u(word) >> vec4u(0u, 8u, 16u, 24u)) & vec4u(15u);
  if (FORM == MXFP4) {
    return twice_e2m1(code);
  }
  if (FORM == Q5_0 || FORM == Q5_1 || FORM == Q5_K) {
    code |= (vec4u(upper << 4u) >> vec4u(0u, 1u, 2u, 3u)) & vec4u(16u);
  } else if (FORM == Q6_K) {
    code |= (vec4u(upper << 4u) >> vec4u(0u, 2u, 4u, 6u)) & vec4u(48u);
  }
  // Set as the mantissa of 2^23, a code becomes a float without a conversion, which GPUs do slowly.
  var offset = 0.0;
  if (FORM == Q4_0) {
    offset = 8.0;
  } else if (FORM == Q5_0) {
    offset = 16.0;
  } else if (FORM == Q6_K) {
    offset = 32.0;
  } else if (FORM == Q3_K) {
    offset = 4.0;
  } else if (FORM == IQ4_NL) {
    code = looked_up(code);
    offset = 128.0;
  }
  return bitcast<vec4f>(code | vec4u(0x4b000000u)) - (8388608.0 + offset);
}

// 16 columns: 4i .. 4i+3 of half a group in vi. Indices are written out, since CPU adapters keep what is
// indexed by a variable in memory; products of rows and of tokens are not, since a compiler takes many times
// as long for several copies of them.
struct Half {
  v0: vec4f,
  v1: vec4f,
  v2: vec4f,
  v3: vec4f,
}

fn nibbles(words: vec4u, upper: u32, step: u32, scale: f32, minimum: f32) -> Half {
  return Half(
    scale * values(words.x, upper) - minimum,
    scale * values(words.y, upper >> step) - minimum,
    scale * values(words.z, upper >> (2u * step)) - minimum,
    scale * values(words.w, upper >> (3u * step)) - minimum,
  );
}

fn bytes(words: vec4u, scale: f32) -> Half {
  return Half(
    scale * signed_bytes(words.x),
    scale * signed_bytes(words.y),
    scale * signed_bytes(words.z),
    scale * signed_bytes(words.w),
  );
}

// Weights of columns 16h .. 16h + 15 of a group.
fn half_of(group: Group, h: u32) -> Half {
  if (FORM < Q4_0) {
    let i = 4u * h;
    return Half(dense(group, i), dense(group, i + 1u), dense(group, i + 2u), dense(group, i + 3u));
  }
  let scale = select(group.scale.x, group.scale.y, h == 1u);
  if (FORM == Q8_0) {
    return bytes(select(group.a, group.b, h == 1u), scale);
  }
  let words = group.a >> vec4u(4u * h);
  let minimum = select(group.minimum.x, group.minimum.y, h == 1u);
  if (FORM == Q6_K) {
    return nibbles(words, select(group.high.x, group.high.y, h == 1u), 8u, scale, minimum);
  }
  return nibbles(words, group.high.x >> (16u * h), 4u, scale, minimum);
}

// Products of 16 weights and 16 activations, in four parts; `total` adds the parts up.
fn multiply(a: Half, b: Half) -> vec4f {
  return a.v0 * b.v0 + a.v1 * b.v1 + a.v2 * b.v2 + a.v3 * b.v3;
}

fn total(parts: vec4f) -> f32 {
  return parts.x + parts.y + parts.z + parts.w;
}

// A group's weights times 32 activations, of which a has the first half and b the second; `sum` is
// what the activations add up to, but for Q2_K, which takes the sum of each half. Scale and minimum are
// applied once, after the codes' products.
fn group_product(group: Group, a: Half, b: Half, sum: f32) -> f32 {
  if (FORM < Q4_0) {
    return total(multiply(half_of(group, 0u), a) + multiply(half_of(group, 1u), b));
  }
  var plain = group;
  plain.scale = vec2f(1.0);
  plain.minimum = vec2f();
  var less = group.minimum.x * sum;
  if (FORM == Q2_K) {
    less = dot(group.minimum, vec2f(total(a.v0 + a.v1 + a.v2 + a.v3), total(b.v0 + b.v1 + b.v2 + b.v3)));
  }
  return group.scale.x * total(multiply(half_of(plain, 0u), a)) +
    group.scale.y * total(multiply(half_of(plain, 1u), b)) - less;
}

// out[t, out0 + row0 + r] = Σ_c W[r, c] · x[t, c] for tokens t < count and rows r of this slice, or
// out[t, out0 + r] = act(gate) · up of pairs of rows (see activation.wgsl).
// uses: types
// uses: dequantize
// uses: state
// uses: activation
// uses: rows
// uses: matmul_common
//
// x [batch, x_stride] f32, out [batch, out_stride] f32. A thread computes 4 rows × 8
// tokens: each unpacked weight serves 8 tokens. A workgroup of 32 × 2 threads: 128 rows × 16 tokens.

struct Rows {
  r0: Half,
  r1: Half,
  r2: Half,
  r3: Half,
}

// A token's sums over the 32 columns of a group of four rows, of which a and b are the halves.
fn sums_of(a: Rows, b: Rows, base: u32, at: u32) -> vec4f {
  let v = load_half(base, at);
  let w = load_half(base, at + 4u);
  return vec4f(
    total(multiply(a.r0, v) + multiply(b.r0, w)), total(multiply(a.r1, v) + multiply(b.r1, w)),
    total(multiply(a.r2, v) + multiply(b.r2, w)), total(multiply(a.r3, v) + multiply(b.r3, w)));
}

fn store_four(t: u32, row: u32, sums: vec4f) {
  store(t, row, sums.xy);
  store(t, row + 2u, sums.zw);
}

@compute @workgroup_size(32, 2)
fn main(
  @builtin(global_invocation_id) id: vec3u,
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(local_invocation_id) local: vec3u,
) {
  let span = take_tile(workgroup.y, 16u);
  let row = id.x * 4u;
  let t = span.x + local.y * 8u;
  if (row >= params.rows || t >= span.y) {
    return;
  }
  let rows = vec4u(row_of(row), row_of(row + 1u), row_of(row + 2u), row_of(row + 3u));
  var bases: array<u32, 8>;
  for (var i = 0u; i < 8u; i++) {
    bases[i] = x_base(t + i);
  }
  var sums: array<vec4f, 8>;
  let groups = groups_of(params.cols);
  for (var g = 0u; g < groups; g++) {
    let group0 = load_group(rows.x, g, params.cols);
    let group1 = load_group(rows.y, g, params.cols);
    let group2 = load_group(rows.z, g, params.cols);
    let group3 = load_group(rows.w, g, params.cols);
    let a = Rows(half_of(group0, 0u), half_of(group1, 0u), half_of(group2, 0u), half_of(group3, 0u));
    let b = Rows(half_of(group0, 1u), half_of(group1, 1u), half_of(group2, 1u), half_of(group3, 1u));
    for (var i = 0u; i < 8u; i++) {
      sums[i] += sums_of(a, b, bases[i], 8u * g);
    }
  }
  for (var i = 0u; i < 8u; i++) {
    store_four(t + i, row, sums[i]);
  }
}

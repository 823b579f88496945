// out[t, out0 + row0 + r] = Σ_c W[r, c] · x[t, c] for tokens t < count and rows r of this slice, or
// out[t, out0 + r] = act(gate) · up of pairs of rows (see activation.wgsl).
// uses: types
// uses: dequantize
// uses: state
// uses: activation
// uses: rows
// uses: matmul_common
//
// x [batch, x_stride] f32, out [batch, out_stride] f32. A thread computes 4 rows × 8 tokens in
// registers: each unpacked weight serves 8 tokens. A workgroup of 32 × 2 threads: 128 rows × 16
// tokens.

struct Rows {
  r0: Half,
  r1: Half,
  r2: Half,
  r3: Half,
}

// A token's sums over 16 columns of four rows.
fn sums_of(rows: Rows, base: u32, at: u32) -> vec4f {
  let v = load_half(base, at);
  return vec4f(total(multiply(rows.r0, v)), total(multiply(rows.r1, v)),
    total(multiply(rows.r2, v)), total(multiply(rows.r3, v)));
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
  let base = vec4u(x_base(t), x_base(t + 1u), x_base(t + 2u), x_base(t + 3u));
  let base4 = vec4u(x_base(t + 4u), x_base(t + 5u), x_base(t + 6u), x_base(t + 7u));
  var sums0 = vec4f(); // of the first token, for each row
  var sums1 = vec4f();
  var sums2 = vec4f();
  var sums3 = vec4f();
  var sums4 = vec4f();
  var sums5 = vec4f();
  var sums6 = vec4f();
  var sums7 = vec4f();
  let groups = groups_of(params.cols);
  for (var g = 0u; g < groups; g++) {
    let group0 = load_group(rows.x, g, params.cols);
    let group1 = load_group(rows.y, g, params.cols);
    let group2 = load_group(rows.z, g, params.cols);
    let group3 = load_group(rows.w, g, params.cols);
    let a = Rows(first_half(group0), first_half(group1), first_half(group2), first_half(group3));
    sums0 += sums_of(a, base.x, 8u * g);
    sums1 += sums_of(a, base.y, 8u * g);
    sums2 += sums_of(a, base.z, 8u * g);
    sums3 += sums_of(a, base.w, 8u * g);
    sums4 += sums_of(a, base4.x, 8u * g);
    sums5 += sums_of(a, base4.y, 8u * g);
    sums6 += sums_of(a, base4.z, 8u * g);
    sums7 += sums_of(a, base4.w, 8u * g);
    let b = Rows(second_half(group0), second_half(group1), second_half(group2),
      second_half(group3));
    sums0 += sums_of(b, base.x, 8u * g + 4u);
    sums1 += sums_of(b, base.y, 8u * g + 4u);
    sums2 += sums_of(b, base.z, 8u * g + 4u);
    sums3 += sums_of(b, base.w, 8u * g + 4u);
    sums4 += sums_of(b, base4.x, 8u * g + 4u);
    sums5 += sums_of(b, base4.y, 8u * g + 4u);
    sums6 += sums_of(b, base4.z, 8u * g + 4u);
    sums7 += sums_of(b, base4.w, 8u * g + 4u);
  }
  store_four(t, row, sums0);
  store_four(t + 1u, row, sums1);
  store_four(t + 2u, row, sums2);
  store_four(t + 3u, row, sums3);
  store_four(t + 4u, row, sums4);
  store_four(t + 5u, row, sums5);
  store_four(t + 6u, row, sums6);
  store_four(t + 7u, row, sums7);
}

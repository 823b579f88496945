// out[out0 + row0 + r] = Σ_c W[r, c] · x[t, c] for one token: t = last ? count - 1 : 0.
// uses: planes
// uses: state
// uses: product
//
// x [batch, x_stride] f32, out [.., out_stride] f32, of which row 0 is written. A thread computes 4
// rows, a workgroup 128: no workgroup memory and no subgroups, so that it runs everywhere.

fn store(r: u32, sums: vec4f) {
  if (r < params.rows) {
    out[params.out0 + params.row0 + r] = total(sums);
  }
}

@compute @workgroup_size(32)
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) grid: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let row = ((workgroup.y * grid.x + workgroup.x) * 32u + lane) * 4u;
  if (row >= params.rows) {
    return;
  }
  let base = token() * (params.x_stride / 4u);
  let groups = groups_of(params.cols);
  var sums0 = vec4f();
  var sums1 = vec4f();
  var sums2 = vec4f();
  var sums3 = vec4f();
  for (var g = 0u; g < groups; g++) {
    let a = load_half(base, 8u * g);
    let b = load_half(base, 8u * g + 4u);
    sums0 += products(row, g, a, b);
    sums1 += products(row + 1u, g, a, b);
    sums2 += products(row + 2u, g, a, b);
    sums3 += products(row + 3u, g, a, b);
  }
  store(row, sums0);
  store(row + 1u, sums1);
  store(row + 2u, sums2);
  store(row + 3u, sums3);
}

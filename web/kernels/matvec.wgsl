// out[out0 + row0 + r] = Σ_c W[r, c] · v[c], or act(gate) · up of pairs of rows; v is one token's
// activations, with norms folded in (see vector.wgsl).
// uses: planes
// uses: state
// uses: vector
//
// A thread computes 4 rows, a workgroup 128: no subgroups, so that it runs everywhere, and little
// waiting, which CPUs that play a GPU do badly.

var<workgroup> squares: array<f32, 64>;

fn total_of(value: f32, index: u32, at: u32) -> f32 {
  squares[at + index] = value;
  workgroupBarrier();
  var whole = 0.0;
  for (var i = 0u; i < 32u; i++) {
    whole += squares[at + i];
  }
  return whole;
}

fn product(row: u32, g: u32, a: Half, b: Half, sum: f32) -> f32 {
  return group_product(load_group(row, g, COLS), a, b, sum);
}

@compute @workgroup_size(32)
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) grid: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let number = workgroup.y * grid.x + workgroup.x;
  stage(lane, 32u, number == 0u);
  let r = (number * 32u + lane) * 4u;
  if (r >= params.rows) {
    return;
  }
  let rows = vec4u(row_of(r), row_of(r + 1u), row_of(r + 2u), row_of(r + 3u));
  var sums = vec4f();
  for (var g = 0u; g < groups_of(COLS); g++) {
    let a = staged_half(g, 0u);
    let b = staged_half(g, 1u);
    let sum = sum_of(a) + sum_of(b);
    sums += vec4f(product(rows.x, g, a, b, sum), product(rows.y, g, a, b, sum),
      product(rows.z, g, a, b, sum), product(rows.w, g, a, b, sum));
  }
  store_two(r, sums.xy);
  store_two(r + 2u, sums.zw);
}

// out[out0 + row0 + r] = Σ_c W[r, c] · v[c], or act(gate) · up of pairs of rows; v is one token's
// activations, with norms folded in (see matvec_common.wgsl).
// uses: types
// uses: dequantize
// uses: state
// uses: grid
// uses: activation
// uses: rows
// uses: matvec_common
// uses: products_f32
//
// A thread computes 4 rows, a workgroup 128: little waiting, which CPUs that play a GPU do badly.

const THREADS = 32u;
const MOST_TURNS = 64u; // 8,192 columns

var<workgroup> squares: array<f32, 64>;

fn total_of(value: f32, index: u32, at: u32) -> f32 {
  squares[32u * at + index] = value;
  workgroupBarrier();
  var whole = 0.0;
  for (var i = 0u; i < 32u; i++) {
    whole += squares[32u * at + i];
  }
  return whole;
}

@compute @workgroup_size(32)
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) grid: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let number = unfolded(workgroup.xy, grid.x);
  if (!take_slot(workgroup.z)) {
    return;
  }
  stage(lane, number == 0u);
  let r = (number * 32u + lane) * 4u;
  if (r >= params.rows) {
    return;
  }
  var sums = vec4f();
  for (var g = 0u; g < groups_of(COLS); g++) {
    let v = activations(g, 0u);
    for (var i = 0u; i < 4u; i++) {
      sums += only(i, product(load_group(row_of(r + i), g, COLS), v));
    }
  }
  store_two(0u, r, sums.xy);
  store_two(0u, r + 2u, sums.zw);
}

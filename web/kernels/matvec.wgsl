// out[out0 + row0 + r] = Σ_c W[r, c] · x[t, c] for one token: t = last ? count - 1 : 0.
// uses: planes
//
// x [batch, x_stride] f32, out [.., out_stride] f32, of which row 0 is written. A thread computes a
// row, a workgroup 32: no workgroup memory and no subgroups, so that it runs everywhere.

struct Params {
  rows: u32,
  cols: u32,
  row0: u32,
  x_stride: u32,
  out_stride: u32,
  out0: u32,
  last: u32,
}

struct State {
  position: u32,
  count: u32,
  step: u32,
  seed: u32,
}

@group(0) @binding(3) var<storage, read> x: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;
@group(0) @binding(5) var<storage, read> state: State;
@group(0) @binding(6) var<uniform> params: Params;

fn load_x(base: u32, at: u32) -> vec4f {
  if (FORM < 3u && at >= (params.cols + 3u) / 4u) {
    return vec4f(); // beyond a short last group
  }
  return x[base + at];
}

@compute @workgroup_size(32)
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) grid: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let row = (workgroup.y * grid.x + workgroup.x) * 32u + lane;
  if (row >= params.rows) {
    return;
  }
  let base = select(0u, state.count - 1u, params.last == 1u) * (params.x_stride / 4u);
  let groups = groups_of(params.cols);
  var sums = vec4f();
  for (var g = 0u; g < groups; g++) {
    let group = load_group(row, g, params.cols);
    for (var w = 0u; w < 4u; w++) {
      sums += first_half(group, w) * load_x(base, 8u * g + w);
      sums += second_half(group, w) * load_x(base, 8u * g + w + 4u);
    }
  }
  out[params.out0 + params.row0 + row] = sums.x + sums.y + sums.z + sums.w;
}

// out[t, i] = act(gate[t, i]) · up[t, i], or what else activation.wgsl makes of the two; for gates and
// ups that were computed apart.
// uses: state
// uses: grid
// uses: activation
//
// gate_up [batch, in_stride] f32: gate from column 0, up from column up0; out [batch, out_stride].
// Strides and up0 are multiples of 4. A token has `each` rows: one, or one for each expert that it uses.
// A thread does a vec4; x runs over them, y over rows.

struct Params {
  ffn: u32,
  in_stride: u32,
  up0: u32,
  out_stride: u32,
  each: u32,
}

@group(0) @binding(0) var<storage, read> gate_up: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> out: array<vec4f>;
@group(0) @binding(2) var<uniform> state: State;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(
  @builtin(global_invocation_id) id: vec3u,
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) grid: vec3u,
) {
  let row = unfolded(workgroup.yz, grid.y);
  if (row >= state.count * params.each || id.x >= (params.ffn + 3u) / 4u) {
    return;
  }
  let at = row * (params.in_stride / 4u) + id.x;
  out[row * (params.out_stride / 4u) + id.x] = gated(gate_up[at], gate_up[at + params.up0 / 4u]);
}

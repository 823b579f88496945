// out = x, of what is kept beside a batch: the recurrent state, or a copy of it. Nothing while the plan is halted.
// uses: state
// uses: grid
//
// x, out [size] in vec4s; a thread does one.

struct Params {
  size: u32,
}

@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> out: array<vec4f>;
@group(0) @binding(2) var<uniform> state: State;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(256)
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) grid: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let i = 256u * unfolded(workgroup.xy, grid.x) + lane;
  if (state.halted == 0u && i < params.size) {
    out[i] = x[i];
  }
}

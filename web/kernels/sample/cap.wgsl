// logits = most · tanh(logits / most), in place: what keeps them within ±most.
// uses: state
// uses: grid
//
// logits [size]: one row, or several with what lies between them. A thread does one.

struct Params {
  size: u32,
  most: f32,
}

@group(0) @binding(0) var<storage, read_write> logits: array<f32>;
@group(0) @binding(1) var<uniform> state: State;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(256)
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) grid: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let i = 256u * unfolded(workgroup.xy, grid.x) + lane;
  if (state.count == 0u || i >= params.size) {
    return;
  }
  // By its bits, since compilers take floats to be finite; the answer ends where it is not.
  let is_finite = (bitcast<u32>(logits[i]) & 0x7f800000u) != 0x7f800000u;
  if (is_finite) {
    logits[i] = params.most * tanh(clamp(logits[i] / params.most, -10.0, 10.0)); // tanh(10) is 1
  }
}

// out[t] = Σ_j topk_weights[t · used + j] · x[t · used + j]: what the experts that a token uses give together.
// uses: state
// uses: grid
//
// x [batch · used, stride] f32, topk_weights [batch · used], out [batch, stride]; stride is a multiple of 4. A
// thread does a vec4; x runs over them, y over tokens.

struct Params {
  stride: u32,
  used: u32,
}

@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read> topk_weights: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<vec4f>;
@group(0) @binding(3) var<uniform> state: State;
@group(0) @binding(4) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(
  @builtin(global_invocation_id) id: vec3u,
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) grid: vec3u,
) {
  let t = unfolded(workgroup.yz, grid.y);
  let width = params.stride / 4u;
  if (t >= state.count || id.x >= width) {
    return;
  }
  var sum = vec4f();
  for (var j = 0u; j < params.used; j++) {
    let slot = t * params.used + j;
    sum += topk_weights[slot] * x[slot * width + id.x];
  }
  out[t * width + id.x] = sum;
}

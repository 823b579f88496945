// out[t] = Σ_j topk_weights[t · used + j] · x[t · used + j]: what the experts that a token uses give together.
// With BESIDE, σ(gates[t, gate]) · beside[t] is added (1), or beside[t] alone (2): what a dense FFN gives,
// through its gate or without one.
// uses: state
// uses: grid
//
// x [batch · used, stride] f32, topk_weights [batch · used], beside and out [batch, stride], gates
// [batch, routes]; stride is a multiple of 4. A thread does a vec4; x runs over them, y over tokens.

override BESIDE: u32;

struct Params {
  stride: u32,
  used: u32,
  routes: u32,
  gate: u32,
}

@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read> topk_weights: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<vec4f>;
@group(0) @binding(3) var<uniform> state: State;
@group(0) @binding(4) var<uniform> params: Params;
@group(0) @binding(5) var<storage, read> beside: array<vec4f>;
@group(0) @binding(6) var<storage, read> gates: array<f32>;

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
  if (BESIDE == 1u) {
    let gate = max(gates[t * params.routes + params.gate], -80.0); // below, exp would overflow
    sum += beside[t * width + id.x] / (1.0 + exp(-gate));
  } else if (BESIDE == 2u) {
    sum += beside[t * width + id.x];
  }
  out[t * width + id.x] = sum;
}

// out[t, i] = xIELU(x[t, i]), for an FFN without gates: a · x² + β · x where x > 0, else
// (expm1(min(x, eps)) - x) · b + β · x.
// uses: state
// uses: grid
//
// x [batch, stride] f32, out likewise; stride is a multiple of 4, pads are zero. numbers [4]: a, b, β, eps.
// A thread does a vec4; x runs over them, y over tokens.

struct Params {
  ffn: u32,
  stride: u32,
}

@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read> numbers: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> out: array<vec4f>;
@group(0) @binding(3) var<uniform> state: State;
@group(0) @binding(4) var<uniform> params: Params;

// exp(v) - 1 for v <= 0: by its series near 0, where the difference would lose digits.
fn expm1(v: vec4f) -> vec4f {
  let series = v * (1.0 + v / 2.0 * (1.0 + v / 3.0 * (1.0 + v / 4.0 * (1.0 + v / 5.0))));
  return select(exp(max(v, vec4f(-80.0))) - 1.0, series, v > vec4f(-0.125));
}

@compute @workgroup_size(64)
fn main(
  @builtin(global_invocation_id) id: vec3u,
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) grid: vec3u,
) {
  let t = unfolded(workgroup.yz, grid.y);
  if (t >= state.count || id.x >= (params.ffn + 3u) / 4u) {
    return;
  }
  let at = t * (params.stride / 4u) + id.x;
  let v = x[at];
  let own = numbers[0];
  let below = (expm1(min(v, vec4f(own.w))) - v) * own.y;
  let value = select(below, own.x * v * v, v > vec4f()) + own.z * v;
  // xIELU(0) is not 0, and pads stay that.
  let is_real = vec4u(4u * id.x) + vec4u(0u, 1u, 2u, 3u) < vec4u(params.ffn);
  out[at] = select(vec4f(), value, is_real);
}

// out[t, i] = act(gate[t, i]) · up[t, i]; act is silu (ACTIVATION 0) or gelu with tanh (1).
// uses: state
//
// gate_up [batch, in_stride] f32: gate from column 0, up from column up0; out [batch, out_stride].
// Strides and up0 are multiples of 4. A thread does a vec4; x runs over them, y over tokens.

override ACTIVATION: u32;

struct Params {
  ffn: u32,
  in_stride: u32,
  up0: u32,
  out_stride: u32,
}

@group(0) @binding(0) var<storage, read> gate_up: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> out: array<vec4f>;
@group(0) @binding(2) var<storage, read> state: State;
@group(0) @binding(3) var<uniform> params: Params;

fn activate(x: vec4f) -> vec4f {
  if (ACTIVATION == 0u) {
    return x / (1.0 + exp(min(-x, vec4f(80.0)))); // exp(80) is finite, and the quotient is 0
  }
  let inner = 0.7978845608028654 * (x + 0.044715 * x * x * x); // sqrt(2 / pi)
  return 0.5 * x * (1.0 + tanh(clamp(inner, vec4f(-10.0), vec4f(10.0)))); // tanh(10) is 1 in f32
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.y >= state.count || id.x >= (params.ffn + 3u) / 4u) {
    return;
  }
  let at = id.y * (params.in_stride / 4u) + id.x;
  out[id.y * (params.out_stride / 4u) + id.x] =
    activate(gate_up[at]) * gate_up[at + params.up0 / 4u];
}

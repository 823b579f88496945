// What becomes of a gate and its up. Put before kernels whose header says "uses: activation". In those
// that multiply a matrix, with an activation, rows are pairs (see rows.wgsl).

override ACTIVATION: u32; // 0: none

const SILU = 1u;
const GELU_TANH = 2u;
const SWIGLU_CLAMPED = 3u;

const MOST_GATE = 7.0; // of GPT-OSS, as the factor of its sigmoid
const STEEPNESS = 1.702;

// x times its sigmoid at `steepness`: exp(80) is finite, and the quotient then is 0.
fn swish(x: vec4f, steepness: f32) -> vec4f {
  return x / (1.0 + exp(min(-steepness * x, vec4f(80.0))));
}

fn gated(gate: vec4f, up: vec4f) -> vec4f {
  if (ACTIVATION == SILU) {
    return swish(gate, 1.0) * up;
  }
  if (ACTIVATION == SWIGLU_CLAMPED) {
    return swish(min(gate, vec4f(MOST_GATE)), STEEPNESS) *
      (clamp(up, vec4f(-MOST_GATE), vec4f(MOST_GATE)) + 1.0);
  }
  let inner = 0.7978845608028654 * (gate + 0.044715 * gate * gate * gate); // sqrt(2 / pi)
  // tanh(10) is 1 in f32
  return 0.5 * gate * (1.0 + tanh(clamp(inner, vec4f(-10.0), vec4f(10.0)))) * up;
}

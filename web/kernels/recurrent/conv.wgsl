// A causal convolution of each channel, with a state of the TAPS - 1 inputs before the batch:
// y[t, c] = Σ_j filters[c, j] · u[t - TAPS + 1 + j, c], inputs before position 0 being zero.
// With GATED 1, a row of x is B, C, u' of `channels` each, one after another: u = B · u', out = C · y.
// Else it begins with the inputs, of a row that may be longer, and out = silu(y).
// uses: state
// uses: grid
//
// x [batch, in_stride], out [batch, out_stride] f32; filters [channels, TAPS]; recent [TAPS - 1, channels],
// the input of position p in row p % (TAPS - 1). Channels and strides are multiples of 4.
// A thread does four channels (x) of RUN tokens (y). The first run reads the state, and alone changes it:
// at its end it has read what it needs, and nobody else looks.

override TAPS: u32;
override GATED: u32;

const RUN = 16u;

struct Params {
  channels: u32,
  in_stride: u32,
  out_stride: u32,
}

@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read> filters: array<f32>;
@group(0) @binding(2) var<storage, read_write> recent: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> out: array<vec4f>;
@group(0) @binding(4) var<uniform> state: State;
@group(0) @binding(5) var<uniform> params: Params;

// Where four channels of a position's input are in the state.
fn place_of(position: u32, four: u32) -> u32 {
  return position % (TAPS - 1u) * (params.channels / 4u) + four;
}

// The input of token t of the batch.
fn input_of(t: u32, four: u32) -> vec4f {
  let at = t * (params.in_stride / 4u) + four;
  if (GATED == 1u) {
    return x[at] * x[at + 2u * (params.channels / 4u)];
  }
  return x[at];
}

// That of the token `back` before it, which may have been before the batch.
fn input_before(t: u32, back: u32, four: u32) -> vec4f {
  if (back <= t) {
    return input_of(t - back, four);
  }
  if (back > state.position + t) {
    return vec4f();
  }
  return recent[place_of(state.position + t - back, four)];
}

@compute @workgroup_size(64)
fn main(
  @builtin(global_invocation_id) id: vec3u,
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) grid: vec3u,
) {
  let four = id.x;
  let first = RUN * unfolded(workgroup.yz, grid.y);
  if (first >= state.count || four >= params.channels / 4u) {
    return;
  }
  for (var t = first; t < min(first + RUN, state.count); t++) {
    var y = vec4f();
    for (var tap = 0u; tap < TAPS; tap++) {
      let at = 4u * four * TAPS + tap;
      let weights = vec4f(filters[at], filters[at + TAPS], filters[at + 2u * TAPS], filters[at + 3u * TAPS]);
      y += weights * input_before(t, TAPS - 1u - tap, four);
    }
    if (GATED == 1u) {
      y *= x[t * (params.in_stride / 4u) + params.channels / 4u + four];
    } else {
      y /= 1.0 + exp(min(-y, vec4f(80.0))); // which is finite
    }
    out[t * (params.out_stride / 4u) + four] = y;
  }
  if (first > 0u) {
    return;
  }
  for (var t = state.count - min(state.count, TAPS - 1u); t < state.count; t++) {
    recent[place_of(state.position + t, four)] = input_of(t, four);
  }
}

// What the matmuls share: bindings, parameters, activations in vec4s. Put before those whose header says
// "uses: product"; it needs planes.wgsl, activation.wgsl and state.wgsl.

override BIAS: u32;

struct Params {
  rows: u32, // of this slice
  cols: u32,
  row0: u32, // its first row in the whole matrix
  x_stride: u32, // elements a token
  out_stride: u32,
  out0: u32, // where the matrix's first row goes in a token's output
}

@group(0) @binding(3) var<storage, read> x: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;
@group(0) @binding(5) var<storage, read> state: State;
@group(0) @binding(6) var<uniform> params: Params;
@group(0) @binding(7) var<storage, read> bias: array<f32>; // of the whole matrix's rows

fn load_x(base: u32, at: u32) -> vec4f {
  if (FORM < 3u && at >= (params.cols + 3u) / 4u) {
    return vec4f(); // beyond a short last group
  }
  return x[base + at];
}

// 16 activations from vec4 `at` of a token's row on.
fn load_half(base: u32, at: u32) -> Half {
  return Half(load_x(base, at), load_x(base, at + 1u), load_x(base, at + 2u), load_x(base, at + 3u));
}

fn row_of(r: u32) -> u32 {
  return row_of_rows(r, params.rows);
}

fn biased(r: u32, sum: f32) -> f32 {
  if (BIAS == 1u) {
    return sum + bias[params.row0 + r];
  }
  return sum;
}

// Stores what token t has of rows r and r + 1, if there are such.
fn store_two(t: u32, r: u32, sums: vec2f) {
  if (t >= state.count) {
    return;
  }
  let at = t * params.out_stride + params.out0;
  if (ACTIVATION > 0u) {
    if (r < params.rows) {
      out[at + r / 2u] = activate(vec4f(sums.x)).x * sums.y;
    }
    return;
  }
  if (r < params.rows) {
    out[at + params.row0 + r] = biased(r, sums.x);
  }
  if (r + 1u < params.rows) {
    out[at + params.row0 + r + 1u] = biased(r + 1u, sums.y);
  }
}

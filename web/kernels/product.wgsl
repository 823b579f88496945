// What matmul and both matvecs share: bindings, parameters, activations in vec4s. Put before those
// whose header says "uses: product"; it needs planes.wgsl and state.wgsl.

struct Params {
  rows: u32, // of this slice
  cols: u32,
  row0: u32, // its first row in the whole matrix
  x_stride: u32, // elements a token
  out_stride: u32,
  out0: u32, // where the matrix's first row goes in a token's output
  last: u32, // 1: matvec takes the batch's last token, 0: its first
}

@group(0) @binding(3) var<storage, read> x: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;
@group(0) @binding(5) var<storage, read> state: State;
@group(0) @binding(6) var<uniform> params: Params;

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

// Products of row r with 32 columns, in four parts.
fn products(r: u32, g: u32, a: Half, b: Half) -> vec4f {
  let group = load_group(min(r, params.rows - 1u), g, params.cols);
  return multiply(first_half(group), a) + multiply(second_half(group), b);
}

// The token that matvec multiplies.
fn token() -> u32 {
  return select(0u, state.count - 1u, params.last == 1u);
}

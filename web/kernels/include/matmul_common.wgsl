// What the matmuls share: bindings, parameters, and which tokens a workgroup takes. Put before those whose
// header says "uses: matmul_common"; it needs dequantize.wgsl, activation.wgsl, rows.wgsl and state.wgsl.
//
// Numbers t are tokens of the batch; with EXPERTS they are places in `order`, which has the slots of all
// tokens (see rows.wgsl) by expert, and a workgroup takes one of `tiles`, which are cut by align.wgsl.

struct Params {
  rows: u32, // of this slice, or of an expert
  cols: u32,
  row0: u32, // the slice's first row in the whole matrix
  x_stride: u32, // elements a token
  out_stride: u32,
  out0: u32, // where the matrix's first row goes in a token's output
  experts: u32, // in this slice
  used: u32, // of them by a token
  addend0: u32,
  addend_stride: u32,
}

@group(0) @binding(3) var<storage, read> x: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;
@group(0) @binding(5) var<uniform> state: State;
@group(0) @binding(6) var<uniform> params: Params;
@group(0) @binding(7) var<storage, read> addend: array<f32>;
@group(0) @binding(8) var<storage, read> order: array<u32>;
@group(0) @binding(9) var<storage, read> tiles: array<vec4u>; // expert, first place, one past the last

var<private> past: u32; // one past the last number of this workgroup

// The first number, and one past the last, of tile y, each tile having up to `size` of them; none of an
// expert that is not in this slice.
fn take_tile(y: u32, size: u32) -> vec2u {
  var span = vec2u(y * size, state.count);
  if (EXPERTS > 0u) {
    let tile = tiles[y];
    // The tiles may be those of a batch before: align.wgsl makes none while the plan is halted.
    span = select(vec2u(), tile.yz, take_expert(tile.x) && state.count > 0u);
  }
  past = span.y;
  return span;
}

// The first vec4 in x of number t, or of the last one.
fn x_base(t: u32) -> u32 {
  var row = min(t, past - 1u);
  if (EXPERTS > 0u) {
    row = row_of_slot(order[row]);
  }
  return row * (params.x_stride / 4u);
}

fn load_x(base: u32, at: u32) -> vec4f {
  if (FORM < Q4_0 && at >= (params.cols + 3u) / 4u) {
    return vec4f(); // beyond a short last group
  }
  return x[base + at];
}

// 16 activations from vec4 `at` of a token's row on.
fn load_half(base: u32, at: u32) -> Half {
  return Half(load_x(base, at), load_x(base, at + 1u), load_x(base, at + 2u), load_x(base, at + 3u));
}

fn out_base(row: u32) -> u32 {
  return params.out0 + row * params.out_stride;
}

// Stores what number t has of rows r and r + 1, if there are such.
fn store(t: u32, r: u32, sums: vec2f) {
  if (t >= past) {
    return;
  }
  var row = t;
  if (EXPERTS > 0u) {
    row = order[t];
  }
  store_two(row, r, sums);
}

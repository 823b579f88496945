enable f16;
enable chromium_experimental_subgroup_matrix;
diagnostic(off, chromium.subgroup_matrix_uniformity);
// matmul.wgsl on matrix units: out[t, out0 + row0 + r] = Σ_c W[r, c] · x[t, c], products of f16, sums
// in f32.
// uses: types
// uses: dequantize
// uses: state
// uses: activation
// uses: rows
// uses: matmul_common
//
// A workgroup of 8 subgroups of 32 computes 32 · ROW_TILES rows × 64 · TOKEN_TILES tokens, 32 columns
// at a time: weights are unpacked, and activations copied, into workgroup memory as f16. A subgroup
// multiplies 16 · ROW_TILES rows (2 or 4 matrices) by 16 · TOKEN_TILES tokens (1 or 2 matrices). What
// the next 32 columns need is on its way from memory meanwhile. Activations are divided by 16, so
// that they stay within f16 up to a million, and the sums multiplied by it.

override ROW_TILES: u32;
override TOKEN_TILES: u32;

override ROWS = 32u * ROW_TILES;
override TOKENS = 64u * TOKEN_TILES;

const STRIDE = 40u; // of a row of 32 in workgroup memory: such that rows begin in different banks
const SIZE = 16u; // rows and columns of a matrix
const X_SCALE = 16.0;
const LARGEST = 65504.0; // in f16

alias Left = subgroup_matrix_left<f16, 16, 16>; // tokens × columns
alias Right = subgroup_matrix_right<f16, 16, 16>; // columns × rows
alias Sums = subgroup_matrix_result<f32, 16, 16>; // tokens × rows

// For the largest tile, since matrices cannot be loaded from arrays whose size is an override; and sixteen
// more than are used: a load is checked as if its last row were a whole stride long.
var<workgroup> tile_w: array<f16, 128u * STRIDE + SIZE>; // [ROWS, 32 columns]
var<workgroup> tile_x: array<f16, 128u * STRIDE + SIZE>; // [TOKENS, 32 columns]
var<workgroup> results: array<f32, 8u * SIZE * SIZE>; // a matrix a subgroup

// What a thread moves into the tiles: half a group of a row, and a vec4 each of up to four tokens. As it
// lies in memory: nothing is computed from it, and so nothing waits for it, before it is put there.
struct Carried {
  packed: Packed,
  x0: vec4f,
  x1: vec4f,
  x2: vec4f,
  x3: vec4f,
}

fn small(v: vec4f) -> vec4h {
  return vec4h(clamp(v, vec4f(-LARGEST), vec4f(LARGEST)));
}

// Vec4 index % 8 of group g of token t, which is a thread's own.
fn activations(t: u32, g: u32, index: u32) -> vec4f {
  return load_x(x_base(t + index / 8u), 8u * g + index % 8u);
}

fn carry(row0: u32, t0: u32, g: u32, index: u32) -> Carried {
  var carried: Carried;
  if (index < 2u * ROWS) {
    carried.packed = load_packed(row_of(row0 + index % ROWS), g, params.cols);
  }
  carried.x0 = activations(t0, g, index);
  carried.x1 = activations(t0 + 32u, g, index);
  if (TOKEN_TILES > 1u) {
    carried.x2 = activations(t0 + 64u, g, index);
    carried.x3 = activations(t0 + 96u, g, index);
  }
  return carried;
}

fn put_weights(at: u32, v: vec4h) {
  tile_w[at] = v.x;
  tile_w[at + 1u] = v.y;
  tile_w[at + 2u] = v.z;
  tile_w[at + 3u] = v.w;
}

fn put_activations(t: u32, index: u32, x: vec4f) {
  let v = small(x / X_SCALE);
  let at = (t + index / 8u) * STRIDE + 4u * (index % 8u);
  tile_x[at] = v.x;
  tile_x[at + 1u] = v.y;
  tile_x[at + 2u] = v.z;
  tile_x[at + 3u] = v.w;
}

// What was group g of its row.
fn put(carried: Carried, g: u32, index: u32) {
  if (index < 2u * ROWS) {
    let group = unpack(carried.packed, g);
    let part = half_of(group, index / ROWS);
    let at = (index % ROWS) * STRIDE + SIZE * (index / ROWS);
    put_weights(at, small(part.v0));
    put_weights(at + 4u, small(part.v1));
    put_weights(at + 8u, small(part.v2));
    put_weights(at + 12u, small(part.v3));
  }
  put_activations(0u, index, carried.x0);
  put_activations(32u, index, carried.x1);
  if (TOKEN_TILES > 1u) {
    put_activations(64u, index, carried.x2);
    put_activations(96u, index, carried.x3);
  }
}

fn left(token: u32, column: u32) -> Left {
  return subgroupMatrixLoad<Left>(&tile_x, token * STRIDE + column, false, STRIDE);
}

fn right(row: u32, column: u32) -> Right {
  return subgroupMatrixLoad<Right>(&tile_w, row * STRIDE + column, true, STRIDE);
}

// By way of workgroup memory, since a matrix at the edge may not be stored whole.
fn store_matrix(sums: Sums, token: u32, row: u32, subgroup: u32, lane: u32) {
  let start = subgroup * SIZE * SIZE;
  subgroupMatrixStore(&results, start, sums, false, SIZE); // row after row
  workgroupBarrier();
  for (var i = 2u * lane; i < SIZE * SIZE; i += 64u) {
    let two = X_SCALE * vec2f(results[start + i], results[start + i + 1u]);
    store(token + i / SIZE, row + i % SIZE, two);
  }
  workgroupBarrier();
}

@compute @workgroup_size(256)
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(local_invocation_index) index: u32,
) {
  let row0 = workgroup.x * ROWS;
  let span = take_tile(workgroup.y, TOKENS);
  let t0 = span.x;
  if (t0 >= span.y) {
    return;
  }
  let subgroup = index / 32u;
  let lane = index % 32u;
  let row = (subgroup % 2u) * SIZE * ROW_TILES; // of the subgroup, in the tile
  let token = (subgroup / 2u) * SIZE * TOKEN_TILES;
  var sums00: Sums;
  var sums01: Sums;
  var sums02: Sums;
  var sums03: Sums;
  var sums10: Sums;
  var sums11: Sums;
  var sums12: Sums;
  var sums13: Sums;
  let groups = groups_of(params.cols);
  var carried = carry(row0, t0, 0u, index);
  for (var g = 1u; g <= groups; g++) {
    put(carried, g - 1u, index);
    workgroupBarrier();
    carried = carry(row0, t0, min(g, groups - 1u), index);
    for (var column = 0u; column < 32u; column += SIZE) {
      let w0 = right(row, column);
      let w1 = right(row + SIZE, column);
      let x0 = left(token, column);
      sums00 = subgroupMatrixMultiplyAccumulate(x0, w0, sums00);
      sums01 = subgroupMatrixMultiplyAccumulate(x0, w1, sums01);
      if (TOKEN_TILES > 1u) {
        let x1 = left(token + SIZE, column);
        sums10 = subgroupMatrixMultiplyAccumulate(x1, w0, sums10);
        sums11 = subgroupMatrixMultiplyAccumulate(x1, w1, sums11);
      }
      if (ROW_TILES > 2u) {
        let w2 = right(row + 2u * SIZE, column);
        let w3 = right(row + 3u * SIZE, column);
        sums02 = subgroupMatrixMultiplyAccumulate(x0, w2, sums02);
        sums03 = subgroupMatrixMultiplyAccumulate(x0, w3, sums03);
        if (TOKEN_TILES > 1u) {
          let x1 = left(token + SIZE, column);
          sums12 = subgroupMatrixMultiplyAccumulate(x1, w2, sums12);
          sums13 = subgroupMatrixMultiplyAccumulate(x1, w3, sums13);
        }
      }
    }
    workgroupBarrier();
  }
  let t = t0 + token;
  let r = row0 + row;
  store_matrix(sums00, t, r, subgroup, lane);
  store_matrix(sums01, t, r + SIZE, subgroup, lane);
  if (ROW_TILES > 2u) {
    store_matrix(sums02, t, r + 2u * SIZE, subgroup, lane);
    store_matrix(sums03, t, r + 3u * SIZE, subgroup, lane);
  }
  if (TOKEN_TILES > 1u) {
    store_matrix(sums10, t + SIZE, r, subgroup, lane);
    store_matrix(sums11, t + SIZE, r + SIZE, subgroup, lane);
    if (ROW_TILES > 2u) {
      store_matrix(sums12, t + SIZE, r + 2u * SIZE, subgroup, lane);
      store_matrix(sums13, t + SIZE, r + 3u * SIZE, subgroup, lane);
    }
  }
}

// matmul.wgsl by tiles: out[t, out0 + row0 + r] = Σ_c W[r, c] · x[t, c]. Real is f32, or f16 for products
// and for sums of 8 of them; activations are then divided by 16, so that they stay within f16 up to a
// million.
// uses: types
// uses: dequantize
// uses: state
// uses: activation
// uses: rows
// uses: matmul_common
//
// A workgroup of 256 threads computes 64 · ROW_BLOCKS rows × 64 · TOKEN_BLOCKS tokens (1 or 2 each),
// 16 columns at a time: weights are unpacked, and activations copied, into workgroup memory, from
// where a thread multiplies 4 · ROW_BLOCKS rows by 4 · TOKEN_BLOCKS tokens in registers. What the
// next 16 columns need is on its way from memory meanwhile. Workgroup memory: 4 KiB a block, 2 of f16.

alias Real = f32;
alias Real4 = vec4<Real>;

override HALF: u32; // 1: Real is f16
override ROW_BLOCKS: u32;
override TOKEN_BLOCKS: u32;

override W_LANES = 16u * ROW_BLOCKS; // fours of rows
override X_LANES = 16u * TOKEN_BLOCKS; // fours of tokens

override SCALE = select(1.0, 16.0, HALF == 1u);
override LARGEST = select(3.4e38, 65504.0, HALF == 1u);

var<workgroup> tile_w: array<Real4, 16u * W_LANES>; // [16 columns, W_LANES] of four rows
var<workgroup> tile_x: array<Real4, 16u * X_LANES>; // [16 columns, X_LANES] of four tokens

// 4 × 4 numbers. As sums: a vec4 a token, over rows. As what goes into a tile: a vec4 a column.
struct Block {
  v0: Real4,
  v1: Real4,
  v2: Real4,
  v3: Real4,
}

struct Sums {
  v0: vec4f,
  v1: vec4f,
  v2: vec4f,
  v3: vec4f,
}

fn real(v: vec4f) -> Real4 {
  return Real4(clamp(v, vec4f(-LARGEST), vec4f(LARGEST)));
}

fn pick(words: vec4u, i: u32) -> u32 {
  return select(select(words.x, words.y, i == 1u), select(words.z, words.w, i == 3u), i > 1u);
}

// Weights of columns 32g + 4i .. 32g + 4i + 3 of a row, i < 8.
fn weights(row: u32, g: u32, i: u32) -> vec4f {
  let group = load_group(row_of(row), g, params.cols);
  if (FORM < Q4_0) {
    return dense(group, i);
  }
  let later = i >= 4u;
  let scale = select(group.scale.x, group.scale.y, later);
  if (FORM == Q8_0) {
    return scale * signed_bytes(select(pick(group.a, i), pick(group.b, i - 4u), later));
  }
  let word = pick(group.a, i % 4u) >> select(0u, 4u, later);
  if (FORM == Q6_K) {
    return scale * values(word, select(group.high.x, group.high.y, later) >> (8u * (i % 4u)));
  }
  return scale * values(word, group.high.x >> (4u * i)) - select(group.minimum.x, group.minimum.y, later);
}

fn transposed(a: vec4f, b: vec4f, c: vec4f, d: vec4f) -> Block {
  let columns = transpose(mat4x4f(a, b, c, d));
  return Block(real(columns[0]), real(columns[1]), real(columns[2]), real(columns[3]));
}

// Vec4 i (i < 8) of group g, of four rows.
fn carry_weights(row: u32, g: u32, i: u32) -> Block {
  return transposed(weights(row, g, i), weights(row + 1u, g, i), weights(row + 2u, g, i),
    weights(row + 3u, g, i));
}

fn activations(t: u32, at: u32) -> vec4f {
  return load_x(x_base(t), at) / SCALE;
}

fn carry_tokens(t: u32, g: u32, i: u32) -> Block {
  let at = 8u * g + i;
  return transposed(activations(t, at), activations(t + 1u, at), activations(t + 2u, at),
    activations(t + 3u, at));
}

// What this thread moves into the tiles for columns 16s .. 16s + 15: four columns of four rows, of
// four tokens, or nothing.
fn carry(row0: u32, t0: u32, s: u32, index: u32) -> Block {
  let g = s / 2u;
  let i = 4u * (s % 2u);
  if (index < 4u * W_LANES) {
    return carry_weights(row0 + 4u * (index % W_LANES), g, i + index / W_LANES);
  }
  let j = index - 4u * W_LANES;
  if (j < 4u * X_LANES) {
    return carry_tokens(t0 + 4u * (j % X_LANES), g, i + j / X_LANES);
  }
  return Block();
}

fn put(block: Block, index: u32) {
  if (index < 4u * W_LANES) {
    let at = 4u * (index / W_LANES) * W_LANES + index % W_LANES;
    tile_w[at] = block.v0;
    tile_w[at + W_LANES] = block.v1;
    tile_w[at + 2u * W_LANES] = block.v2;
    tile_w[at + 3u * W_LANES] = block.v3;
    return;
  }
  let j = index - 4u * W_LANES;
  if (j < 4u * X_LANES) {
    let at = 4u * (j / X_LANES) * X_LANES + j % X_LANES;
    tile_x[at] = block.v0;
    tile_x[at + X_LANES] = block.v1;
    tile_x[at + 2u * X_LANES] = block.v2;
    tile_x[at + 3u * X_LANES] = block.v3;
  }
}

fn add(sums: Block, w: Real4, x: Real4) -> Block {
  return Block(sums.v0 + x.x * w, sums.v1 + x.y * w, sums.v2 + x.z * w, sums.v3 + x.w * w);
}

fn gathered(sums: Sums, part: Block) -> Sums {
  return Sums(sums.v0 + vec4f(part.v0), sums.v1 + vec4f(part.v1), sums.v2 + vec4f(part.v2),
    sums.v3 + vec4f(part.v3));
}

fn store_token(t: u32, row: u32, sums: vec4f) {
  store(t, row, SCALE * sums.xy);
  store(t, row + 2u, SCALE * sums.zw);
}

fn store_block(t: u32, row: u32, sums: Sums) {
  store_token(t, row, sums.v0);
  store_token(t + 1u, row, sums.v1);
  store_token(t + 2u, row, sums.v2);
  store_token(t + 3u, row, sums.v3);
}

@compute @workgroup_size(256)
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(local_invocation_index) index: u32,
) {
  let row0 = workgroup.x * 4u * W_LANES;
  let span = take_tile(workgroup.y, 4u * X_LANES);
  let t0 = span.x;
  if (t0 >= span.y) {
    return;
  }
  let r = index % 16u;
  let t = index / 16u;
  var part00: Block; // of the first block of rows, the first block of tokens
  var part01: Block;
  var part10: Block;
  var part11: Block;
  var sums00: Sums;
  var sums01: Sums;
  var sums10: Sums;
  var sums11: Sums;
  let steps = 2u * groups_of(params.cols);
  var carried = carry(row0, t0, 0u, index);
  for (var s = 1u; s <= steps; s++) {
    put(carried, index);
    workgroupBarrier();
    carried = carry(row0, t0, min(s, steps - 1u), index);
    for (var column = 0u; column < 16u; column++) {
      let w = tile_w[column * W_LANES + r];
      let x = tile_x[column * X_LANES + t];
      part00 = add(part00, w, x);
      if (TOKEN_BLOCKS > 1u) {
        part01 = add(part01, w, tile_x[column * X_LANES + 16u + t]);
      }
      if (ROW_BLOCKS > 1u) {
        let w1 = tile_w[column * W_LANES + 16u + r];
        part10 = add(part10, w1, x);
        if (TOKEN_BLOCKS > 1u) {
          part11 = add(part11, w1, tile_x[column * X_LANES + 16u + t]);
        }
      }
      if (HALF == 1u && column % 8u == 7u) {
        sums00 = gathered(sums00, part00);
        sums01 = gathered(sums01, part01);
        sums10 = gathered(sums10, part10);
        sums11 = gathered(sums11, part11);
        part00 = Block();
        part01 = Block();
        part10 = Block();
        part11 = Block();
      }
    }
    workgroupBarrier();
  }
  if (HALF == 0u) {
    sums00 = gathered(sums00, part00);
    sums01 = gathered(sums01, part01);
    sums10 = gathered(sums10, part10);
    sums11 = gathered(sums11, part11);
  }
  let row = row0 + 4u * r;
  let token = t0 + 4u * t;
  store_block(token, row, sums00);
  if (TOKEN_BLOCKS > 1u) {
    store_block(token + 64u, row, sums01);
  }
  if (ROW_BLOCKS > 1u) {
    store_block(token, row + 64u, sums10);
  }
  if (ROW_BLOCKS * TOKEN_BLOCKS == 4u) {
    store_block(token + 64u, row + 64u, sums11);
  }
}

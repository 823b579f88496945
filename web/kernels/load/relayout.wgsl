// The file's blocks of rows 0 .. rows-1 of `raw` -> rows row0 .. of the planes (see dequantize.wgsl).
//
// raw [rows · row_bytes bytes], GGUF blocks as they are; codes, scales: the planes' words.
// A thread moves one group of 32 columns; the scales that groups share go with the first of them.
// FORM is that of the file, TO that of the planes: the same, or for Q4_0 that of Q5_0 and for Q5_0 that of
// Q8_0, which take a bit or three more for the same numbers.
// uses: types
// uses: grid

override FORM: u32;
override TO: u32;

struct Params {
  rows: u32,
  cols: u32,
  row_bytes: u32,
  row0: u32,
}

@group(0) @binding(0) var<storage, read> raw: array<u32>;
@group(0) @binding(1) var<storage, read_write> codes: array<u32>;
@group(0) @binding(2) var<storage, read_write> scales: array<u32>;
@group(0) @binding(3) var<uniform> params: Params;

// The four bytes from byte `at` on, at any alignment.
fn word_at(at: u32) -> u32 {
  let shift = 8u * (at % 4u);
  let low = raw[at / 4u] >> shift;
  if (shift == 0u) {
    return low;
  }
  return low | (raw[at / 4u + 1u] << (32u - shift));
}

fn pair_at(at: u32) -> u32 {
  return word_at(at) & 0xffffu;
}

fn byte_at(at: u32) -> u32 {
  return (raw[at / 4u] >> (8u * (at % 4u))) & 255u;
}

// Where the high bits of a row begin in `scales`, and where its scales do.
fn high_at(row: u32) -> u32 {
  return row * row_words(TO, params.cols / 32u);
}

fn scales_at(row: u32) -> u32 {
  return high_at(row) + high_words(TO, params.cols / 32u);
}

// 32 dense columns: F32 a word each; F16 and BF16 two a word. Columns beyond the last become zero.
fn move_dense(row_at: u32, row: u32, g: u32) {
  let padded = (params.cols + 3u) / 4u * 4u;
  let end = min(32u * g + 32u, padded);
  for (var c = 32u * g; c < end; c += 2u) {
    if (FORM == F32) {
      codes[row * padded + c] = select(0u, word_at(row_at + 4u * c), c < params.cols);
      codes[row * padded + c + 1u] =
        select(0u, word_at(row_at + 4u * c + 4u), c + 1u < params.cols);
    } else {
      let first = select(0u, pair_at(row_at + 2u * c), c < params.cols);
      let second = select(0u, pair_at(row_at + 2u * c + 2u), c + 1u < params.cols);
      codes[(row * padded + c) / 2u] = first | (second << 16u);
    }
  }
}

fn plain_block_bytes() -> u32 {
  if (FORM == MXFP4) {
    return 17u;
  }
  return select(select(select(select(34u, 24u, FORM == Q5_1), 22u, FORM == Q5_0), 20u, FORM == Q4_1), 18u,
    FORM == Q4_0 || FORM == IQ4_NL);
}

// Q4_0 as Q5_0: codes are 8 more, so that the third bit goes up to the fifth, and what it was is inverted.
fn widen_nibbles(start: u32, out: u32, high: u32) {
  var fifth = 0u;
  for (var w = 0u; w < 4u; w++) {
    let word = word_at(start + 4u * w);
    codes[4u * out + w] = word ^ 0x88888888u;
    for (var b = 0u; b < 4u; b++) {
      fifth |= ((word >> (8u * b + 3u)) & 1u) << (4u * w + b);
      fifth |= ((word >> (8u * b + 7u)) & 1u) << (4u * w + b + 16u);
    }
  }
  scales[high] = fifth;
}

// Four columns of Q5_0 as signed bytes: nibbles and fifth bits, less 16.
fn signed_codes(nibbles: u32, fifth: u32) -> u32 {
  let bits = vec4u(fifth) & vec4u(1u, 2u, 4u, 8u);
  let top = (bits.x << 4u) | (bits.y << 11u) | (bits.z << 18u) | (bits.w << 25u);
  let code = (nibbles | top) ^ 0x10101010u;
  let sign = code & 0x10101010u;
  return code | (sign << 1u) | (sign << 2u) | (sign << 3u);
}

fn widen_to_bytes(start: u32, fifth: u32, out: u32) {
  for (var w = 0u; w < 4u; w++) {
    let word = word_at(start + 4u * w);
    codes[8u * out + w] = signed_codes(word & 0x0f0f0f0fu, fifth >> (4u * w));
    codes[8u * out + w + 4u] = signed_codes((word >> 4u) & 0x0f0f0f0fu, fifth >> (4u * w + 16u));
  }
}

// The byte that is the scale of each of four blocks of a row; zero beyond the last.
fn move_exponents(at: u32, row: u32, g: u32) {
  let groups = params.cols / 32u;
  var word = 0u;
  for (var i = 0u; i < min(4u, groups - g); i++) {
    word |= byte_at(at + i * plain_block_bytes()) << (8u * i);
  }
  scales[scales_at(row) + g / 4u] = word;
}

// Q4_0 .. Q8_0: blocks of 32 columns: f16 d, (f16 m), (32 high bits), codes. MXFP4: a byte, codes.
// IQ4_NL: as Q4_0.
fn move_plain(row_at: u32, row: u32, g: u32) {
  let groups = params.cols / 32u;
  let size = plain_block_bytes();
  let at = row_at + g * size;
  let out = row * groups + g;
  let has_minimum = FORM == Q4_1 || FORM == Q5_1;
  var start = at + select(select(2u, 1u, FORM == MXFP4), 4u, has_minimum);
  if (FORM == Q4_0 && TO == Q5_0) {
    widen_nibbles(start, out, high_at(row) + g);
  } else if (FORM == Q5_0 && TO == Q8_0) {
    widen_to_bytes(start + 4u, word_at(start), out);
  } else {
    if (FORM == Q5_0 || FORM == Q5_1) {
      scales[high_at(row) + g] = word_at(start);
      start += 4u;
    }
    let words = select(4u, 8u, FORM == Q8_0);
    for (var w = 0u; w < words; w++) {
      codes[out * words + w] = word_at(start + 4u * w);
    }
  }
  if (has_minimum) {
    scales[scales_at(row) + g] = word_at(at);
  } else if (FORM == MXFP4) {
    if (g % 4u == 0u) {
      move_exponents(at, row, g);
    }
  } else if (g % 2u == 0u) {
    let next = select(0u, pair_at(at + size), g + 1u < groups);
    scales[scales_at(row) + g / 2u] = pair_at(at) | (next << 16u);
  }
}

// Four bytes whose nibbles are those of bytes `at` .. and `at + 16` .. , high or low ones.
fn regroup(at: u32, shift: u32) -> u32 {
  let first = (word_at(at) >> shift) & 0x0f0f0f0fu;
  let second = (word_at(at + 16u) >> shift) & 0x0f0f0f0fu;
  return first | (second << 4u);
}

// The six bits each of eight scales and minimums, which the file packs in 12 bytes at `at + 4`.
fn move_k_scales(at: u32, out: u32) {
  var words = vec3u();
  for (var j = 0u; j < 8u; j++) {
    let first = at + 4u + j % 4u;
    var bits = vec2u(byte_at(first), byte_at(first + 4u)) & vec2u(63u);
    if (j >= 4u) {
      let low = byte_at(first + 8u);
      let top = vec2u(byte_at(first), byte_at(first + 4u)) >> vec2u(6u);
      bits = vec2u(low & 15u, low >> 4u) | (top << vec2u(4u));
    }
    words |= vec3u(bits & vec2u(15u), (bits.x >> 4u) | ((bits.y >> 4u) << 2u)) << vec3u(4u * j);
  }
  scales[out] = word_at(at);
  scales[out + 1u] = words.x;
  scales[out + 2u] = words.y;
  scales[out + 3u] = words.z;
}

// Q4_K, Q5_K: 256 columns: d, dmin, 12 bytes of scales, (32 bytes: bit j is that of group j), and
// 128 bytes, of which each 32 hold a group in their low nibbles and the next in their high ones.
fn move_k(row_at: u32, row: u32, g: u32) {
  let j = g % 8u;
  let at = row_at + (g / 8u) * select(144u, 176u, FORM == Q5_K);
  let out = row * (params.cols / 32u) + g;
  let start = at + select(16u, 48u, FORM == Q5_K) + 32u * (j / 2u);
  for (var w = 0u; w < 4u; w++) {
    codes[4u * out + w] = regroup(start + 4u * w, 4u * (j % 2u));
  }
  if (FORM == Q5_K) {
    var bits = 0u;
    for (var i = 0u; i < 32u; i++) {
      bits |= ((byte_at(at + 16u + i) >> j) & 1u) << i;
    }
    scales[high_at(row) + g] = bits;
  }
  if (j == 0u) {
    move_k_scales(at, scales_at(row) + 4u * (g / 8u));
  }
}

// Q6_K: 256 columns: 128 bytes of nibbles, 64 bytes of high pairs, 16 scales, f16 d. Each half of
// the block has 64 bytes of nibbles (groups 0 and 1 low, 2 and 3 high) and 32 of pairs.
fn move_q6(row_at: u32, row: u32, g: u32) {
  let at = row_at + (g / 8u) * 210u;
  let part = (g % 8u) / 4u;
  let q = g % 4u;
  let out = row * (params.cols / 32u) + g;
  let start = at + 64u * part + 32u * (q % 2u);
  for (var w = 0u; w < 4u; w++) {
    codes[4u * out + w] = regroup(start + 4u * w, 4u * (q / 2u));
  }
  for (var word = 0u; word < 2u; word++) {
    var bits = 0u;
    for (var i = 0u; i < 16u; i++) {
      let pair = byte_at(at + 128u + 32u * part + 16u * word + i) >> (2u * q);
      bits |= (pair & 3u) << (2u * i);
    }
    scales[high_at(row) + 2u * g + word] = bits;
  }
  if (g % 8u == 0u) {
    for (var w = 0u; w < 4u; w++) {
      scales[scales_at(row) + 5u * (g / 8u) + w] = word_at(at + 192u + 4u * w);
    }
    scales[scales_at(row) + 5u * (g / 8u) + 4u] = pair_at(at + 208u);
  }
}

// Codes of two bits, four groups in the same 32 bytes, as dequantize.wgsl has them.
fn move_pairs(start: u32, shift: u32, out: u32) {
  for (var w = 0u; w < 2u; w++) {
    let even = regroup(start + 8u * w, shift) & 0x33333333u;
    let odd = regroup(start + 8u * w + 4u, shift) & 0x33333333u;
    codes[2u * out + w] = even | (odd << 2u);
  }
}

// Word q of the 16 scales of a Q3_K block as signed bytes: six bits each, of 12 bytes, less 32.
fn q3_scales(at: u32, q: u32) -> u32 {
  let low = (word_at(at + 4u * (q % 2u)) >> (4u * (q / 2u))) & 0x0f0f0f0fu;
  let upper = (word_at(at + 8u) >> (2u * q)) & 0x03030303u;
  let scale = (low | (upper << 4u)) ^ 0x20202020u;
  let sign = scale & 0x20202020u;
  return scale | (sign << 1u) | (sign << 2u);
}

// Q3_K: 256 columns: 32 bytes, of which bit j is group j's third bit, 64 of pairs, 12 of scales, f16 d.
fn move_q3(row_at: u32, row: u32, g: u32) {
  let at = row_at + (g / 8u) * 110u;
  let j = g % 8u;
  let out = row * (params.cols / 32u) + g;
  move_pairs(at + 32u + 32u * (j / 4u), 2u * (j % 4u), out);
  var upper = 0u;
  for (var w = 0u; w < 4u; w++) {
    upper |= (regroup(at + 4u * w, j) & 0x11111111u) << w;
  }
  scales[high_at(row) + g] = upper;
  if (j == 0u) {
    for (var q = 0u; q < 4u; q++) {
      scales[scales_at(row) + 5u * (g / 8u) + q] = q3_scales(at + 96u, q);
    }
    scales[scales_at(row) + 5u * (g / 8u) + 4u] = pair_at(at + 108u);
  }
}

// Q2_K: 256 columns: 16 bytes of scales and minimums, 64 of pairs, f16 d and dmin.
fn move_q2(row_at: u32, row: u32, g: u32) {
  let at = row_at + (g / 8u) * 84u;
  let j = g % 8u;
  let out = row * (params.cols / 32u) + g;
  move_pairs(at + 16u + 32u * (j / 4u), 2u * (j % 4u), out);
  if (j == 0u) {
    for (var q = 0u; q < 4u; q++) {
      scales[scales_at(row) + 5u * (g / 8u) + q] = word_at(at + 4u * q);
    }
    scales[scales_at(row) + 5u * (g / 8u) + 4u] = word_at(at + 80u);
  }
}

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) grid: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let groups = (params.cols + 31u) / 32u;
  let index = unfolded(workgroup.xy, grid.x) * 64u + lane;
  if (index >= params.rows * groups) {
    return;
  }
  let row_at = (index / groups) * params.row_bytes;
  let row = params.row0 + index / groups;
  let g = index % groups;
  if (FORM < Q4_0) {
    move_dense(row_at, row, g);
  } else if (FORM < Q4_K || FORM == MXFP4 || FORM == IQ4_NL) {
    move_plain(row_at, row, g);
  } else if (FORM < Q6_K) {
    move_k(row_at, row, g);
  } else if (FORM == Q6_K) {
    move_q6(row_at, row, g);
  } else if (FORM == Q3_K) {
    move_q3(row_at, row, g);
  } else {
    move_q2(row_at, row, g);
  }
}

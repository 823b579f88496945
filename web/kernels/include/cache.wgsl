// Keys and values as they are kept: f32 (KV_TYPE 0), f16 (1) or q8 (2). Put before kernels whose header
// says "uses: cache"; they bind `keys` and `values` as array<vec2u>, and their params have the capacity, in
// positions: [kv_heads, capacity, ROW]. A row is a head's numbers at one position, in ROW vec2u: f32 or f16
// as they are; as q8 a signed byte each, CODES vec2u of them, then an f32 for every 32 numbers (fewer at
// the row's end): the largest magnitude among them, of which a byte is so many 127ths. Of words that a row
// does not fill, nothing is read. Where a window makes less do than the whole context, RING is 1 and
// position p lies in slot p % capacity; else in slot p.

override KV_TYPE: u32;
override RING: u32;
override CODES = (HEAD_DIM + 7u) / 8u;
override ROW = select(
  select(HEAD_DIM / 2u, HEAD_DIM / 4u, KV_TYPE == F16), CODES + (HEAD_DIM + 63u) / 64u, KV_TYPE == Q8);

const F16 = 1u; // of KV_TYPE
const Q8 = 2u;
const MOST_HALF = 65504.0; // larger numbers have no f16

// The position whose slot is the first one, in the lap of the ring that `position` belongs to.
fn lap_of(position: u32) -> u32 {
  if (RING == 1u) {
    return position - position % params.capacity;
  }
  return 0u;
}

// The slot of a position that is `ahead` of that, by less than two laps.
fn slot_of(ahead: u32) -> u32 {
  if (RING == 1u) {
    return select(ahead, ahead - params.capacity, ahead >= params.capacity);
  }
  return ahead;
}

fn four_halves(words: vec2u) -> vec4f {
  return vec4f(unpack2x16float(words.x), unpack2x16float(words.y));
}

fn four_floats(first: vec2u, second: vec2u) -> vec4f {
  return vec4f(bitcast<vec2f>(first), bitcast<vec2f>(second));
}

// Numbers 4i .. 4i + 3 of a row, by the words of it that have their bytes and their group's f32.
fn four_codes(codes: vec2u, scales: vec2u, i: u32) -> vec4f {
  let scale = bitcast<f32>(select(scales.x, scales.y, (i & 8u) > 0u));
  return scale * unpack4x8snorm(select(codes.x, codes.y, (i & 1u) > 0u));
}

// Numbers 4i .. 4i + 3 of the key whose row begins at `row`.
fn key_at(row: u32, i: u32) -> vec4f {
  if (KV_TYPE == F16) {
    return four_halves(keys[row + i]);
  }
  if (KV_TYPE == Q8) {
    return four_codes(keys[row + i / 2u], keys[row + CODES + i / 16u], i);
  }
  return four_floats(keys[row + 2u * i], keys[row + 2u * i + 1u]);
}

fn value_at(row: u32, i: u32) -> vec4f {
  if (KV_TYPE == F16) {
    return four_halves(values[row + i]);
  }
  if (KV_TYPE == Q8) {
    return four_codes(values[row + i / 2u], values[row + CODES + i / 16u], i);
  }
  return four_floats(values[row + 2u * i], values[row + 2u * i + 1u]);
}

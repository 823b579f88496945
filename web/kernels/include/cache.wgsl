// Keys and values as they are kept: f16 pairs (KV_HALF 1) or f32 (0). Put before kernels whose header
// says "uses: cache"; they bind `keys` and `values` as array<vec2u>, and their params have the capacity, in
// positions. Places are counted in fours of numbers: [kv_heads, capacity, HEAD_DIM / 4]. Where a window
// makes less do than the whole context, RING is 1 and position p lies in slot p % capacity; else in slot p.

override KV_HALF: u32;
override RING: u32;

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

fn key_at(place: u32) -> vec4f {
  if (KV_HALF == 1u) {
    return four_halves(keys[place]);
  }
  return four_floats(keys[2u * place], keys[2u * place + 1u]);
}

fn value_at(place: u32) -> vec4f {
  if (KV_HALF == 1u) {
    return four_halves(values[place]);
  }
  return four_floats(values[2u * place], values[2u * place + 1u]);
}

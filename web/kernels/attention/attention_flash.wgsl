// attention.wgsl for batches, by tiles: ROWS queries against KEYS keys at a time, so that a key that
// was read serves them all. The softmax is rescaled from tile to tile: no scores are kept.
// uses: state
// uses: cache
// uses: score_cap
//
// qkv [batch, q_stride]: q first, rotated. keys, values [kv_count, capacity, ROW], HEAD_DIM a
// multiple of 4 and at most 512. sinks [heads]. out [batch, out_stride]. A workgroup does ROWS rows (x)
// of one key-value head (y); a row is a token and one of the head's query heads, the tokens counting
// slower, and the last rows, which see most keys, go first. Scores: a thread does 4 rows × 4 keys, from q
// and k transposed in workgroup memory, CHUNK dimensions at a time (q stays there where KEEP_Q is 1).
// Sums: a thread does 8 rows × 8 columns, from VALUES values at a time in workgroup memory.
//
// ROWS is a multiple of 8, KEYS of 4, CHUNK a multiple of 4 that divides HEAD_DIM; VALUES divides KEYS.

override HEAD_DIM: u32;
override ROWS: u32;
override KEYS: u32;
override CHUNK: u32;
override VALUES: u32;
override KEEP_Q: u32;
override SINKS: u32;
override WIDTH = HEAD_DIM / 4u; // vec4s a head
override PART = CHUNK / 4u; // and a chunk of it
override ROW_FOURS = ROWS / 4u;
override KEY_FOURS = KEYS / 4u;
override COLUMN_PAIRS = (HEAD_DIM / 4u + 1u) / 2u;
override SCORERS = ROW_FOURS * KEY_FOURS; // threads
override SUMMERS = ROWS / 8u * COLUMN_PAIRS;
override THREADS = max(SCORERS, SUMMERS);
override Q_DIMS = CHUNK + KEEP_Q * (HEAD_DIM - CHUNK);

struct Params {
  heads: u32,
  kv_heads: u32,
  kv_head0: u32, // the first of those whose keys and values are bound
  kv_count: u32, // of them
  q_stride: u32,
  out_stride: u32,
  context: u32,
  capacity: u32,
  window: u32,
  scale: f32,
}

@group(0) @binding(0) var<storage, read> qkv: array<vec4f>;
@group(0) @binding(1) var<storage, read> keys: array<vec2u>;
@group(0) @binding(2) var<storage, read> values: array<vec2u>;
@group(0) @binding(3) var<storage, read_write> out: array<vec4f>;
@group(0) @binding(4) var<uniform> state: State;
@group(0) @binding(5) var<uniform> params: Params;
@group(0) @binding(6) var<storage, read> sinks: array<f32>;

const LOWEST = -3.0e38;
const LOG2_E = 1.44269504;

// Dimension 4d + i of a chunk is row i · PART + d, and rows are one vec4 longer than they need be:
// both so that neighbouring threads, which have neighbouring d, write to different banks.
var<workgroup> queries: array<vec4f, Q_DIMS * (ROW_FOURS + 1u)>; // of four rows
// Keys likewise, or values [VALUES, WIDTH].
var<workgroup> staged: array<vec4f, max(CHUNK * (KEY_FOURS + 1u), VALUES * WIDTH)>;
var<workgroup> shares: array<vec4f, KEYS * ROW_FOURS>; // exp(score - largest so far), of four rows
var<workgroup> marks: array<vec4f, KEY_FOURS * ROW_FOURS>; // by scorer: largest scores, then totals
var<workgroup> fades: array<vec4f, ROW_FOURS>; // what earlier sums are multiplied by
var<workgroup> places: array<vec4u, ROW_FOURS>; // of four rows in qkv

// A row is a token's query head.
fn token_of(row: u32) -> u32 {
  return row * params.kv_heads / params.heads;
}

fn head_of(row: u32, kv_head: u32) -> u32 {
  let group = params.heads / params.kv_heads;
  return kv_head * group + row % group;
}

fn place_of(row: u32, kv_head: u32, stride: u32) -> u32 {
  return token_of(row) * (stride / 4u) + head_of(row, kv_head) * WIDTH;
}

// Dimensions 4c .. 4c + CHUNK - 1 of q, scaled, transposed to row `base` on.
fn stage_queries(c: u32, base: u32, index: u32) {
  let scale = params.scale * LOG2_E;
  for (var i = index; i < PART * ROW_FOURS; i += THREADS) {
    let d = i % PART;
    let place = places[i / PART] + c + d;
    let four = transpose(mat4x4f(
      scale * qkv[place.x], scale * qkv[place.y], scale * qkv[place.z], scale * qkv[place.w]));
    let at = (base + d) * (ROW_FOURS + 1u) + i / PART;
    let step = PART * (ROW_FOURS + 1u);
    queries[at] = four[0];
    queries[at + step] = four[1];
    queries[at + 2u * step] = four[2];
    queries[at + 3u * step] = four[3];
  }
}

// The same of keys `start` on, counted from the beginning of a lap (cache.wgsl); `kv` is where their head
// lies in the cache.
fn stage_keys(start: u32, end: u32, kv: u32, c: u32, index: u32) {
  for (var i = index; i < PART * KEY_FOURS; i += THREADS) {
    let d = i % PART;
    let key = start + 4u * (i / PART);
    let four = transpose(mat4x4f(
      key_at(kv + slot_of(min(key, end - 1u)) * ROW, c + d),
      key_at(kv + slot_of(min(key + 1u, end - 1u)) * ROW, c + d),
      key_at(kv + slot_of(min(key + 2u, end - 1u)) * ROW, c + d),
      key_at(kv + slot_of(min(key + 3u, end - 1u)) * ROW, c + d)));
    let at = d * (KEY_FOURS + 1u) + i / PART;
    let step = PART * (KEY_FOURS + 1u);
    staged[at] = four[0];
    staged[at + step] = four[1];
    staged[at + 2u * step] = four[2];
    staged[at + 3u * step] = four[3];
  }
}

fn stage_values(start: u32, end: u32, kv: u32, index: u32) {
  for (var i = index; i < VALUES * WIDTH; i += THREADS) {
    staged[i] = value_at(kv + slot_of(min(start + i / WIDTH, end - 1u)) * ROW, i % WIDTH);
  }
}

// Column j: a times b[j].
fn outer(a: vec4f, b: vec4f) -> mat4x4f {
  return mat4x4f(b.x * a, b.y * a, b.z * a, b.w * a);
}

fn scaled(m: mat4x4f, by: vec4f) -> mat4x4f {
  return mat4x4f(by.x * m[0], by.y * m[1], by.z * m[2], by.w * m[3]);
}

// q · k over a chunk: a column a key, of four rows each.
fn scores(base: u32, rows: u32, four_keys: u32) -> mat4x4f {
  var sums = mat4x4f();
  for (var d = 0u; d < CHUNK; d++) {
    sums += outer(
      queries[(base + d) * (ROW_FOURS + 1u) + rows], staged[d * (KEY_FOURS + 1u) + four_keys]);
  }
  return sums;
}

// Scores of a key for rows that see keys first .. reach - 1.
fn masked(score: vec4f, key: u32, first: vec4u, reach: vec4u) -> vec4f {
  return select(vec4f(LOWEST), score, (vec4u(key) >= first) & (vec4u(key) < reach));
}

// A score that is masked has no share, even where there is no other in the tile.
fn share(score: vec4f, largest: vec4f) -> vec4f {
  return select(vec4f(), exp2(score - largest), score > vec4f(LOWEST));
}

fn largest_of(rows: u32, before: vec4f) -> vec4f {
  var top = before;
  for (var i = 0u; i < KEY_FOURS; i++) {
    top = max(top, marks[i * ROW_FOURS + rows]);
  }
  return top;
}

fn total_of(rows: u32) -> vec4f {
  var sum = vec4f();
  for (var i = 0u; i < KEY_FOURS; i++) {
    sum += marks[i * ROW_FOURS + rows];
  }
  return sum;
}

// Two vec4s of a row's output.
fn store(row: u32, last: u32, kv_head: u32, column: u32, first: vec4f, second: vec4f) {
  if (row <= last) {
    let at = place_of(row, kv_head, params.out_stride) + column;
    out[at] = first;
    if (column + COLUMN_PAIRS < WIDTH) {
      out[at + COLUMN_PAIRS] = second;
    }
  }
}

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) workgroups: vec3u,
  @builtin(local_invocation_index) index: u32,
) {
  let group = params.heads / params.kv_heads;
  let kv_head = params.kv_head0 + workgroup.y;
  let row0 = (workgroups.x - 1u - workgroup.x) * ROWS;
  if (row0 >= state.count * group) {
    return;
  }
  let last = state.count * group - 1u;
  let kv = workgroup.y * params.capacity * ROW;
  let end = min(state.position + token_of(min(row0 + ROWS - 1u, last)) + 1u, params.context);
  let least = state.position + token_of(row0) + 1u;
  let begin = select(0u, least - min(least, params.window), params.window > 0u);
  let lap = lap_of(begin);

  let rows = index % ROW_FOURS;
  let four_keys = index / ROW_FOURS;
  let row = row0 + 4u * rows;
  let reach = state.position + 1u +
    vec4u(token_of(row), token_of(row + 1u), token_of(row + 2u), token_of(row + 3u));
  let first = select(vec4u(), reach - min(reach, vec4u(params.window)), params.window > 0u);
  if (four_keys == 0u) {
    places[rows] = vec4u(
      place_of(min(row, last), kv_head, params.q_stride),
      place_of(min(row + 1u, last), kv_head, params.q_stride),
      place_of(min(row + 2u, last), kv_head, params.q_stride),
      place_of(min(row + 3u, last), kv_head, params.q_stride));
  }
  var largest = vec4f(LOWEST);
  var total = vec4f(); // over this thread's keys
  if (SINKS == 1u) {
    largest = LOG2_E * vec4f(
      sinks[head_of(row, kv_head)], sinks[head_of(row + 1u, kv_head)],
      sinks[head_of(row + 2u, kv_head)], sinks[head_of(row + 3u, kv_head)]);
    total = select(vec4f(), vec4f(1.0), four_keys == 0u); // each row's sink is added once
  }

  let column = index % COLUMN_PAIRS;
  let eight = index / COLUMN_PAIRS;
  var sums00 = mat4x4f(); // first four rows, a column of the matrix each; first vec4 of the head
  var sums01 = mat4x4f();
  var sums10 = mat4x4f();
  var sums11 = mat4x4f();

  for (var start = begin; start < end; start += KEYS) {
    var s = mat4x4f(); // a column a key, of four rows
    for (var c = 0u; c < WIDTH; c += PART) {
      let base = KEEP_Q * 4u * c;
      workgroupBarrier(); // before what is staged is replaced
      if (KEEP_Q == 0u || start == begin) {
        stage_queries(c, base, index);
      }
      stage_keys(start - lap, end - lap, kv, c, index);
      workgroupBarrier();
      if (index < SCORERS) {
        s += scores(base, rows, four_keys);
      }
    }
    if (index < SCORERS) {
      let key = start + 4u * four_keys;
      s = mat4x4f(capped(s[0], LOG2_E), capped(s[1], LOG2_E), capped(s[2], LOG2_E), capped(s[3], LOG2_E));
      s = mat4x4f(
        masked(s[0], key, first, reach), masked(s[1], key + 1u, first, reach),
        masked(s[2], key + 2u, first, reach), masked(s[3], key + 3u, first, reach));
      marks[index] = max(max(s[0], s[1]), max(s[2], s[3]));
    }
    workgroupBarrier();
    if (index < SCORERS) {
      let top = largest_of(rows, largest);
      let fade = exp2(largest - top);
      largest = top;
      s = mat4x4f(share(s[0], top), share(s[1], top), share(s[2], top), share(s[3], top));
      total = total * fade + (s[0] + s[1]) + (s[2] + s[3]);
      let at = 4u * four_keys * ROW_FOURS + rows;
      shares[at] = s[0];
      shares[at + ROW_FOURS] = s[1];
      shares[at + 2u * ROW_FOURS] = s[2];
      shares[at + 3u * ROW_FOURS] = s[3];
      if (four_keys == 0u) {
        fades[rows] = fade;
      }
    }
    for (var k = 0u; k < KEYS; k += VALUES) {
      if (k > 0u) {
        workgroupBarrier();
      }
      stage_values(start - lap + k, end - lap, kv, index);
      workgroupBarrier();
      if (k == 0u && index < SUMMERS) {
        let fade0 = fades[2u * eight];
        let fade1 = fades[2u * eight + 1u];
        sums00 = scaled(sums00, fade0);
        sums01 = scaled(sums01, fade0);
        sums10 = scaled(sums10, fade1);
        sums11 = scaled(sums11, fade1);
      }
      for (var i = 0u; i < VALUES && index < SUMMERS; i++) {
        let share0 = shares[(k + i) * ROW_FOURS + 2u * eight];
        let share1 = shares[(k + i) * ROW_FOURS + 2u * eight + 1u];
        let value0 = staged[i * WIDTH + column];
        let value1 = staged[i * WIDTH + column + COLUMN_PAIRS];
        sums00 += outer(value0, share0);
        sums01 += outer(value1, share0);
        sums10 += outer(value0, share1);
        sums11 += outer(value1, share1);
      }
    }
  }
  if (index < SCORERS) {
    marks[index] = total;
  }
  workgroupBarrier();
  if (index >= SUMMERS) {
    return;
  }
  let inverse0 = 1.0 / total_of(2u * eight);
  let inverse1 = 1.0 / total_of(2u * eight + 1u);
  sums00 = scaled(sums00, inverse0);
  sums01 = scaled(sums01, inverse0);
  sums10 = scaled(sums10, inverse1);
  sums11 = scaled(sums11, inverse1);
  let row8 = row0 + 8u * eight;
  store(row8, last, kv_head, column, sums00[0], sums01[0]);
  store(row8 + 1u, last, kv_head, column, sums00[1], sums01[1]);
  store(row8 + 2u, last, kv_head, column, sums00[2], sums01[2]);
  store(row8 + 3u, last, kv_head, column, sums00[3], sums01[3]);
  store(row8 + 4u, last, kv_head, column, sums10[0], sums11[0]);
  store(row8 + 5u, last, kv_head, column, sums10[1], sums11[1]);
  store(row8 + 6u, last, kv_head, column, sums10[2], sums11[2]);
  store(row8 + 7u, last, kv_head, column, sums10[3], sums11[3]);
}

enable subgroups;
diagnostic(off, subgroup_uniformity);
// rope.wgsl and attention.wgsl for one token, with its keys shared among workgroups: norms and rotates
// q and k (in the order of QK_NORM), lets q grow with its position, moves k and v into the cache, and
// attends to a run of the keys that the token sees.
// uses: state
// uses: cache
// uses: cache_write
// uses: score_cap
//
// qkv [q_stride]: heads of q, k, v, as projected; PROJECTED and VALUE_NORM as in rope.wgsl. keys, values
// [kv_count, capacity, ROW], HEAD_DIM a multiple of 8 and at most 512. partial_out [splits, heads, HEAD_DIM]: softmax(s) · v over the run alone;
// partial_lse [splits, heads]: log Σ exp(s), by which attention_join.wgsl or the prologue of the output's
// matvec weighs the runs. sinks [heads] join the softmax of the first run. A workgroup of 256 threads
// does one run (x) of one key-value head (y) for four of its query heads (z), so that every key is read
// once for the four. Three powers of two, none larger than a subgroup: TURN threads (32 at most, and a
// 64th of HEAD_DIM at least) rotate a head, LANES share a key for the scores, and PARTS (with PARTS ·
// HEAD_DIM / 4 at most 256) a vec4 of the head for the values. What all threads need to know of all
// keys, every subgroup finds for itself, since waiting is most of what is done here. Whoever has the
// token's own key writes it to the cache first; where two workgroups do (more than four query heads),
// they write the same.

override HEAD_DIM: u32;
override PAIRS: u32;
override QK_NORM: u32;
override VALUE_NORM: u32;
override PROJECTED: u32;
override LANES: u32;
override PARTS: u32;
override TURN: u32;
override SINKS: u32;
override WIDTH = HEAD_DIM / 4u; // vec4s a head
override TURNS = (HEAD_DIM / 8u + TURN - 1u) / TURN; // pairs of vec4s that a thread turns

struct Params {
  heads: u32,
  kv_heads: u32,
  kv_head0: u32, // the first of those whose keys and values are bound
  kv_count: u32, // of them
  context: u32,
  capacity: u32,
  window: u32,
  splits: u32,
  scale: f32,
  eps: f32,
  offset: f32,
  growth: f32,
  original: u32,
}

@group(0) @binding(0) var<storage, read> qkv: array<vec4f>;
@group(0) @binding(1) var<storage, read> q_norm: array<vec4f>;
@group(0) @binding(2) var<storage, read> k_norm: array<vec4f>;
@group(0) @binding(3) var<storage, read> angles: array<vec2f>;
@group(0) @binding(4) var<storage, read_write> keys: array<vec2u>;
@group(0) @binding(5) var<storage, read_write> values: array<vec2u>;
@group(0) @binding(6) var<storage, read_write> partial_out: array<vec4f>;
@group(0) @binding(7) var<storage, read_write> partial_lse: array<f32>;
@group(0) @binding(8) var<uniform> state: State;
@group(0) @binding(9) var<uniform> params: Params;
@group(0) @binding(10) var<storage, read> sinks: array<f32>;

const LOWEST = -3.0e38;
const MOST_TURNS = 8u;
const SHARED = 1u; // of PROJECTED: keys are values too
const NONE = 2u; // another layer's are read

var<workgroup> turned: array<vec4f, 4u * WIDTH>; // four heads of q, scaled
var<workgroup> scores: array<vec4f, 256>; // of a tile's keys, by head
var<workgroup> shares: array<vec4f, 256>; // exp(score - largest)
var<private> lanes: u32; // of a subgroup

// cos and sin of pairs 4j .. 4j + 3 at the token's position: by the addition theorem from a table in two
// levels (see rope_math.wgsl).
struct Turn {
  cos: vec4f,
  sin: vec4f,
}

fn turn(j: u32) -> Turn {
  let fine = (state.position % 64u) * (HEAD_DIM / 2u) + 4u * j;
  let coarse = (64u + state.position / 64u) * (HEAD_DIM / 2u) + 4u * j;
  let a = transpose(mat4x2f(angles[fine], angles[fine + 1u], angles[fine + 2u], angles[fine + 3u]));
  let b = transpose(
    mat4x2f(angles[coarse], angles[coarse + 1u], angles[coarse + 2u], angles[coarse + 3u]));
  return Turn(b[0] * a[0] - b[1] * a[1], b[1] * a[0] + b[0] * a[1]);
}

// Two vec4s of a head, rotated: the j-th of each half, or, where pairs lie side by side, two neighbours.
fn rotated(two: array<vec4f, 2>, by: Turn) -> array<vec4f, 2> {
  var first = two[0];
  var second = two[1];
  if (PAIRS == 1u) {
    first = vec4f(two[0].xz, two[1].xz);
    second = vec4f(two[0].yw, two[1].yw);
  }
  let a = first * by.cos - second * by.sin;
  let b = second * by.cos + first * by.sin;
  if (PAIRS == 1u) {
    return array<vec4f, 2>(vec4f(a.x, b.x, a.y, b.y), vec4f(a.z, b.z, a.w, b.w));
  }
  return array<vec4f, 2>(a, b);
}

// Norms, rotates and scales four heads of q, from `head0` on, and the head of k, TURN threads each; where
// `keeps`, k and v go to the rows of the cache that begin at `row`.
fn turn_heads(head0: u32, count: u32, kv_head: u32, row: u32, keeps: bool, index: u32) {
  let head = min(index / TURN, 4u);
  let is_query = head < 4u;
  let own = select(params.heads + kv_head, head0 + min(head, count - 1u), is_query);
  var fours: array<array<vec4f, 2>, MOST_TURNS>;
  var norms: array<array<vec4f, 2>, MOST_TURNS>;
  var turns: array<Turn, MOST_TURNS>;
  let own_value = (own + select(params.kv_heads, 0u, PROJECTED == SHARED)) * WIDTH;
  var square = 0.0;
  var value_square = 0.0;
  for (var n = 0u; n < TURNS; n++) {
    let j = index % TURN + n * TURN;
    if (j < WIDTH / 2u && (is_query || PROJECTED != NONE)) {
      let a = select(j, 2u * j, PAIRS == 1u);
      let b = select(j + WIDTH / 2u, 2u * j + 1u, PAIRS == 1u);
      fours[n] = array<vec4f, 2>(qkv[own * WIDTH + a], qkv[own * WIDTH + b]);
      turns[n] = turn(j);
      if (QK_NORM > 0u && is_query) {
        norms[n] = array<vec4f, 2>(q_norm[a], q_norm[b]);
      } else if (QK_NORM > 0u) {
        norms[n] = array<vec4f, 2>(k_norm[a], k_norm[b]);
      }
      square += dot(fours[n][0], fours[n][0]) + dot(fours[n][1], fours[n][1]);
      if (VALUE_NORM == 1u && !is_query) {
        value_square += dot(qkv[own_value + a], qkv[own_value + a]);
        value_square += dot(qkv[own_value + b], qkv[own_value + b]);
      }
    }
  }
  for (var step = 1u; step < TURN; step *= 2u) {
    square += subgroupShuffleXor(square, step);
    if (VALUE_NORM == 1u) {
      value_square += subgroupShuffleXor(value_square, step);
    }
  }
  let value_scale =
    select(1.0, inverseSqrt(value_square / f32(HEAD_DIM) + params.eps), VALUE_NORM == 1u);
  let inverse = inverseSqrt(square / f32(HEAD_DIM) + params.eps);
  let grown = 1.0 + params.growth * log(1.0 + f32(state.position / params.original));
  for (var n = 0u; n < TURNS; n++) {
    let j = index % TURN + n * TURN;
    if (j < WIDTH / 2u && index < 5u * TURN) {
      let a = select(j, 2u * j, PAIRS == 1u);
      let b = select(j + WIDTH / 2u, 2u * j + 1u, PAIRS == 1u);
      var two = fours[n];
      if (QK_NORM == 1u) {
        two[0] *= inverse * (norms[n][0] + params.offset);
        two[1] *= inverse * (norms[n][1] + params.offset);
      }
      two = rotated(two, turns[n]);
      if (QK_NORM == 2u) {
        two[0] *= inverse * (norms[n][0] + params.offset);
        two[1] *= inverse * (norms[n][1] + params.offset);
      }
      if (is_query) {
        turned[head * WIDTH + a] = params.scale * grown * two[0];
        turned[head * WIDTH + b] = params.scale * grown * two[1];
      } else if (keeps && PROJECTED != NONE && KV_TYPE == Q8) {
        scores[a] = two[0];
        scores[b] = two[1];
        scores[WIDTH + a] = value_scale * qkv[own_value + a];
        scores[WIDTH + b] = value_scale * qkv[own_value + b];
      } else if (keeps && PROJECTED != NONE) {
        keep_key(row, a, two[0]);
        keep_key(row, b, two[1]);
        keep_value(row, a, value_scale * qkv[own_value + a]);
        keep_value(row, b, value_scale * qkv[own_value + b]);
      }
    }
  }
  if (PROJECTED != NONE && KV_TYPE == Q8) {
    workgroupBarrier();
    if (keeps && index < ROW) {
      keys[row + index] = q8_word(0u, index);
    } else if (keeps && index < 2u * ROW) {
      values[row + index - ROW] = q8_word(WIDTH, index - ROW);
    }
  }
}

// Until there are scores, their place has the token's own key and value, for cache_write.wgsl.
fn fresh(i: u32) -> vec4f {
  return scores[i];
}

fn products(k: vec4f, i: u32) -> vec4f {
  return vec4f(dot(turned[i], k), dot(turned[WIDTH + i], k), dot(turned[2u * WIDTH + i], k),
    dot(turned[3u * WIDTH + i], k));
}

// Scores of `size` keys, the first of them `ahead` of the lap (cache.wgsl); `kv` is where their head lies
// in the cache. A thread has two at once, so that it waits for both together.
fn score(kv: u32, ahead: u32, size: u32, index: u32) {
  for (var start = 0u; start < size; start += 512u / LANES) {
    let first = start + index / LANES;
    let second = first + 256u / LANES;
    let at_first = kv + slot_of(ahead + min(first, size - 1u)) * ROW;
    let at_second = kv + slot_of(ahead + min(second, size - 1u)) * ROW;
    var score0 = vec4f();
    var score1 = vec4f();
    for (var i = index % LANES; i < WIDTH; i += LANES) {
      score0 += products(key_at(at_first, i), i);
      score1 += products(key_at(at_second, i), i);
    }
    for (var step = 1u; step < LANES; step *= 2u) {
      score0 += subgroupShuffleXor(score0, step);
      score1 += subgroupShuffleXor(score1, step);
    }
    if (index % LANES == 0u && first < size) {
      scores[first] = capped(score0, 1.0);
    }
    if (index % LANES == 0u && second < size) {
      scores[second] = capped(score1, 1.0);
    }
  }
}

fn largest_of(size: u32, lane: u32) -> vec4f {
  var top = vec4f(LOWEST);
  for (var key = lane; key < size; key += lanes) {
    top = max(top, scores[key]);
  }
  return subgroupMax(top);
}

fn total_of(size: u32, lane: u32) -> vec4f {
  var sum = vec4f();
  for (var key = lane; key < size; key += lanes) {
    sum += shares[key];
  }
  return subgroupAdd(sum);
}

// A column of the values of keys i, i + PARTS, .. of those `size`; `kv` is where their head lies.
fn load_eight(kv: u32, column: u32, ahead: u32, i: u32, size: u32) -> array<vec4f, 8> {
  var out: array<vec4f, 8>;
  for (var n = 0u; n < 8u; n++) {
    out[n] = value_at(kv + slot_of(ahead + min(i + n * PARTS, size - 1u)) * ROW, column);
  }
  return out;
}

// The sum over the threads that share a vec4.
fn part_sum(value: vec4f) -> vec4f {
  var sum = value;
  for (var step = 1u; step < PARTS; step *= 2u) {
    sum += subgroupShuffleXor(sum, step);
  }
  return sum;
}

@compute @workgroup_size(256)
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(local_invocation_index) index: u32,
  @builtin(subgroup_size) subgroup_size: u32,
) {
  if (state.count == 0u) {
    return;
  }
  lanes = subgroup_size;
  let lane = index % subgroup_size;
  let kv_head = params.kv_head0 + workgroup.y;
  let group = params.heads / params.kv_heads;
  let head0 = kv_head * group + 4u * workgroup.z;
  let count = min(4u, group - 4u * workgroup.z);
  let end = min(state.position + 1u, params.context);
  let seen = select(end, min(end, params.window), params.window > 0u);
  let run = (seen + params.splits - 1u) / params.splits;
  let first = min(end - seen + workgroup.x * run, end);
  let stop = min(first + run, end);
  let kv = workgroup.y * params.capacity * ROW;
  let lap = lap_of(end - seen);
  let keeps = stop == end && first < stop;
  turn_heads(head0, count, kv_head, kv + slot_of(end - 1u - lap) * ROW, keeps, index);
  storageBarrier();
  workgroupBarrier();
  let part = index % PARTS;
  let column = min(index / PARTS, WIDTH - 1u);
  var largest = vec4f(LOWEST); // a component a head
  var total = vec4f();
  if (SINKS == 1u && workgroup.x == 0u) {
    let last = head0 + count - 1u;
    largest = vec4f(sinks[head0], sinks[min(head0 + 1u, last)], sinks[min(head0 + 2u, last)],
      sinks[min(head0 + 3u, last)]);
    total = vec4f(1.0);
  }
  var sum0 = vec4f();
  var sum1 = vec4f();
  var sum2 = vec4f();
  var sum3 = vec4f();
  for (var start = first; start < stop; start += 256u) {
    let size = min(256u, stop - start);
    // Values are asked for before there are scores, and eight at a time: waiting is all there is here.
    let ahead = start - lap;
    var eight = load_eight(kv, column, ahead, part, size);
    score(kv, ahead, size, index);
    workgroupBarrier();
    let top = max(largest, largest_of(size, lane));
    let fade = exp(largest - top);
    largest = top;
    if (index < size) {
      shares[index] = exp(scores[index] - top);
    }
    workgroupBarrier(); // after which nobody reads scores, so that the next tile's may be put there
    total = total * fade + total_of(size, lane);
    sum0 *= fade.x;
    sum1 *= fade.y;
    sum2 *= fade.z;
    sum3 *= fade.w;
    for (var i = part; i < size; i += 8u * PARTS) {
      if (i > part) {
        eight = load_eight(kv, column, ahead, i, size);
      }
      for (var n = 0u; n < 8u; n++) {
        let key = i + n * PARTS;
        let weights = select(vec4f(), shares[min(key, 255u)], key < size);
        sum0 += weights.x * eight[n];
        sum1 += weights.y * eight[n];
        sum2 += weights.z * eight[n];
        sum3 += weights.w * eight[n];
      }
    }
  }
  let inverse = select(vec4f(), 1.0 / total, total > vec4f());
  sum0 = part_sum(sum0) * inverse.x;
  sum1 = part_sum(sum1) * inverse.y;
  sum2 = part_sum(sum2) * inverse.z;
  sum3 = part_sum(sum3) * inverse.w;
  let out = (workgroup.x * params.heads + head0) * WIDTH + index / PARTS;
  for (var head = part; head < count && index / PARTS < WIDTH; head += PARTS) {
    partial_out[out + head * WIDTH] =
      select(select(sum2, sum3, head == 3u), select(sum0, sum1, head == 1u), head < 2u);
  }
  if (index < count) {
    partial_lse[workgroup.x * params.heads + head0 + index] = largest[index] + log(max(total[index], 1.0));
  }
}

enable subgroups;
diagnostic(off, subgroup_uniformity);
// rope.wgsl and attention.wgsl for one token, with its keys shared among workgroups: norms and rotates
// q and k, moves k and v into the cache, and sums a run of the keys that the token sees.
// uses: state
// uses: turn
//
// qkv [q_stride]: heads of q, k, v, as projected. keys, values [kv_heads, context, HEAD_DIM] f32, HEAD_DIM
// a multiple of 4 and at most 256. parts [splits, heads, HEAD_DIM]: Σ exp(s - m) · v; marks
// [splits, heads]: (m, Σ exp(s - m)), where m is the run's largest score s; attention_join.wgsl puts
// them together. A workgroup of 128 threads does one run (x) of one key-value head (y) for four of its
// query heads (z): a key a thread for the scores, then a vec4 of the head a thread for the values.
// Every key is read once for the four. Whoever has the token's own key writes it to the cache first;
// where two workgroups do (more than four query heads), they write the same.

override HEAD_DIM: u32;
override PAIRS: u32;
override QK_NORM: u32;
override WIDTH = HEAD_DIM / 4u; // vec4s a head
override PARTS = 128u / (HEAD_DIM / 4u); // threads that share one vec4 of the output

struct Params {
  heads: u32,
  kv_heads: u32,
  context: u32,
  window: u32,
  splits: u32,
  scale: f32,
  eps: f32,
  offset: f32,
}

@group(0) @binding(0) var<storage, read> qkv: array<f32>;
@group(0) @binding(1) var<storage, read> q_norm: array<f32>;
@group(0) @binding(2) var<storage, read> k_norm: array<f32>;
@group(0) @binding(3) var<storage, read> angles: array<vec2f>;
@group(0) @binding(4) var<storage, read_write> keys: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> values: array<vec4f>;
@group(0) @binding(6) var<storage, read_write> parts: array<vec4f>;
@group(0) @binding(7) var<storage, read_write> marks: array<vec2f>;
@group(0) @binding(8) var<storage, read> state: State;
@group(0) @binding(9) var<uniform> params: Params;

const LOWEST = -3.0e38;

var<workgroup> turned: array<f32, 5u * HEAD_DIM>; // four heads of q, then k
var<workgroup> shares: array<vec4f, 128>; // exp(score - largest) of a tile's keys, for four heads
var<workgroup> subgroup_parts: array<vec4f, 32>;
var<workgroup> sums: array<vec4f, 512>; // of values, by thread and head

// q or k heads number `first` .. of qkv, normed, rotated and scaled, to `turned`.
fn turn_head(to: u32, head: u32, lane: u32, live: bool) {
  let base = head * HEAD_DIM;
  var inverse = 1.0;
  if (QK_NORM == 1u) {
    var square = 0.0;
    for (var i = lane; i < HEAD_DIM; i += 128u) {
      square += qkv[base + i] * qkv[base + i];
    }
    inverse = 1.0 / sqrt(workgroup_sum(vec4f(square), lane).x / f32(HEAD_DIM) + params.eps);
  }
  if (!live) {
    return;
  }
  let is_query = to < 4u;
  for (var i = lane; i < HEAD_DIM / 2u; i += 128u) {
    let first = select(i, 2u * i, PAIRS == 1u);
    let second = select(i + HEAD_DIM / 2u, 2u * i + 1u, PAIRS == 1u);
    var a = qkv[base + first];
    var b = qkv[base + second];
    if (QK_NORM == 1u) {
      a *= inverse * (select(k_norm[first], q_norm[first], is_query) + params.offset);
      b *= inverse * (select(k_norm[second], q_norm[second], is_query) + params.offset);
    }
    let turn = angle(state.position, i);
    let scale = select(1.0, params.scale, is_query);
    turned[to * HEAD_DIM + first] = scale * (a * turn.x - b * turn.y);
    turned[to * HEAD_DIM + second] = scale * (b * turn.x + a * turn.y);
  }
}

var<private> lanes: u32; // of a subgroup

fn workgroup_sum(value: vec4f, lane: u32) -> vec4f {
  let sum = subgroupAdd(value);
  if (lane % lanes == 0u) {
    subgroup_parts[lane / lanes] = sum;
  }
  workgroupBarrier();
  var whole = vec4f();
  for (var i = 0u; i < 128u / lanes; i++) {
    whole += subgroup_parts[i];
  }
  workgroupBarrier(); // before the next numbers are put there
  return whole;
}

fn workgroup_max(value: vec4f, lane: u32) -> vec4f {
  let top = subgroupMax(value);
  if (lane % lanes == 0u) {
    subgroup_parts[lane / lanes] = top;
  }
  workgroupBarrier();
  var whole = subgroup_parts[0];
  for (var i = 1u; i < 128u / lanes; i++) {
    whole = max(whole, subgroup_parts[i]);
  }
  workgroupBarrier();
  return whole;
}

fn turned4(head: u32, i: u32) -> vec4f {
  let at = head * HEAD_DIM + 4u * i;
  return vec4f(turned[at], turned[at + 1u], turned[at + 2u], turned[at + 3u]);
}

// Moves the token's k, which is turned, and its v to their place in the cache.
fn keep(kv_head: u32, place: u32, lane: u32) {
  for (var i = lane; i < WIDTH; i += 128u) {
    keys[place + i] = turned4(4u, i);
    let at = (params.heads + params.kv_heads + kv_head) * HEAD_DIM + 4u * i;
    values[place + i] = vec4f(qkv[at], qkv[at + 1u], qkv[at + 2u], qkv[at + 3u]);
  }
}

@compute @workgroup_size(128)
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(local_invocation_index) lane: u32,
  @builtin(subgroup_size) subgroup_size: u32,
) {
  lanes = subgroup_size;
  let kv_head = workgroup.y;
  let group = params.heads / params.kv_heads;
  let head0 = kv_head * group + 4u * workgroup.z;
  let count = min(4u, group - 4u * workgroup.z);
  let end = min(state.position + 1u, params.context);
  let seen = select(end, min(end, params.window), params.window > 0u);
  let run = (seen + params.splits - 1u) / params.splits;
  let first = min(end - seen + workgroup.x * run, end);
  let stop = min(first + run, end);
  for (var i = 0u; i < 4u; i++) {
    turn_head(i, head0 + min(i, count - 1u), lane, first < stop);
  }
  turn_head(4u, params.heads + kv_head, lane, stop == end && first < stop);
  workgroupBarrier();
  let kv = kv_head * params.context * WIDTH;
  if (stop == end && first < stop) {
    keep(kv_head, kv + (end - 1u) * WIDTH, lane);
  }
  storageBarrier();
  workgroupBarrier();
  let column = lane % WIDTH;
  let part = lane / WIDTH;
  var largest = vec4f(LOWEST); // a component a head
  var total = vec4f();
  var sum0 = vec4f();
  var sum1 = vec4f();
  var sum2 = vec4f();
  var sum3 = vec4f();
  for (var tile = 0u; tile < run; tile += 128u) {
    let start = first + tile;
    let size = min(128u, stop - min(start, stop));
    var score = vec4f(LOWEST);
    if (lane < size) {
      let at = kv + (start + lane) * WIDTH;
      score = vec4f();
      for (var i = 0u; i < WIDTH; i++) {
        let key = keys[at + i];
        score += vec4f(dot(turned4(0u, i), key), dot(turned4(1u, i), key),
          dot(turned4(2u, i), key), dot(turned4(3u, i), key));
      }
    }
    let top = max(largest, workgroup_max(score, lane));
    let fade = exp(largest - top);
    largest = top;
    let share = select(vec4f(), exp(score - top), lane < size);
    shares[lane] = share;
    total = total * fade + workgroup_sum(share, lane); // its barriers also show the shares
    sum0 *= fade.x;
    sum1 *= fade.y;
    sum2 *= fade.z;
    sum3 *= fade.w;
    if (part < PARTS) {
      for (var i = part; i < size; i += PARTS) {
        let value = values[kv + (start + i) * WIDTH + column];
        let weights = shares[i];
        sum0 += weights.x * value;
        sum1 += weights.y * value;
        sum2 += weights.z * value;
        sum3 += weights.w * value;
      }
    }
    workgroupBarrier(); // before the next tile's shares are put there
  }
  sums[lane] = sum0;
  sums[128u + lane] = sum1;
  sums[256u + lane] = sum2;
  sums[384u + lane] = sum3;
  workgroupBarrier();
  for (var i = lane; i < count * WIDTH; i += 128u) {
    let head = i / WIDTH;
    var sum = vec4f();
    for (var other = 0u; other < PARTS; other++) {
      sum += sums[128u * head + other * WIDTH + i % WIDTH];
    }
    parts[(workgroup.x * params.heads + head0) * WIDTH + i] = sum;
  }
  if (lane < count) {
    marks[workgroup.x * params.heads + head0 + lane] = vec2f(largest[lane], total[lane]);
  }
}

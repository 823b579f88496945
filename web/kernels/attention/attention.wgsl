// Causal attention with grouped heads: out[t, h] = softmax_k(scale · q[t, h] · K[k]) · V over keys
// k <= p = position + t, and k > p - window where window > 0. Head h reads key-value head
// h / (heads / kv_heads). With SINKS, a logit of the head joins the softmax and is dropped: weights sum
// to less than 1. Scores are capped before (score_cap.wgsl).
// uses: state
// uses: grid
// uses: cache
// uses: score_cap
//
// qkv [batch, q_stride]: q first, rotated. keys, values [kv_count, capacity, ROW], HEAD_DIM a
// multiple of 4 and at most 512. sinks [heads]. out [batch, out_stride]. A workgroup does one head (x) of
// one token (y): tiles of 64 keys, a key a thread for the scores, then a vec4 of the head a thread, or
// two, for the sum over values (threads left over share the tile's keys); the softmax is rescaled from
// tile to tile.

override HEAD_DIM: u32;
override SINKS: u32;
override WIDTH = HEAD_DIM / 4u; // vec4s a head
override PARTS = max(64u / (HEAD_DIM / 4u), 1u); // threads that share one vec4 of the output
override COLUMNS = (HEAD_DIM / 4u + 63u) / 64u; // vec4s that a thread sums

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

var<workgroup> scores: array<f32, 64>;
var<workgroup> shares: array<f32, 64>; // exp(score - largest so far)
var<workgroup> part_sums: array<vec4f, 64>;
var<workgroup> range: vec2u; // first key and one past the last

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) grid: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let group = params.heads / params.kv_heads;
  let head = params.kv_head0 * group + workgroup.x;
  let t = unfolded(workgroup.yz, grid.y);
  if (lane == 0u) {
    let end = min(state.position + t + 1u, params.context);
    let first = select(0u, end - min(end, params.window), params.window > 0u);
    range = select(vec2u(), vec2u(first, end), t < state.count);
  }
  let span = workgroupUniformLoad(&range);
  let query = t * (params.q_stride / 4u) + head * WIDTH;
  let kv = (workgroup.x / group) * params.capacity * ROW;
  let lap = lap_of(span.x);
  let column = lane % WIDTH;
  let part = lane / WIDTH; // 0 of all where a head has more vec4s than there are threads
  var largest = LOWEST;
  var total = 0.0;
  var sum = array<vec4f, 2>();
  if (SINKS == 1u) {
    largest = sinks[head];
    total = select(0.0, 1.0, part == 0u); // of a part each: the sink is added once
  }
  for (var start = span.x; start < span.y; start += 64u) {
    let tile = min(64u, span.y - start);
    var score = LOWEST;
    if (lane < tile) {
      let key = kv + slot_of(start - lap + lane) * ROW;
      var product = vec4f();
      for (var i = 0u; i < WIDTH; i++) {
        product += qkv[query + i] * key_at(key, i);
      }
      let sum = params.scale * (product.x + product.y + product.z + product.w);
      score = capped(vec4f(sum), 1.0).x;
    }
    scores[lane] = score;
    workgroupBarrier();
    let before = largest;
    for (var i = 0u; i < tile; i++) {
      largest = max(largest, scores[i]);
    }
    shares[lane] = select(0.0, exp(score - largest), lane < tile);
    workgroupBarrier(); // also keeps the next tile's scores from being written too early
    let fade = exp(before - largest);
    total *= fade;
    for (var n = 0u; n < COLUMNS; n++) {
      sum[n] *= fade;
    }
    if (part < PARTS) {
      for (var i = part; i < tile; i += PARTS) {
        let value = kv + slot_of(start - lap + i) * ROW;
        for (var n = 0u; n < COLUMNS; n++) {
          sum[n] += shares[i] * value_at(value, min(column + 64u * n, WIDTH - 1u));
        }
        total += shares[i];
      }
    }
  }
  if (span.x == span.y) {
    return;
  }
  part_sums[lane] = sum[0];
  scores[lane] = total;
  workgroupBarrier();
  if (part == 0u) {
    for (var i = 1u; i < PARTS; i++) {
      sum[0] += part_sums[i * WIDTH + lane];
      total += scores[i * WIDTH + lane];
    }
    let place = t * (params.out_stride / 4u) + head * WIDTH;
    for (var n = 0u; n < COLUMNS && lane + 64u * n < WIDTH; n++) {
      out[place + lane + 64u * n] = sum[n] / total;
    }
  }
}

// Per head of q and k: rotation, with RMSNorm before it (QK_NORM 1), after it (2) or none (0); q in place,
// k and v to the cache. Queries are also multiplied by 1 + growth · ln(1 + ⌊position / original⌋).
// With VALUE_NORM, heads of v are normed too, without weights. PROJECTED tells what is projected besides q:
// keys and values (SPLIT), keys that are the values too, before norm and rotation (SHARED), or nothing
// (NONE), in a layer that reads another one's cache.
// (a, b) -> (a cos - b sin, b cos + a sin), pairs (i, i + HEAD_DIM/2) for PAIRS 0, (2i, 2i+1) for 1.
// uses: state
// uses: grid
// uses: rope_math
// uses: cache
// uses: cache_write
//
// qkv [batch, stride]: heads of q, k, v one after another, as far as they are projected. q_norm, k_norm
// [HEAD_DIM]. keys, values
// [kv_count, capacity, ROW]; token t goes to the slot of position + t, if that is below context. A
// workgroup does one head (x) of one token (y): q first, then k, then v.

override HEAD_DIM: u32;
override PAIRS: u32;
override QK_NORM: u32;
override VALUE_NORM: u32;
override PROJECTED: u32;

struct Params {
  heads: u32,
  kv_heads: u32,
  kv_head0: u32, // the first of those whose keys and values are bound
  kv_count: u32, // of them
  stride: u32,
  context: u32,
  capacity: u32,
  eps: f32,
  offset: f32,
  growth: f32,
  original: u32,
}

@group(0) @binding(0) var<storage, read_write> qkv: array<f32>;
@group(0) @binding(1) var<storage, read> q_norm: array<f32>;
@group(0) @binding(2) var<storage, read> k_norm: array<f32>;
@group(0) @binding(3) var<storage, read> angles: array<vec2f>;
@group(0) @binding(4) var<storage, read_write> keys: array<vec2u>;
@group(0) @binding(5) var<storage, read_write> values: array<vec2u>;
@group(0) @binding(6) var<uniform> state: State;
@group(0) @binding(7) var<uniform> params: Params;

const SHARED = 1u; // of PROJECTED; 2: NONE, for which no workgroup does more than queries

var<workgroup> sums: array<f32, 32>;
var<workgroup> kept: array<vec4f, HEAD_DIM / 4u>; // a key or value, for cache_write.wgsl

fn fresh(i: u32) -> vec4f {
  return kept[i];
}

@compute @workgroup_size(32)
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) grid: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let group = params.heads / params.kv_heads;
  let queries = params.kv_count * group; // of the bound key-value heads; then come their k, their v
  let is_query = workgroup.x < queries;
  let is_value = workgroup.x >= queries + params.kv_count;
  let bound_head = (workgroup.x - queries) % params.kv_count; // of a key or value
  var head = params.kv_head0 * group + workgroup.x; // of those of qkv
  if (!is_query) {
    let skipped = select(0u, params.kv_heads, is_value && PROJECTED != SHARED);
    head = params.heads + skipped + params.kv_head0 + bound_head;
  }
  let t = unfolded(workgroup.yz, grid.y);
  let position = state.position + t;
  let live = t < state.count && position < params.context;
  let base = t * params.stride + head * HEAD_DIM;
  var inverse = 1.0;
  if (QK_NORM > 0u || VALUE_NORM == 1u) {
    var sum = 0.0;
    for (var i = lane; i < HEAD_DIM; i += 32u) {
      let value = select(0.0, qkv[base + i], live);
      sum += value * value;
    }
    sums[lane] = sum;
    workgroupBarrier();
    var square = 0.0;
    for (var i = 0u; i < 32u; i++) {
      square += sums[i];
    }
    inverse = 1.0 / sqrt(square / f32(HEAD_DIM) + params.eps);
  }
  if (!live) {
    return;
  }
  if (!is_query) {
    let slot = position - lap_of(position);
    let row = (bound_head * params.capacity + slot) * ROW;
    for (var i = lane; i < HEAD_DIM / 4u; i += 32u) {
      var four: vec4f;
      if (!is_value) {
        four = turned_four(base, 4u * i, position, inverse, false);
      } else {
        let at = base + 4u * i;
        four = vec4f(qkv[at], qkv[at + 1u], qkv[at + 2u], qkv[at + 3u]);
        four *= select(1.0, inverse, VALUE_NORM == 1u);
      }
      if (KV_TYPE == Q8) {
        kept[i] = four;
      } else if (!is_value) {
        keep_key(row, i, four);
      } else {
        keep_value(row, i, four);
      }
    }
    if (KV_TYPE == Q8) {
      workgroupBarrier();
      for (var n = lane; n < ROW; n += 32u) {
        if (!is_value) {
          keys[row + n] = q8_word(0u, n);
        } else {
          values[row + n] = q8_word(0u, n);
        }
      }
    }
    return;
  }
  let grown = 1.0 + params.growth * log(1.0 + f32(position / params.original));
  for (var i = lane; i < HEAD_DIM / 2u; i += 32u) {
    let first = select(i, 2u * i, PAIRS == 1u);
    let second = select(i + HEAD_DIM / 2u, 2u * i + 1u, PAIRS == 1u);
    let a = grown * turned_value(base, first, position, inverse, true);
    let b = grown * turned_value(base, second, position, inverse, true);
    qkv[base + first] = a; // once both are known: each is made of the two
    qkv[base + second] = b;
  }
}

// The experts that a token uses, and the shares in which their outputs are added up. The share of an expert
// is the softmax of its logit over those used (NORMED 1), or over all (0); with SIGMOID σ(logit), divided by
// the sum of those used (NORMED 1). Used are those of the `used` largest logits, largest first, the first
// of equals; with BIASED those of the largest shares of all + biases. topk_ids[t · used + j] is the j-th; its
// share is multiplied by `factor`, and with SCALED by its expert's number.
// uses: state
// uses: grid
//
// logits [batch, stride]; scales, biases [experts]; topk_ids [batch · used] u32, topk_weights likewise f32.
// A workgroup does a token (x): a thread counts for its experts how many come before each.

override NORMED: u32;
override SCALED: u32;
override SIGMOID: u32;
override BIASED: u32;

struct Params {
  experts: u32, // 1024 at most
  used: u32,
  stride: u32,
  factor: f32,
}

@group(0) @binding(0) var<storage, read> logits: array<f32>;
@group(0) @binding(1) var<storage, read_write> topk_ids: array<u32>;
@group(0) @binding(2) var<storage, read_write> topk_weights: array<f32>;
@group(0) @binding(3) var<uniform> state: State;
@group(0) @binding(4) var<uniform> params: Params;
@group(0) @binding(5) var<storage, read> scales: array<f32>;
@group(0) @binding(6) var<storage, read> biases: array<f32>;

const THREADS = 64u;
const LEAST = 1e-20; // that shares are divided by

var<workgroup> all: array<f32, 1024>; // logits, or their logistic functions
var<workgroup> keys: array<f32, 1024>; // what experts are chosen by
var<workgroup> best: array<u32, 1024>; // experts in order, as many as are used

fn rank_of(expert: u32) -> u32 {
  let own = keys[expert];
  var before = 0u;
  for (var i = 0u; i < params.experts; i++) {
    before += u32(keys[i] > own || (keys[i] == own && i < expert));
  }
  return before;
}

fn largest_of_all() -> f32 {
  var largest = all[0];
  for (var i = 1u; i < params.experts; i++) {
    largest = max(largest, all[i]);
  }
  return largest;
}

// What an expert's share is in proportion to; `largest` is the largest logit.
fn likelihood(expert: u32, largest: f32) -> f32 {
  if (SIGMOID == 1u) {
    return all[expert];
  }
  return exp(all[expert] - largest);
}

// By which likelihoods are divided to be shares of all.
fn total_of_all(largest: f32) -> f32 {
  if (SIGMOID == 1u) {
    return 1.0;
  }
  var total = 0.0;
  for (var i = 0u; i < params.experts; i++) {
    total += likelihood(i, largest);
  }
  return total;
}

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) grid: vec3u,
  @builtin(local_invocation_index) index: u32,
) {
  let t = unfolded(workgroup.xy, grid.x);
  if (t >= state.count) {
    return;
  }
  for (var i = index; i < params.experts; i += THREADS) {
    let logit = logits[t * params.stride + i];
    // Below -80, exp would overflow.
    all[i] = select(logit, 1.0 / (1.0 + exp(-max(logit, -80.0))), SIGMOID == 1u);
    keys[i] = all[i];
  }
  workgroupBarrier();
  let largest = largest_of_all();
  var total = 1.0;
  if (NORMED == 0u || BIASED == 1u) {
    total = total_of_all(largest);
  }
  if (BIASED == 1u) {
    for (var i = index; i < params.experts; i += THREADS) {
      keys[i] = likelihood(i, largest) / total + biases[i];
    }
    workgroupBarrier();
  }
  for (var i = index; i < params.experts; i += THREADS) {
    let rank = rank_of(i);
    if (rank < params.used) {
      topk_ids[t * params.used + rank] = i;
      best[rank] = i;
    }
  }
  workgroupBarrier();
  if (NORMED == 1u) {
    total = 0.0;
    for (var j = 0u; j < params.used; j++) {
      total += likelihood(best[j], largest);
    }
  }
  for (var j = index; j < params.used; j += THREADS) {
    var share = params.factor * likelihood(best[j], largest) / max(total, LEAST);
    if (SCALED == 1u) {
      share *= scales[best[j]];
    }
    topk_weights[t * params.used + j] = share;
  }
}

// The experts that a token uses: those of its `used` largest logits, largest first, the first of equals;
// and the shares in which their outputs are added up. topk_ids[t · used + j] is the j-th; its share is its
// softmax over those used (NORMED 1), or over all experts (0), with SCALED times its expert's number.
// uses: state
// uses: grid
//
// logits [batch, stride] f32; scales [experts]; topk_ids [batch · used] u32, topk_weights likewise f32. A workgroup
// does a token (x): a thread counts for its experts how many come before each.

override NORMED: u32;
override SCALED: u32;

struct Params {
  experts: u32, // 1024 at most
  used: u32,
  stride: u32,
}

@group(0) @binding(0) var<storage, read> logits: array<f32>;
@group(0) @binding(1) var<storage, read_write> topk_ids: array<u32>;
@group(0) @binding(2) var<storage, read_write> topk_weights: array<f32>;
@group(0) @binding(3) var<uniform> state: State;
@group(0) @binding(4) var<uniform> params: Params;
@group(0) @binding(5) var<storage, read> scales: array<f32>;

const THREADS = 64u;

var<workgroup> all: array<f32, 1024>;
var<workgroup> best: array<u32, 1024>; // experts in order, as many as are used

fn rank_of(expert: u32) -> u32 {
  let own = all[expert];
  var before = 0u;
  for (var i = 0u; i < params.experts; i++) {
    before += u32(all[i] > own || (all[i] == own && i < expert));
  }
  return before;
}

// How much more likely an expert is than the first.
fn likelihood(expert: u32) -> f32 {
  return exp(all[expert] - all[best[0]]);
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
    all[i] = logits[t * params.stride + i];
  }
  workgroupBarrier();
  for (var i = index; i < params.experts; i += THREADS) {
    let rank = rank_of(i);
    if (rank < params.used) {
      topk_ids[t * params.used + rank] = i;
      best[rank] = i;
    }
  }
  workgroupBarrier();
  var total = 0.0;
  if (NORMED == 1u) {
    for (var j = 0u; j < params.used; j++) {
      total += likelihood(best[j]);
    }
  } else {
    for (var i = 0u; i < params.experts; i++) {
      total += likelihood(i);
    }
  }
  for (var j = index; j < params.used; j += THREADS) {
    var share = likelihood(best[j]) / total;
    if (SCALED == 1u) {
      share *= scales[best[j]];
    }
    topk_weights[t * params.used + j] = share;
  }
}

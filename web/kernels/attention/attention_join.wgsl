// Joins the runs of attention_decode.wgsl: out[h] = Σ_s w · partial_out[s, h] / Σ_s w, where
// w = exp(partial_lse[s, h] - the largest of them). Runs without keys have the lowest.
// uses: state
//
// partial_out [splits, heads, HEAD_DIM] f32; partial_lse [splits, heads]; out [heads, HEAD_DIM]; HEAD_DIM is a
// multiple of 4 and at most 512, and there are at most 256 runs. A workgroup of 256 threads does one
// head (x): a run a thread for the weights, then a vec4 of the head, which several threads share.

override HEAD_DIM: u32;
override WIDTH = HEAD_DIM / 4u; // vec4s a head
override PARTS = 256u / (HEAD_DIM / 4u); // threads that share one vec4 of the output

struct Params {
  heads: u32,
  splits: u32,
}

@group(0) @binding(0) var<storage, read> partial_out: array<vec4f>;
@group(0) @binding(1) var<storage, read> partial_lse: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<vec4f>;
@group(0) @binding(3) var<uniform> state: State;
@group(0) @binding(4) var<uniform> params: Params;

var<workgroup> weights: array<f32, 256>; // of the runs
var<workgroup> sums: array<vec4f, 256>;
var<workgroup> totals: array<f32, 256>;

@compute @workgroup_size(256)
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(local_invocation_index) index: u32,
) {
  if (state.count == 0u) {
    return;
  }
  let head = workgroup.x;
  if (index < params.splits) {
    weights[index] = partial_lse[index * params.heads + head];
  }
  workgroupBarrier();
  var largest = weights[0];
  for (var i = 1u; i < params.splits; i++) {
    largest = max(largest, weights[i]);
  }
  let part = index / WIDTH;
  var sum = vec4f();
  var total = 0.0;
  if (part < PARTS) {
    for (var i = part; i < params.splits; i += PARTS) {
      let weight = exp(weights[i] - largest);
      sum += weight * partial_out[(i * params.heads + head) * WIDTH + index % WIDTH];
      total += weight;
    }
  }
  sums[index] = sum;
  totals[index] = total;
  workgroupBarrier();
  if (index < WIDTH) {
    for (var i = 1u; i < PARTS; i++) {
      sum += sums[i * WIDTH + index];
      total += totals[i * WIDTH + index];
    }
    out[head * WIDTH + index] = sum / total;
  }
}

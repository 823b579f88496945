// The largest logit of every block of 4 · BLOCK tokens, and its id: what sample.wgsl starts from, so
// that it need not read the whole vocabulary with its one workgroup.
// uses: state
// uses: logits
//
// tops [blocks rounded up to a vec4]: the largest, after penalty, temperature and mask, LOWEST where
// there is none; ids [the same]. A logit that is infinite or NaN counts as the largest there can be, with
// BROKEN for its id. A workgroup of 256 threads does 256 / LANES blocks, LANES threads each: a power of
// two up to 32; one on CPUs, where waiting for each other is what costs.

override LANES: u32;

@group(0) @binding(0) var<storage, read> logits: array<vec4f>;
@group(0) @binding(1) var<storage, read> seen: array<u32>;
@group(0) @binding(2) var<storage, read_write> tops: array<f32>;
@group(0) @binding(3) var<storage, read_write> ids: array<u32>;
@group(0) @binding(4) var<storage, read> verify_row: array<u32>;
@group(0) @binding(5) var<storage, read> mask: array<u32>;
@group(0) @binding(6) var<uniform> state: State;
@group(0) @binding(7) var<uniform> params: Params;

var<workgroup> bests: array<Best, 256>;

@compute @workgroup_size(256)
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  if (state.count == 0u) {
    return;
  }
  row = select(0u, verify_row[0], VERIFIES == 1u);
  let block = (workgroup.x * 256u + thread) / LANES;
  let all = select((params.vocab + 3u) / 4u, 0u, row == NONE);
  let each = BLOCK / LANES;
  let first = block * BLOCK + thread % LANES * each;
  var best = Best(LOWEST, NONE);
  for (var i = first; i < min(first + each, all); i++) {
    let z = load_z(i);
    let broken = are_broken(load_logits(i));
    for (var c = 0u; c < 4u; c++) {
      if (4u * i + c < params.vocab) {
        best = better(best, Best(z[c], 4u * i + c));
        if (broken[c]) {
          best = Best(HIGHEST, BROKEN);
        }
      }
    }
  }
  for (var step = LANES / 2u; step > 0u; step /= 2u) {
    bests[thread] = best;
    workgroupBarrier();
    if (thread % LANES < step) {
      best = better(best, bests[thread + step]);
    }
    workgroupBarrier();
  }
  if (thread % LANES == 0u && block < arrayLength(&tops)) {
    tops[block] = best.z;
    ids[block] = best.id;
  }
}

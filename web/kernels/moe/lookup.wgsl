// Where the experts that tokens use lie, of which a layer keeps only some on the GPU: topk_ids[i] is the slot of
// expert routed[i], as `table` has it, or `slots` where it has none; products leave such pairs out. With HALTS,
// one that has none halts the plan at the layer, by its number + 1, before anything is computed with it.
//
// demand [experts]: pairs of this batch by expert, for the host, which brings those that are missing. uses
// [experts]: (what the clock said when an expert was used last, pairs so far); 0 is never. table [experts]: slot or NONE. routed and
// topk_ids [batch · used] u32. One workgroup: a thread does every 256th pair, and every 256th expert.
// uses: state

override HALTS: u32;

struct Params {
  experts: u32,
  used: u32,
  slots: u32,
  cause: u32,
}

@group(0) @binding(0) var<storage, read> routed: array<u32>;
@group(0) @binding(1) var<storage, read> table: array<u32>;
@group(0) @binding(2) var<storage, read_write> topk_ids: array<u32>;
@group(0) @binding(3) var<storage, read_write> demand: array<atomic<u32>>;
@group(0) @binding(4) var<storage, read_write> uses: array<vec2u>;
@group(0) @binding(5) var<storage, read_write> state: State;
@group(0) @binding(6) var<uniform> params: Params;

const THREADS = 256u;
const NONE = 0xffffffffu;

var<workgroup> missing: atomic<u32>;
var<workgroup> pairs: u32;
var<workgroup> halts: u32;

@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) index: u32) {
  if (index == 0u) {
    pairs = state.count * params.used;
  }
  let count = workgroupUniformLoad(&pairs);
  if (count == 0u) {
    return;
  }
  for (var expert = index; expert < params.experts; expert += THREADS) {
    atomicStore(&demand[expert], 0u);
  }
  storageBarrier();
  for (var i = index; i < count; i += THREADS) {
    let expert = routed[i];
    let slot = table[expert];
    topk_ids[i] = min(slot, params.slots);
    atomicAdd(&demand[expert], 1u);
    if (slot == NONE) {
      atomicStore(&missing, 1u);
    }
  }
  storageBarrier();
  workgroupBarrier();
  if (HALTS == 0u) {
    return;
  }
  if (index == 0u) {
    halts = atomicLoad(&missing);
  }
  if (workgroupUniformLoad(&halts) != 0u) {
    if (index == 0u) {
      state.count = 0u;
      state.halted = params.cause;
    }
    return;
  }
  let now = state.clock + 1u;
  for (var expert = index; expert < params.experts; expert += THREADS) {
    let asked = atomicLoad(&demand[expert]);
    if (asked > 0u) {
      uses[expert] = vec2u(now, uses[expert].y + asked);
    }
  }
  workgroupBarrier();
  if (index == 0u) {
    state.clock = now;
  }
}

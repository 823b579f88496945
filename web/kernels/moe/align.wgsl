// The slots of a batch by expert, for products of many tokens with each: `order` has the slots of the first
// expert, then of the second, ..; `tiles` cuts them into runs of up to `size`, none of which has slots of
// two experts: (expert, first place in order, one past the last, 0), and nothing after the last run. In
// which order an expert's slots come is left to chance: nothing that is computed from them depends on it.
// uses: state
//
// topk_ids [batch · used]: experts by slot; order [batch · used] u32; tiles [tiles] vec4u. One workgroup: a
// thread counts the slots and makes the tiles of its experts.

struct Params {
  experts: u32, // 1024 at most
  used: u32,
  size: u32,
  tiles: u32, // that there is room for, and that the plan dispatches
}

@group(0) @binding(0) var<storage, read> topk_ids: array<u32>;
@group(0) @binding(1) var<storage, read_write> order: array<u32>;
@group(0) @binding(2) var<storage, read_write> tiles: array<vec4u>;
@group(0) @binding(3) var<uniform> state: State;
@group(0) @binding(4) var<uniform> params: Params;

const THREADS = 256u;

var<workgroup> counts: array<atomic<u32>, 1024>;
var<workgroup> places: array<atomic<u32>, 1024>; // where an expert's next slot goes

@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) index: u32) {
  if (state.count == 0u) {
    return;
  }
  let slots = state.count * params.used;
  for (var i = index; i < slots; i += THREADS) {
    atomicAdd(&counts[topk_ids[i]], 1u);
  }
  workgroupBarrier();
  for (var expert = index; expert < params.experts; expert += THREADS) {
    var place = 0u;
    var tile = 0u;
    for (var i = 0u; i < expert; i++) {
      let count = atomicLoad(&counts[i]);
      place += count;
      tile += (count + params.size - 1u) / params.size;
    }
    atomicStore(&places[expert], place);
    let end = place + atomicLoad(&counts[expert]);
    for (; place < end; place += params.size) {
      tiles[tile] = vec4u(expert, place, min(place + params.size, end), 0u);
      tile++;
    }
    if (expert == params.experts - 1u) {
      for (; tile < params.tiles; tile++) {
        tiles[tile] = vec4u();
      }
    }
  }
  workgroupBarrier();
  for (var i = index; i < slots; i += THREADS) {
    order[atomicAdd(&places[topk_ids[i]], 1u)] = i;
  }
}

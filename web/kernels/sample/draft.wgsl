// Drafts what comes next by looking up what came next before: the latest earlier place where the last
// ids stand, as many of them as possible up to LONGEST, and what follows there.
// uses: state
//
// history [context]: ids so far, of which tokens[0] is the last, at state.position. Writes up to
// `most` drafts to tokens[1..], and 1 + their number to state.count; where what follows comes to the
// end of history, it goes on with the drafts themselves: a text that repeats itself is drafted on.
// Clears verify_row[0], the row that sample.wgsl starts from.
//
// One workgroup; a place a thread, then the one 256 before it, and so on.

override LONGEST: u32; // ids that are compared: more would not make a place better

struct Params {
  context: u32,
  most: u32,
}

@group(0) @binding(0) var<storage, read> history: array<u32>;
@group(0) @binding(1) var<storage, read_write> tokens: array<u32>;
@group(0) @binding(2) var<storage, read_write> verify_row: array<u32>;
@group(0) @binding(3) var<storage, read_write> state: State;
@group(0) @binding(4) var<uniform> params: Params;

const PLACE_BITS = 28u; // of a candidate: ids that match << PLACE_BITS | where they end

var<workgroup> latest: atomic<u32>; // the best candidate; 0: there is none
var<workgroup> end: u32; // ids in history; 0 while the plan is halted

// How many ids before `place` are the last ids of history.
fn matching(place: u32, length: u32) -> u32 {
  var same = 0u;
  while (same < min(place, LONGEST) && history[place - 1u - same] == history[length - 1u - same]) {
    same += 1u;
  }
  return same;
}

@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) thread: u32) {
  if (thread == 0u) {
    end = select(min(state.position + 1u, params.context), 0u, state.count == 0u);
  }
  let length = workgroupUniformLoad(&end);
  if (length == 0u) {
    return;
  }
  var best = 0u;
  for (var back = thread + 1u; back < length; back += 256u) {
    let place = length - back;
    let same = matching(place, length);
    best = max(best, select(0u, (same << PLACE_BITS) | place, same > 0u));
  }
  atomicMax(&latest, best);
  workgroupBarrier();
  let found = atomicLoad(&latest);
  let place = found & ((1u << PLACE_BITS) - 1u);
  let drafts = select(0u, min(params.most, params.context - length), found > 0u);
  for (var i = thread; i < drafts; i += 256u) {
    tokens[1u + i] = history[place + i % (length - place)];
  }
  if (thread == 0u) {
    state.count = 1u + drafts;
    verify_row[0] = 0u;
  }
}

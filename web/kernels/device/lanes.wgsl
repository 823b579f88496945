enable subgroups;
// Whether a subgroup is a run of local invocation indices, in their order. WGSL does not promise it, and the
// kernels that share sums among lanes take lane = index % size for granted.
//
// runs [256]: 1 where a thread's lane, and its subgroup's place among the others, are those; else 0. One
// workgroup, as large as theirs.

@group(0) @binding(0) var<storage, read_write> runs: array<u32>;

@compute @workgroup_size(256)
fn main(
  @builtin(local_invocation_index) index: u32,
  @builtin(subgroup_invocation_id) lane: u32,
  @builtin(subgroup_size) size: u32,
) {
  let first = subgroupBroadcastFirst(index / size);
  runs[index] = u32(lane == index % size && first == index / size);
}

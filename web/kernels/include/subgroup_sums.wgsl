// Sums over a workgroup, and over a team of its threads (matvec_rows.wgsl), by subgroups. Put before kernels whose
// header says "uses: subgroup_sums"; it needs grid.wgsl. A subgroup is a run of local invocation indices
// (lanes.wgsl sees to that).

var<workgroup> parts: array<vec4f, 64>; // sums of each subgroup of at least 4 lanes
var<private> lanes: u32; // of a subgroup

fn total_of(value: f32, index: u32, at: u32) -> f32 {
  let sum = subgroupAdd(value);
  if (index % lanes == 0u) {
    parts[index / lanes][at] = sum;
  }
  workgroupBarrier();
  var part = 0.0;
  for (var i = index % lanes; i < THREADS / lanes; i += lanes) {
    part += parts[i][at];
  }
  return subgroupAdd(part);
}

// The sum over a team, for its first thread. `size`: lanes of a subgroup.
fn team_sum(value: vec4f, index: u32, size: u32) -> vec4f {
  var sum = value;
  for (var step = 1u; step < min(TEAM, size); step *= 2u) {
    sum += subgroupShuffleXor(sum, step);
  }
  if (TEAM > size) {
    if (index % size == 0u) {
      parts[index / size] = sum;
    }
    workgroupBarrier();
    let each = TEAM / size;
    sum = vec4f();
    for (var i = 0u; i < each; i++) {
      sum += parts[(index / TEAM) * each + i];
    }
    workgroupBarrier();
  }
  return sum;
}

@compute @workgroup_size(256)
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) grid: vec3u,
  @builtin(local_invocation_index) index: u32,
  @builtin(subgroup_size) subgroup_size: u32,
) {
  lanes = subgroup_size;
  if (take_slot(workgroup.z)) {
    multiply_rows(index, unfolded(workgroup.xy, grid.x), grid.x * grid.y, subgroup_size);
  }
}

// Sums over a workgroup, and over a team of its threads (matvec_rows.wgsl), by workgroup memory: for GPUs without
// subgroups. Put before kernels whose header says "uses: workgroup_sums"; it needs grid.wgsl.

var<workgroup> parts: array<vec4f, 128>; // of the half of the threads that hands on what it has

fn total_of(value: f32, index: u32, at: u32) -> f32 {
  var sum = value;
  for (var step = THREADS / 2u; step > 0u; step /= 2u) {
    if (index >= step && index < 2u * step) {
      parts[index - step][at] = sum;
    }
    workgroupBarrier();
    if (index < step) {
      sum += parts[index][at];
    }
    workgroupBarrier();
  }
  if (index == 0u) {
    parts[0][at] = sum;
  }
  workgroupBarrier();
  return parts[0][at];
}

// The sum over a team, for its first thread. `size`: lanes of a subgroup, each thread being its own.
fn team_sum(value: vec4f, index: u32, size: u32) -> vec4f {
  var sum = value;
  let lane = index % TEAM;
  let first = index / TEAM * (TEAM / 2u);
  for (var step = TEAM / 2u; step > size / 2u; step /= 2u) {
    if (lane >= step && lane < 2u * step) {
      parts[first + lane - step] = sum;
    }
    workgroupBarrier();
    if (lane < step) {
      sum += parts[first + lane];
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
) {
  if (take_slot(workgroup.z)) {
    multiply_rows(index, unfolded(workgroup.xy, grid.x), grid.x * grid.y, 1u);
  }
}

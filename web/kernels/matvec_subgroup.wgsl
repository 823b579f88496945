enable subgroups;
diagnostic(off, subgroup_uniformity);
// matvec.wgsl with subgroups: out[out0 + row0 + r] = Σ_c W[r, c] · v[c], or act(gate) · up of pairs of
// rows; v is one token's activations, with norms folded in (see vector.wgsl).
// uses: planes
// uses: state
// uses: vector
//
// A team of TEAM threads (a power of two up to 256) computes ROWS rows (1, 2 or 4; pairs for an
// activation) at once: each thread takes every TEAM-th group of 32 columns, and uses the activations
// that it loads for all of the rows. A workgroup of 256 threads does 256 / TEAM · ROWS rows, and goes
// on with later ones when the grid is smaller than the matrix. It is assumed, as everywhere, that a
// subgroup is a run of local invocation indices.

override TEAM: u32;
override ROWS: u32;

var<workgroup> parts: array<vec4f, 64>; // sums of each subgroup of at least 4 lanes
var<private> lanes: u32; // of a subgroup

fn total_of(value: f32, index: u32, at: u32) -> f32 {
  let sum = subgroupAdd(value);
  if (index % lanes == 0u) {
    parts[index / lanes].x = sum;
  }
  workgroupBarrier();
  var whole = 0.0;
  for (var i = 0u; i < 256u / lanes; i++) {
    whole += parts[i].x;
  }
  workgroupBarrier(); // before the next sums are put there
  return whole;
}

// The sum over a team; every thread of it gets it.
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

fn product(row: u32, g: u32, a: Half, b: Half, sum: f32) -> f32 {
  return group_product(load_group(row, g, COLS), a, b, sum);
}

@compute @workgroup_size(256)
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) grid: vec3u,
  @builtin(local_invocation_index) index: u32,
  @builtin(subgroup_size) subgroup_size: u32,
) {
  lanes = subgroup_size;
  let number = workgroup.y * grid.x + workgroup.x;
  stage(index, 256u, number == 0u);
  let step = 256u / TEAM * ROWS;
  for (var start = number * step; start < params.rows; start += grid.x * grid.y * step) {
    let r = start + ROWS * (index / TEAM);
    let rows = vec4u(row_of(r), row_of(r + 1u), row_of(r + 2u), row_of(r + 3u));
    var sums = vec4f();
    for (var g = index % TEAM; g < groups_of(COLS); g += TEAM) {
      let a = staged_half(g, 0u);
      let b = staged_half(g, 1u);
      let sum = sum_of(a) + sum_of(b);
      sums.x += product(rows.x, g, a, b, sum);
      if (ROWS > 1u) {
        sums.y += product(rows.y, g, a, b, sum);
      }
      if (ROWS > 2u) {
        sums.z += product(rows.z, g, a, b, sum);
        sums.w += product(rows.w, g, a, b, sum);
      }
    }
    sums = team_sum(sums, index, subgroup_size);
    if (index % TEAM == 0u) {
      if (ROWS == 1u) {
        if (r < params.rows) {
          out[params.out0 + params.row0 + r] = sums.x;
        }
      } else {
        store_two(r, sums.xy);
      }
      if (ROWS > 2u) {
        store_two(r + 2u, sums.zw);
      }
    }
  }
}

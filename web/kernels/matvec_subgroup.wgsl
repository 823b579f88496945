enable subgroups;
diagnostic(off, subgroup_uniformity);
// matvec.wgsl with subgroups: out[out0 + row0 + r] = Σ_c W[r, c] · v[c], or act(gate) · up of pairs of
// rows; v is one token's activations, with norms folded in (see vector.wgsl).
// uses: planes
// uses: state
// uses: vector
//
// A team of TEAM threads computes 4 rows at once: a thread takes a quarter of a group of 32 columns at
// a time, a word of codes, so that neighbours read neighbouring words, and uses the activations that
// it loads for 4 rows. A workgroup of 128 threads does 128 / TEAM times 4 rows, and goes on with later
// ones when the grid is smaller than the matrix. TEAM is a multiple of the subgroup size and divides
// 128. It is assumed, as everywhere, that a subgroup is a run of local invocation indices.

override TEAM: u32;

var<workgroup> parts: array<vec4f, 32>; // sums of each subgroup of at least 4 lanes

fn total_of(value: f32, index: u32, at: u32) -> f32 {
  let sum = subgroupAdd(value);
  let size = lanes;
  if (index % size == 0u) {
    squares[at + index / size] = sum;
  }
  workgroupBarrier();
  var whole = 0.0;
  for (var i = 0u; i < 128u / size; i++) {
    whole += squares[at + i];
  }
  return whole;
}

fn product(row: u32, g: u32, q: u32, a: vec4f, b: vec4f, sum: f32) -> f32 {
  let w = load_quarter(row, g, q, COLS);
  return w.scale.x * dot(w.a, a) + w.scale.y * dot(w.b, b) - w.minimum * sum;
}

var<private> lanes: u32;

@compute @workgroup_size(128)
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) grid: vec3u,
  @builtin(local_invocation_index) index: u32,
  @builtin(subgroup_size) subgroup_size: u32,
) {
  lanes = subgroup_size;
  let number = workgroup.y * grid.x + workgroup.x;
  stage(index, 128u, number == 0u);
  let lane = index % TEAM;
  let quarters = 4u * groups_of(COLS);
  let step = 128u / TEAM * 4u;
  for (var start = number * step; start < params.rows; start += grid.x * grid.y * step) {
    let row = start + 4u * (index / TEAM);
    let rows = four_rows(row);
    var sums = vec4f();
    for (var i = lane; i < quarters; i += TEAM) {
      let g = i / 4u;
      let q = i % 4u;
      let a = activation(8u * g + q);
      let b = activation(8u * g + 4u + q);
      let sum = dot(a + b, vec4f(1.0));
      sums += vec4f(product(rows.x, g, q, a, b, sum), product(rows.y, g, q, a, b, sum),
        product(rows.z, g, q, a, b, sum), product(rows.w, g, q, a, b, sum));
    }
    sums = subgroupAdd(sums);
    if (TEAM > subgroup_size) {
      if (index % subgroup_size == 0u) {
        parts[index / subgroup_size] = sums;
      }
      workgroupBarrier();
      let each = TEAM / subgroup_size;
      sums = vec4f();
      for (var i = 0u; i < each; i++) {
        sums += parts[(index / TEAM) * each + i];
      }
      workgroupBarrier(); // before the next rows' sums are put there
    }
    if (lane == 0u && row < params.rows) {
      store_four(row, sums);
    }
  }
}

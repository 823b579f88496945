enable subgroups;
diagnostic(off, subgroup_uniformity);
// matvec.wgsl with subgroups: out[out0 + row0 + r] = Σ_c W[r, c] · x[t, c], t = last ? count - 1 : 0.
// uses: planes
// uses: state
// uses: product
//
// The lanes of a subgroup share the groups of 32 columns and add up their sums; each lane uses the
// activations that it loads for 4 rows. A workgroup of 64 threads does 8 rows: subgroups of 32 do 4
// each, others take turns. It is assumed, as everywhere, that a subgroup is a run of local
// invocation indices. Small subgroups, which CPUs have, are better served by matvec.wgsl.

fn store(r: u32, lane: u32, sum: f32) {
  if (lane == 0u && r < params.rows) {
    out[params.out0 + params.row0 + r] = sum;
  }
}

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) grid: vec3u,
  @builtin(local_invocation_index) index: u32,
  @builtin(subgroup_size) subgroup_size: u32,
) {
  let size = min(subgroup_size, 64u);
  let lane = index % size;
  let start = (workgroup.y * grid.x + workgroup.x) * 8u;
  let base = token() * (params.x_stride / 4u);
  let groups = groups_of(params.cols);
  for (var r = 4u * (index / size); r < 8u; r += 4u * (64u / size)) {
    let row = start + r;
    var sums0 = vec4f();
    var sums1 = vec4f();
    var sums2 = vec4f();
    var sums3 = vec4f();
    for (var g = lane; g < groups; g += size) {
      let a = load_half(base, 8u * g);
      let b = load_half(base, 8u * g + 4u);
      sums0 += products(row, g, a, b);
      sums1 += products(row + 1u, g, a, b);
      sums2 += products(row + 2u, g, a, b);
      sums3 += products(row + 3u, g, a, b);
    }
    let sums = subgroupAdd(vec4f(total(sums0), total(sums1), total(sums2), total(sums3)));
    store(row, lane, sums.x);
    store(row + 1u, lane, sums.y);
    store(row + 2u, lane, sums.z);
    store(row + 3u, lane, sums.w);
  }
}

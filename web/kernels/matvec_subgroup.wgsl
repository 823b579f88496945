enable subgroups;
diagnostic(off, subgroup_uniformity);
// matvec.wgsl with subgroups: out[out0 + row0 + r] = Σ_c W[r, c] · x[t, c], t = last ? count - 1 : 0.
// uses: planes
//
// The lanes of a subgroup share the groups of 32 columns and add up their sums; each lane uses the
// activations that it loads for 4 rows. A workgroup of 64 threads does 8 rows: subgroups of 32 do 4
// each, others take turns. It is assumed, as everywhere, that a subgroup is a run of local
// invocation indices. Small subgroups, which CPUs have, are better served by matvec.wgsl.

struct Params {
  rows: u32,
  cols: u32,
  row0: u32,
  x_stride: u32,
  out_stride: u32,
  out0: u32,
  last: u32,
}

struct State {
  position: u32,
  count: u32,
  step: u32,
  seed: u32,
}

@group(0) @binding(3) var<storage, read> x: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;
@group(0) @binding(5) var<storage, read> state: State;
@group(0) @binding(6) var<uniform> params: Params;

fn load_x(base: u32, at: u32) -> vec4f {
  if (FORM < 3u && at >= (params.cols + 3u) / 4u) {
    return vec4f(); // beyond a short last group
  }
  return x[base + at];
}

// 16 activations from vec4 `at` of a token's row on.
fn load_half(base: u32, at: u32) -> Half {
  return Half(load_x(base, at), load_x(base, at + 1u), load_x(base, at + 2u), load_x(base, at + 3u));
}

// Products of row r with 32 columns, in four parts.
fn products(r: u32, g: u32, a: Half, b: Half) -> vec4f {
  let group = load_group(min(r, params.rows - 1u), g, params.cols);
  return multiply(first_half(group), a) + multiply(second_half(group), b);
}

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
  let base = select(0u, state.count - 1u, params.last == 1u) * (params.x_stride / 4u);
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

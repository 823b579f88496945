enable subgroups;
diagnostic(off, subgroup_uniformity);
// matvec.wgsl with subgroups: out[out0 + row0 + r] = Σ_c W[r, c] · x[t, c], t = last ? count - 1 : 0.
// uses: planes
//
// The lanes of a subgroup share the groups of 32 columns of a row and add up their sums. A workgroup
// of 64 threads does 8 rows; its subgroups, whatever their size, take equal shares of them. It is
// assumed, as everywhere, that a subgroup is a run of local invocation indices.

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
  for (var r = index / size; r < 8u; r += 64u / size) {
    let row = start + r;
    var sums = vec4f();
    if (row < params.rows) {
      for (var g = lane; g < groups; g += size) {
        let group = load_group(row, g, params.cols);
        for (var w = 0u; w < 4u; w++) {
          sums += first_half(group, w) * load_x(base, 8u * g + w);
          sums += second_half(group, w) * load_x(base, 8u * g + w + 4u);
        }
      }
    }
    let sum = subgroupAdd(sums.x + sums.y + sums.z + sums.w);
    if (lane == 0u && row < params.rows) {
      out[params.out0 + params.row0 + row] = sum;
    }
  }
}

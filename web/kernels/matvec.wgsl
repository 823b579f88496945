// out[out0 + row0 + r] = Σ_c W[r, c] · x[t, c] for one token: t = last ? count - 1 : 0.
// uses: planes
//
// x [batch, x_stride] f32, out [.., out_stride] f32, of which row 0 is written. A thread computes 4
// rows, a workgroup 128: no workgroup memory and no subgroups, so that it runs everywhere.

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

fn store(r: u32, sums: vec4f) {
  if (r < params.rows) {
    out[params.out0 + params.row0 + r] = total(sums);
  }
}

@compute @workgroup_size(32)
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) grid: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let row = ((workgroup.y * grid.x + workgroup.x) * 32u + lane) * 4u;
  if (row >= params.rows) {
    return;
  }
  let base = select(0u, state.count - 1u, params.last == 1u) * (params.x_stride / 4u);
  let groups = groups_of(params.cols);
  var sums0 = vec4f();
  var sums1 = vec4f();
  var sums2 = vec4f();
  var sums3 = vec4f();
  for (var g = 0u; g < groups; g++) {
    let a = load_half(base, 8u * g);
    let b = load_half(base, 8u * g + 4u);
    sums0 += products(row, g, a, b);
    sums1 += products(row + 1u, g, a, b);
    sums2 += products(row + 2u, g, a, b);
    sums3 += products(row + 3u, g, a, b);
  }
  store(row, sums0);
  store(row + 1u, sums1);
  store(row + 2u, sums2);
  store(row + 3u, sums3);
}

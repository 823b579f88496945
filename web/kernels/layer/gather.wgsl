// Embedding: out[t] = scale · W[tokens[t] - row0], for tokens t < count whose row is in this slice. With
// IN_ORDER, the matrix has a row for each of them instead: out[t] = scale · W[t].
// uses: types
// uses: dequantize
// uses: state
// uses: grid
//
// tokens [batch] u32; out [batch, stride] f32. A thread unpacks one group of 32 columns; x runs over
// groups, y over tokens.

override IN_ORDER: u32;

struct Params {
  rows: u32,
  cols: u32,
  row0: u32,
  stride: u32,
  scale: f32,
}

@group(0) @binding(3) var<storage, read> tokens: array<u32>;
@group(0) @binding(4) var<uniform> state: State;
@group(0) @binding(5) var<storage, read_write> out: array<vec4f>;
@group(0) @binding(6) var<uniform> params: Params;

fn store(base: u32, at: u32, half: Half) {
  let width = (params.cols + 3u) / 4u;
  if (at < width) {
    out[base + at] = params.scale * half.v0;
  }
  if (at + 1u < width) {
    out[base + at + 1u] = params.scale * half.v1;
  }
  if (at + 2u < width) {
    out[base + at + 2u] = params.scale * half.v2;
  }
  if (at + 3u < width) {
    out[base + at + 3u] = params.scale * half.v3;
  }
}

@compute @workgroup_size(32)
fn main(
  @builtin(global_invocation_id) id: vec3u,
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) grid: vec3u,
) {
  let g = id.x;
  let t = unfolded(workgroup.yz, grid.y);
  if (t >= state.count || g >= groups_of(params.cols)) {
    return;
  }
  // Below row0 it wraps, and so is too large.
  let row = select(tokens[t] - params.row0, t, IN_ORDER == 1u);
  if (row >= params.rows) {
    return;
  }
  let group = load_group(row, g, params.cols);
  let base = t * (params.stride / 4u);
  for (var h = 0u; h < 2u; h++) {
    store(base, 8u * g + 4u * h, half_of(group, h));
  }
}

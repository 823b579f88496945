// out[t, out0 + row0 + r] = Σ_c W[r, c] · x[t, c] for tokens t < count and rows r of this slice.
// uses: planes
//
// x [batch, x_stride] f32, out [batch, out_stride] f32. A thread computes 4 rows × 4 tokens in
// registers: each unpacked weight serves 4 tokens. A workgroup of 16 × 4 threads: 64 rows × 16 tokens.

struct Params {
  rows: u32,
  cols: u32,
  row0: u32,
  x_stride: u32,
  out_stride: u32,
  out0: u32,
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

// Columns 4·at .. 4·at+3 of four tokens, a token a column: v * it is the four dot products.
fn load_x(base: vec4u, at: u32) -> mat4x4f {
  if (FORM < 3u && at >= (params.cols + 3u) / 4u) {
    return mat4x4f(); // beyond a short last group
  }
  return mat4x4f(x[base.x + at], x[base.y + at], x[base.z + at], x[base.w + at]);
}

fn store(t: u32, row: u32, sums: vec4f) {
  for (var i = 0u; i < 4u; i++) {
    if (t + i < state.count && row < params.rows) {
      out[(t + i) * params.out_stride + params.out0 + params.row0 + row] = sums[i];
    }
  }
}

@compute @workgroup_size(16, 4)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let row = id.x * 4u;
  let t = id.y * 4u;
  if (row >= params.rows || t >= state.count) {
    return;
  }
  let rows = min(vec4u(row, row + 1u, row + 2u, row + 3u), vec4u(params.rows - 1u));
  let tokens = min(vec4u(t, t + 1u, t + 2u, t + 3u), vec4u(state.count - 1u));
  let base = tokens * (params.x_stride / 4u);
  var sum0 = vec4f(); // of the first row, for each token
  var sum1 = vec4f();
  var sum2 = vec4f();
  var sum3 = vec4f();
  let groups = groups_of(params.cols);
  for (var g = 0u; g < groups; g++) {
    let group0 = load_group(rows.x, g, params.cols);
    let group1 = load_group(rows.y, g, params.cols);
    let group2 = load_group(rows.z, g, params.cols);
    let group3 = load_group(rows.w, g, params.cols);
    for (var w = 0u; w < 4u; w++) {
      let first = load_x(base, 8u * g + w);
      let second = load_x(base, 8u * g + w + 4u);
      sum0 += first_half(group0, w) * first + second_half(group0, w) * second;
      sum1 += first_half(group1, w) * first + second_half(group1, w) * second;
      sum2 += first_half(group2, w) * first + second_half(group2, w) * second;
      sum3 += first_half(group3, w) * first + second_half(group3, w) * second;
    }
  }
  store(t, row, sum0);
  store(t, row + 1u, sum1);
  store(t, row + 2u, sum2);
  store(t, row + 3u, sum3);
}

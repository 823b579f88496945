// Heads of each token through gates, where they lie: x = x · σ(gate). With NORM,
// x = rms(x) · weight · gate · σ(gate), where rms(v) = v / sqrt(mean(v²) + eps) of each head.
// uses: state
// uses: grid
//
// x [batch, stride] f32: heads of HEAD_DIM, a multiple of 4; gates [batch, gate_stride], in the same order from
// column gate0 on; weight [HEAD_DIM]. All are in vec4s. A workgroup does one head (x) of one token (y).

override HEAD_DIM: u32;
override NORM: u32;
override WIDTH = HEAD_DIM / 4u;

struct Params {
  heads: u32,
  stride: u32,
  gate_stride: u32,
  gate0: u32,
  eps: f32,
}

@group(0) @binding(0) var<storage, read_write> x: array<vec4f>;
@group(0) @binding(1) var<storage, read> gates: array<vec4f>;
@group(0) @binding(2) var<storage, read> weight: array<vec4f>;
@group(0) @binding(3) var<uniform> state: State;
@group(0) @binding(4) var<uniform> params: Params;

var<workgroup> sums: array<f32, 32>;

@compute @workgroup_size(32)
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) grid: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let t = unfolded(workgroup.yz, grid.y);
  let width = select(0u, WIDTH, t < state.count);
  let base = t * (params.stride / 4u) + workgroup.x * WIDTH;
  let gate0 = t * (params.gate_stride / 4u) + params.gate0 / 4u + workgroup.x * WIDTH;
  var inverse = 1.0;
  if (NORM == 1u) {
    var sum = 0.0;
    for (var i = lane; i < width; i += 32u) {
      sum += dot(x[base + i], x[base + i]);
    }
    sums[lane] = sum;
    workgroupBarrier();
    var square = 0.0;
    for (var i = 0u; i < 32u; i++) {
      square += sums[i];
    }
    inverse = 1.0 / sqrt(square / f32(HEAD_DIM) + params.eps);
  }
  for (var i = lane; i < width; i += 32u) {
    let gate = gates[gate0 + i];
    let share = 1.0 / (1.0 + exp(min(-gate, vec4f(80.0))));
    if (NORM == 1u) {
      x[base + i] *= inverse * weight[i] * gate * share;
    } else {
      x[base + i] *= share;
    }
  }
}

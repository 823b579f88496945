// RMSNorm over all heads of q at once, and over all heads of k, in place, before rope.wgsl:
// v / sqrt(mean(v²) + eps) · (weight + offset).
// uses: state
// uses: grid
//
// qkv [batch, stride]: q [q_width], then k [k_width]; both widths are multiples of 4. q_norm [q_width],
// k_norm [k_width]. A workgroup does q (x 0) or k (x 1) of one token (y); its 64 threads share their sums.

struct Params {
  q_width: u32,
  k_width: u32,
  stride: u32,
  eps: f32,
  offset: f32,
}

@group(0) @binding(0) var<storage, read_write> qkv: array<vec4f>;
@group(0) @binding(1) var<storage, read> q_norm: array<vec4f>;
@group(0) @binding(2) var<storage, read> k_norm: array<vec4f>;
@group(0) @binding(3) var<uniform> state: State;
@group(0) @binding(4) var<uniform> params: Params;

var<workgroup> sums: array<f32, 64>;

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) grid: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let t = unfolded(workgroup.yz, grid.y);
  if (t >= state.count) {
    return;
  }
  let is_key = workgroup.x == 1u;
  let width = select(params.q_width, params.k_width, is_key);
  let base = (t * params.stride + select(0u, params.q_width, is_key)) / 4u;
  var sum = 0.0;
  for (var i = lane; i < width / 4u; i += 64u) {
    sum += dot(qkv[base + i], qkv[base + i]);
  }
  sums[lane] = sum;
  workgroupBarrier();
  var square = 0.0;
  for (var i = 0u; i < 64u; i++) {
    square += sums[i];
  }
  let inverse = 1.0 / sqrt(square / f32(width) + params.eps);
  for (var i = lane; i < width / 4u; i += 64u) {
    var weight: vec4f;
    if (is_key) {
      weight = k_norm[i];
    } else {
      weight = q_norm[i];
    }
    qkv[base + i] *= inverse * (weight + params.offset);
  }
}

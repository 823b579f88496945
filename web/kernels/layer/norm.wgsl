// Residual and RMSNorm: b = HAS_POST ? rms(branch) · (post + offset) : branch; x = s · (x + b)
// (HAS_BRANCH); out = rms(x) · (weight + offset) (HAS_NORM), where rms(v) = v / sqrt(mean(v²) + eps).
// The factor s is `scale`, and with SCALED times the number that lies behind post's last vec4.
// With HAS_POST alone x stays, and rms(branch) · (post + offset) is added to what is out otherwise.
// uses: state
// uses: grid
//
// x, branch, out [batch · each, stride] f32, stride a multiple of 4, pads zero; post, weight [width].
// A workgroup does one row, of which a token has `each`; its 64 threads share their sums once a reduction.

override HAS_BRANCH: u32;
override HAS_POST: u32;
override HAS_NORM: u32;
override SCALED: u32;

struct Params {
  width: u32,
  stride: u32,
  eps: f32,
  offset: f32,
  each: u32,
  scale: f32,
  branch_eps: f32, // of the branch's norm
}

@group(0) @binding(0) var<storage, read_write> x: array<vec4f>;
@group(0) @binding(1) var<storage, read> branch: array<vec4f>;
@group(0) @binding(2) var<storage, read> post: array<vec4f>;
@group(0) @binding(3) var<storage, read> weight: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> out: array<vec4f>;
@group(0) @binding(5) var<uniform> state: State;
@group(0) @binding(6) var<uniform> params: Params;

var<workgroup> branch_sums: array<f32, 64>;
var<workgroup> sums: array<f32, 64>;

fn inverse_rms(square: f32, eps: f32) -> f32 {
  return 1.0 / sqrt(square / f32(params.width) + eps);
}

// Vec4 i of what is added, `scale` being 1 / the branch's root mean square.
fn added(base: u32, i: u32, scale: f32) -> vec4f {
  if (HAS_POST == 1u) {
    return branch[base + i] * scale * (post[i] + params.offset);
  }
  return branch[base + i];
}

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) grid: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let t = unfolded(workgroup.xy, grid.x);
  let live = t < state.count * params.each;
  let width = select(0u, (params.width + 3u) / 4u, live);
  let base = t * (params.stride / 4u);
  var scale = 1.0;
  if (HAS_POST == 1u) {
    var sum = 0.0;
    for (var i = lane; i < width; i += 64u) {
      sum += dot(branch[base + i], branch[base + i]);
    }
    branch_sums[lane] = sum;
    workgroupBarrier();
    var square = 0.0;
    for (var i = 0u; i < 64u; i++) {
      square += branch_sums[i];
    }
    scale = inverse_rms(square, params.branch_eps);
  }
  var factor = params.scale;
  if (SCALED == 1u) {
    factor *= post[(params.width + 3u) / 4u].x;
  }
  var sum = 0.0;
  for (var i = lane; i < width; i += 64u) {
    var value = x[base + i];
    if (HAS_BRANCH == 1u) {
      value = factor * (value + added(base, i, scale));
      x[base + i] = value;
    }
    sum += dot(value, value);
  }
  if (HAS_NORM == 0u) {
    return;
  }
  sums[lane] = sum;
  workgroupBarrier();
  var square = 0.0;
  for (var i = 0u; i < 64u; i++) {
    square += sums[i];
  }
  let inverse = inverse_rms(square, params.eps);
  for (var i = lane; i < width; i += 64u) {
    var value = x[base + i] * inverse * (weight[i] + params.offset);
    if (HAS_BRANCH == 0u && HAS_POST == 1u) {
      value += added(base, i, scale);
    }
    out[base + i] = value;
  }
}

// What the matvecs share: bindings, parameters, and the activations of one token, which the prologue
// leaves in workgroup memory. Put before those whose header says "uses: vector"; it needs
// planes.wgsl and state.wgsl.
//
// PROLOGUE 0: v = x[t], read where it lies, for t = last ? count - 1 : 0. Otherwise norms and residual
// are folded in, so that they cost no dispatch of their own: h = x (PROLOGUE 1), x + branch (2) or
// x + rms(branch) · (post + offset) (3), where rms(v) = v / sqrt(mean(v²) + eps), and
// v = rms(h) · (weight + offset). Every workgroup computes them for itself; the first one stores h in
// `next`, which is not x, since others still read that.
//
// x, branch, next [.., x_stride] f32, pads zero; post, weight [COLS]. x_stride is COLS rounded up to a
// multiple of 4.

override COLS: u32;
override PROLOGUE: u32;
override ACTIVATION: u32; // 0: none; 1, 2: rows are pairs (gate, up) and out = act(gate) · up
override STAGED = select(1u, (COLS + 31u) / 32u * 8u, PROLOGUE > 0u); // vec4s in workgroup memory

struct Params {
  rows: u32, // of this slice
  row0: u32, // its first row in the whole matrix
  x_stride: u32,
  out0: u32, // where the matrix's first row goes in the output
  last: u32,
  eps: f32,
  offset: f32,
}

@group(0) @binding(3) var<storage, read> x: array<vec4f>;
@group(0) @binding(4) var<storage, read> branch: array<vec4f>;
@group(0) @binding(5) var<storage, read> post: array<vec4f>;
@group(0) @binding(6) var<storage, read> weight: array<vec4f>;
@group(0) @binding(7) var<storage, read_write> next: array<vec4f>;
@group(0) @binding(8) var<storage, read_write> out: array<f32>;
@group(0) @binding(9) var<storage, read> state: State;
@group(0) @binding(10) var<uniform> params: Params;

var<workgroup> staged: array<vec4f, STAGED>;
var<workgroup> squares: array<f32, 64>;

// Where vec4 i of the activations is staged: the halves of all groups apart, so that lanes which each
// take a quarter of a group read neighbouring words.
fn place(i: u32) -> u32 {
  return ((i / 4u) & 1u) * (STAGED / 2u) + (i / 8u) * 4u + (i & 3u);
}

// Vec4 i of v.
fn activation(i: u32) -> vec4f {
  if (PROLOGUE > 0u) {
    return staged[place(i)];
  }
  if (FORM < 3u && i >= (COLS + 3u) / 4u) {
    return vec4f(); // beyond a short last group
  }
  let token = select(0u, state.count - 1u, params.last == 1u);
  return x[token * (params.x_stride / 4u) + i];
}

fn inverse_rms(square: f32) -> f32 {
  return 1.0 / sqrt(square / f32(COLS) + params.eps);
}

fn post_scaled(i: u32, at: u32, scale: f32) -> vec4f {
  return branch[at] * scale * (post[i] + params.offset);
}

// h, of which the first workgroup keeps a copy.
fn residual(i: u32, at: u32, scale: f32) -> vec4f {
  var h = x[at];
  if (PROLOGUE == 2u) {
    h += branch[at];
  } else if (PROLOGUE == 3u) {
    h += post_scaled(i, at, scale);
  }
  return h;
}

fn activate(gate: f32) -> f32 {
  if (ACTIVATION == 1u) {
    return gate / (1.0 + exp(min(-gate, 80.0))); // exp(80) is finite, and the quotient is 0
  }
  let inner = 0.7978845608028654 * (gate + 0.044715 * gate * gate * gate); // sqrt(2 / pi)
  return 0.5 * gate * (1.0 + tanh(clamp(inner, -10.0, 10.0))); // tanh(10) is 1 in f32
}

// The four rows of which number r is the first in this slice: r .. r+3, or with an activation two
// gates and their two ups, which begin in the middle of the matrix.
fn four_rows(r: u32) -> vec4u {
  if (ACTIVATION > 0u) {
    let gates = params.rows / 2u;
    let gate = min(vec2u(r / 2u, r / 2u + 1u), vec2u(gates - 1u));
    return vec4u(gate, gates + gate);
  }
  return min(vec4u(r, r + 1u, r + 2u, r + 3u), vec4u(params.rows - 1u));
}

// Stores the sums of four_rows(r).
fn store_four(r: u32, sums: vec4f) {
  if (ACTIVATION > 0u) {
    let at = params.out0 + r / 2u;
    let gates = params.rows / 2u;
    out[at] = activate(sums.x) * sums.z;
    if (r / 2u + 1u < gates) {
      out[at + 1u] = activate(sums.y) * sums.w;
    }
    return;
  }
  let at = params.out0 + params.row0 + r;
  let left = params.rows - r;
  out[at] = sums.x;
  if (left > 1u) {
    out[at + 1u] = sums.y;
  }
  if (left > 2u) {
    out[at + 2u] = sums.z;
  }
  if (left > 3u) {
    out[at + 3u] = sums.w;
  }
}

// Stages v. total_of(value, index, at), which each kernel has in its own way, is the workgroup's sum,
// taken through the 32 squares from `at` on.
fn stage(index: u32, threads: u32, first: bool) {
  if (PROLOGUE == 0u) {
    return;
  }
  let token = select(0u, state.count - 1u, params.last == 1u);
  let base = token * (params.x_stride / 4u);
  let width = (COLS + 3u) / 4u;
  var scale = 1.0;
  if (PROLOGUE == 3u) {
    var sum = 0.0;
    for (var i = index; i < width; i += threads) {
      sum += dot(branch[base + i], branch[base + i]);
    }
    scale = inverse_rms(total_of(sum, index, 0u));
  }
  var sum = 0.0;
  for (var i = index; i < STAGED; i += threads) {
    var h = vec4f();
    if (i < width) {
      h = residual(i, base + i, scale);
      if (PROLOGUE > 1u && first) {
        next[base + i] = h;
      }
    }
    staged[place(i)] = h;
    sum += dot(h, h);
  }
  let inverse = inverse_rms(total_of(sum, index, 32u));
  for (var i = index; i < width; i += threads) {
    staged[place(i)] *= inverse * (weight[i] + params.offset);
  }
  workgroupBarrier();
}

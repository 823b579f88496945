// What the matvecs share: bindings, parameters, and the activations of one token, which the prologue
// leaves in workgroup memory (STAGE 1), unless they are too many for it: then they are read where they
// lie (STAGE 0, with PROLOGUE 0 only). Put before those whose header says "uses: vector"; it needs
// planes.wgsl and state.wgsl.
//
// PROLOGUE 0: v = x[t] for t = last ? count - 1 : 0. Otherwise norms and residual
// are folded in, so that they cost no dispatch of their own: h = x (PROLOGUE 1), x + branch (2) or
// x + rms(branch) · (post + offset) (3), where rms(v) = v / sqrt(mean(v²) + eps), and
// v = rms(h) · (weight + offset). Every workgroup computes them for itself; the first one stores h in
// `next`, which is not x, since others still read that. PROLOGUE 4 joins the runs of attention as
// attention_join.wgsl does: x is its parts [splits, COLS], branch its marks [splits, heads].
//
// x, branch, next [.., x_stride] f32, pads zero; post, weight [COLS]. x_stride is COLS rounded up to a
// multiple of 4.

override COLS: u32;
override PROLOGUE: u32;
override NORMED = PROLOGUE > 0u && PROLOGUE < 4u;
override ACTIVATION: u32; // 0: none; 1, 2: rows are pairs (gate, up) and out = act(gate) · up
override STAGE: u32;
override STEP = (COLS + 31u) / 32u; // groups
override STAGED = max(8u * STEP * STAGE, 1u); // vec4s in workgroup memory

struct Params {
  rows: u32, // of this slice
  row0: u32, // its first row in the whole matrix
  x_stride: u32,
  out0: u32, // where the matrix's first row goes in the output
  last: u32,
  eps: f32,
  offset: f32,
  splits: u32,
  heads: u32,
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

// Where vec4 i of the activations is staged: the same vec4 of all groups side by side, so that lanes
// which take a group each read neighbouring words.
fn place(i: u32) -> u32 {
  return (i % 8u) * STEP + i / 8u;
}

// The token's first vec4 in x.
fn token_base() -> u32 {
  return select(0u, state.count - 1u, params.last == 1u) * (params.x_stride / 4u);
}

fn lying(i: u32) -> vec4f {
  return select(vec4f(), x[token_base() + i], i < (COLS + 3u) / 4u);
}

// 16 activations: half 0 or 1 of a group.
fn staged_half(g: u32, half: u32) -> Half {
  if (STAGE == 0u) {
    let i = 8u * g + 4u * half;
    return Half(lying(i), lying(i + 1u), lying(i + 2u), lying(i + 3u));
  }
  let at = 4u * half * STEP + g;
  return Half(staged[at], staged[at + STEP], staged[at + 2u * STEP], staged[at + 3u * STEP]);
}

fn inverse_rms(square: f32) -> f32 {
  return 1.0 / sqrt(square / f32(COLS) + params.eps);
}

fn post_scaled(i: u32, at: u32, scale: f32) -> vec4f {
  return branch[at] * scale * (post[i] + params.offset);
}

fn mark(run: u32, head: u32) -> f32 {
  let i = run * params.heads + head;
  return branch[i / 4u][i % 4u];
}

// The runs of attention, weighed by their marks.
fn joined(i: u32) -> vec4f {
  let head = 4u * i * params.heads / COLS;
  var largest = mark(0u, head);
  for (var run = 1u; run < params.splits; run++) {
    largest = max(largest, mark(run, head));
  }
  var sum = vec4f();
  var total = 0.0;
  for (var run = 0u; run < params.splits; run++) {
    let weight = exp(mark(run, head) - largest);
    sum += weight * x[run * (COLS / 4u) + i];
    total += weight;
  }
  return sum / total;
}

// h, of which the first workgroup keeps a copy.
fn residual(i: u32, at: u32, scale: f32) -> vec4f {
  if (PROLOGUE == 4u) {
    return joined(i);
  }
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

// The matrix row of number r of this slice: with an activation, gates are the even numbers, and their
// ups, which begin in the middle of the matrix, the odd ones.
fn row_of(r: u32) -> u32 {
  let row = min(r, params.rows - 1u);
  return select(row, row / 2u + (row & 1u) * (params.rows / 2u), ACTIVATION > 0u);
}

// Stores the sums of rows r and r + 1.
fn store_two(r: u32, sums: vec2f) {
  let at = params.out0 + params.row0 + r;
  if (ACTIVATION > 0u) {
    if (r < params.rows) {
      out[params.out0 + r / 2u] = activate(sums.x) * sums.y;
    }
    return;
  }
  if (r < params.rows) {
    out[at] = sums.x;
  }
  if (r + 1u < params.rows) {
    out[at + 1u] = sums.y;
  }
}

// Stages v. total_of(value, index, at), which each kernel has in its own way, is the workgroup's sum,
// taken through 32 numbers from `at` on.
fn stage(index: u32, threads: u32, first: bool) {
  if (STAGE == 0u) {
    return;
  }
  let base = token_base();
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
  for (var i = index; i < 8u * STEP; i += threads) {
    var h = vec4f();
    if (i < width) {
      h = residual(i, base + i, scale);
      if (NORMED && PROLOGUE > 1u && first) {
        next[base + i] = h;
      }
    }
    staged[place(i)] = h;
    sum += dot(h, h);
  }
  if (NORMED) {
    let inverse = inverse_rms(total_of(sum, index, 32u));
    for (var i = index; i < width; i += threads) {
      staged[place(i)] *= inverse * (weight[i] + params.offset);
    }
  }
  workgroupBarrier();
}

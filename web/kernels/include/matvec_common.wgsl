// What the matvecs share: bindings, parameters, and the activations of one token, which the prologue
// leaves in workgroup memory (STAGE 1), unless they are too many for it: then they are read where they
// lie (STAGE 0, with PROLOGUE 0 only). Put before those whose header says "uses: matvec_common"; it needs
// dequantize.wgsl, activation.wgsl, rows.wgsl and state.wgsl.
//
// PROLOGUE 0: v = x[t] for t = last ? count - 1 : 0, or for the row of slot z with EXPERTS (z being the
// workgroup's, and `topk_ids` the expert of each slot; see rows.wgsl). Otherwise norms and residual
// are folded in, so that they cost no dispatch of their own: h = x (PROLOGUE 1), x + branch (2) or
// x + rms(branch) · (post + offset) (3), where rms(v) = v / sqrt(mean(v²) + eps), and
// v = rms(h) · (weight + offset); with SCALED, h is multiplied by the number that lies behind post's
// last vec4. PROLOGUE 5 is 3 with v = h. Every workgroup computes them for itself; the first one stores h in
// `next`, which is not x, since others still read that. PROLOGUE 4 joins the runs of attention as
// attention_join.wgsl does: x is its partial_out [SPLITS, COLS], branch its partial_lse [SPLITS, heads]. With EXPERTS
// there are PROLOGUE 0 and 1 only.
//
// A kernel says what activations are staged as: `Staged`, a vec4 of the numbers that its product takes,
// and keep(v), which makes one; restored(s) is v again, nearly.
//
// x, branch, next [.., x_stride] f32, pads zero; post, weight [COLS]. x_stride is COLS rounded up to a
// multiple of 4.

override COLS: u32;
override PROLOGUE: u32;
override ADDED = PROLOGUE == 2u || PROLOGUE == 3u || PROLOGUE == 5u;
override POSTED = PROLOGUE == 3u || PROLOGUE == 5u;
override SCALED: u32;
override STAGE: u32;
override SPLITS: u32; // runs of attention that PROLOGUE 4 joins
override STEP = (COLS + 31u) / 32u; // groups
override WIDTH = (COLS + 3u) / 4u; // vec4s
override TURNS = (8u * STEP + THREADS - 1u) / THREADS; // vec4s that a thread stages
override STAGED = max(8u * STEP * STAGE, 1u); // vec4s in workgroup memory
override HAS_MINIMUM = FORM == Q4_1 || FORM == Q5_1 || FORM == Q4_K || FORM == Q5_K;
override SUMMED = max(STEP * STAGE * u32(HAS_MINIMUM), 1u);

struct Params {
  rows: u32, // of this slice, or of an expert
  row0: u32, // the slice's first row in the whole matrix
  x_stride: u32,
  out_stride: u32,
  out0: u32, // where the matrix's first row goes in the output
  last: u32,
  eps: f32,
  offset: f32,
  heads: u32,
  experts: u32, // in this slice
  used: u32, // of them by a token
  addend0: u32,
  addend_stride: u32,
}

@group(0) @binding(3) var<storage, read> x: array<vec4f>;
@group(0) @binding(4) var<storage, read> branch: array<vec4f>;
@group(0) @binding(5) var<storage, read> post: array<vec4f>;
@group(0) @binding(6) var<storage, read> weight: array<vec4f>;
@group(0) @binding(7) var<storage, read_write> next: array<vec4f>;
@group(0) @binding(8) var<storage, read_write> out: array<f32>;
@group(0) @binding(9) var<uniform> state: State;
@group(0) @binding(10) var<uniform> params: Params;
@group(0) @binding(11) var<storage, read> addend: array<f32>;
@group(0) @binding(12) var<storage, read> topk_ids: array<u32>; // experts, by slot

var<private> slot: u32;

var<workgroup> staged: array<Staged, STAGED>;
var<workgroup> group_sums: array<f32, SUMMED>; // of what is staged, where minimums are to be multiplied

// Where vec4 i of the activations is staged: the same vec4 of all groups side by side, so that lanes
// which take a group each read neighbouring words.
fn place(i: u32) -> u32 {
  return (i % 8u) * STEP + i / 8u;
}

// Turns to the expert of slot z; false where there is nothing to do for this slice.
fn take_slot(z: u32) -> bool {
  if (state.count == 0u) {
    return false;
  }
  if (EXPERTS == 0u) {
    return true;
  }
  slot = z;
  return z < state.count * params.used && take_expert(topk_ids[z]);
}

// The first vec4 in x of the first token that is multiplied.
fn token_base() -> u32 {
  var row = select(0u, state.count - 1u, params.last == 1u);
  if (EXPERTS > 0u) {
    row = row_of_slot(slot);
  }
  return row * (params.x_stride / 4u);
}

// Where the outputs of a token begin, or those of the slot.
fn out_base(token: u32) -> u32 {
  return params.out0 + select(token, slot, EXPERTS > 0u) * params.out_stride;
}

fn lying(i: u32, token: u32) -> vec4f {
  return select(vec4f(), x[token_base() + token * (params.x_stride / 4u) + i], i < WIDTH);
}

fn summed(v: Staged) -> f32 {
  let r = restored(v);
  return r.x + r.y + r.z + r.w;
}

// 32 activations, and what they add up to.
struct Activations {
  v0: Staged,
  v1: Staged,
  v2: Staged,
  v3: Staged,
  v4: Staged,
  v5: Staged,
  v6: Staged,
  v7: Staged,
  sum: f32,
}

// Group g of the token that is staged, or of the token-th that lies in x.
fn activations(g: u32, token: u32) -> Activations {
  var a: Activations;
  if (STAGE == 1u) {
    a = Activations(staged[g], staged[g + STEP], staged[g + 2u * STEP], staged[g + 3u * STEP],
      staged[g + 4u * STEP], staged[g + 5u * STEP], staged[g + 6u * STEP], staged[g + 7u * STEP], 0.0);
    if (HAS_MINIMUM) {
      a.sum = group_sums[g];
    }
    return a;
  }
  let i = 8u * g;
  a = Activations(keep(lying(i, token)), keep(lying(i + 1u, token)), keep(lying(i + 2u, token)),
    keep(lying(i + 3u, token)), keep(lying(i + 4u, token)), keep(lying(i + 5u, token)),
    keep(lying(i + 6u, token)), keep(lying(i + 7u, token)), 0.0);
  if (HAS_MINIMUM) {
    a.sum = summed(a.v0) + summed(a.v1) + summed(a.v2) + summed(a.v3) + summed(a.v4) +
      summed(a.v5) + summed(a.v6) + summed(a.v7);
  }
  return a;
}

// A vec4 of a value in component i and zeros.
fn only(i: u32, value: f32) -> vec4f {
  return select(vec4f(), vec4f(value), vec4u(0u, 1u, 2u, 3u) == vec4u(i));
}

fn inverse_rms(square: f32) -> f32 {
  return 1.0 / sqrt(square / f32(COLS) + params.eps);
}

fn mark(run: u32, head: u32) -> f32 {
  let i = run * params.heads + head;
  return branch[i / 4u][i % 4u];
}

// The runs of attention, weighed by their marks.
fn joined(i: u32) -> vec4f {
  let head = 4u * i * params.heads / COLS;
  var largest = mark(0u, head);
  for (var run = 1u; run < SPLITS; run++) {
    largest = max(largest, mark(run, head));
  }
  var sum = vec4f();
  var total = 0.0;
  for (var run = 0u; run < SPLITS; run++) {
    let weight = exp(mark(run, head) - largest);
    sum += weight * x[run * (COLS / 4u) + i];
    total += weight;
  }
  return sum / total;
}

// Stages v. total_of(value, index, at), which each kernel has in its own way, is the workgroup's sum, taken
// through numbers of its own for `at` 0 and 1.
fn stage(index: u32, first: bool) {
  if (STAGE == 0u) {
    return;
  }
  if (PROLOGUE == 1u || ADDED) {
    stage_normed(index, first);
  } else {
    for (var n = 0u; n < TURNS; n++) {
      let i = index + n * THREADS;
      var v = vec4f();
      if (i < WIDTH && PROLOGUE == 4u) {
        v = joined(i);
      } else if (i < WIDTH) {
        v = x[token_base() + i];
      }
      if (i < 8u * STEP) {
        staged[place(i)] = keep(v);
      }
    }
  }
  workgroupBarrier();
  if (HAS_MINIMUM) {
    for (var g = index; g < STEP; g += THREADS) {
      var sum = 0.0;
      for (var i = 0u; i < 8u; i++) {
        sum += summed(staged[g + i * STEP]);
      }
      group_sums[g] = sum;
    }
    workgroupBarrier();
  }
}

// All that is read is asked for at once, before anything waits for it.
fn stage_normed(index: u32, first: bool) {
  let base = token_base();
  var h: array<vec4f, MOST_TURNS>;
  var b: array<vec4f, MOST_TURNS>;
  var p: array<vec4f, MOST_TURNS>;
  var w: array<vec4f, MOST_TURNS>;
  for (var n = 0u; n < TURNS; n++) {
    let i = index + n * THREADS;
    if (i < WIDTH) {
      h[n] = x[base + i];
      if (PROLOGUE < 5u) {
        w[n] = weight[i];
      }
      if (ADDED) {
        b[n] = branch[base + i];
      }
      if (POSTED) {
        p[n] = post[i];
      }
    }
  }
  var factor = 1.0;
  if (SCALED == 1u) {
    factor = post[WIDTH * SCALED].x; // of what is not bound there is one
  }
  if (POSTED) {
    var sum = 0.0;
    for (var n = 0u; n < TURNS; n++) {
      sum += dot(b[n], b[n]);
    }
    let inverse = inverse_rms(total_of(sum, index, 0u));
    for (var n = 0u; n < TURNS; n++) {
      b[n] *= inverse * (p[n] + params.offset);
    }
  }
  var sum = 0.0;
  for (var n = 0u; n < TURNS; n++) {
    h[n] = factor * (h[n] + b[n]);
    sum += dot(h[n], h[n]);
  }
  if (PROLOGUE < 5u) {
    let inverse = inverse_rms(total_of(sum, index, 1u));
    for (var n = 0u; n < TURNS; n++) {
      w[n] = inverse * (w[n] + params.offset);
    }
  }
  for (var n = 0u; n < TURNS; n++) {
    let i = index + n * THREADS;
    if (ADDED && first && i < WIDTH) {
      next[base + i] = h[n];
    }
    if (i < 8u * STEP) {
      staged[place(i)] = keep(select(h[n] * w[n], h[n], PROLOGUE == 5u));
    }
  }
}

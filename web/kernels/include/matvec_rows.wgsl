// How threads share the rows of a matvec. Put before those whose header says "uses: matvec_rows"; it needs
// dequantize.wgsl and matvec_common.wgsl, a product(group, activations), and subgroup_sums.wgsl or workgroup_sums.wgsl,
// which have main().
//
// A team of TEAM threads (a power of two up to 256) computes ROWS rows (1, 2 or 4; pairs for an
// activation) at once: each thread takes every TEAM-th group of 32 columns, DEPTH of them at a time, and
// uses the activations that it loads for all of the rows. What it multiplies next is on its way from
// memory meanwhile, and the first of it while activations are staged: weights, unlike those, depend on
// nothing. DEPTH · ROWS is at most 8. A workgroup of 256 threads does 256 / TEAM · ROWS rows, and goes
// on with later ones when the grid is smaller than the matrix.
//
// With TOKENS above 1, all of a batch of so many tokens (8 at most) are multiplied, which then lie in x,
// normed (STAGE 0): each weight is read once for all of them, and they come out as they would alone.

override TEAM: u32;
override ROWS: u32;
override DEPTH: u32;
override TOKENS: u32;

const THREADS = 256u;
const MOST_TURNS = 8u; // 8,192 columns
const MOST_TOKENS = 8u;

// Packed groups. An array for each part of them: what a form has no use for is no work for compilers.
struct Groups {
  a: array<vec4u, 8>,
  b: array<vec4u, 8>,
  high: array<vec2u, 8>,
  scale: array<vec4u, 8>,
}

// Groups g, g + TEAM, .. of a team's rows: number d · ROWS + i is of row i.
fn load_groups(groups: ptr<function, Groups>, r: u32, g: u32) {
  for (var n = 0u; n < DEPTH * ROWS; n++) {
    let group = min(g + n / ROWS * TEAM, groups_of(COLS) - 1u);
    let packed = load_packed(row_of(r + n % ROWS), group, COLS);
    (*groups).a[n] = packed.a;
    (*groups).b[n] = packed.b;
    (*groups).high[n] = packed.high;
    (*groups).scale[n] = packed.scale;
  }
}

// Adds the products of ROWS groups, number n and those after it, with group g of a token's activations.
fn add_products(sums: vec4f, groups: ptr<function, Groups>, n: u32, g: u32, token: u32) -> vec4f {
  let v = activations(g, token);
  var sum = sums;
  for (var i = 0u; i < ROWS; i++) {
    let packed = Packed(
      (*groups).a[n + i], (*groups).b[n + i], (*groups).high[n + i], (*groups).scale[n + i]);
    sum += only(i, product(unpack(packed, g), v));
  }
  return sum;
}

fn store(r: u32, sums: vec4f, token: u32) {
  if (ROWS > 1u) {
    store_two(token, r, sums.xy);
  } else {
    store_one(token, r, sums.x);
  }
  if (ROWS > 2u) {
    store_two(token, r + 2u, sums.zw);
  }
}

fn multiply_rows(index: u32, number: u32, workgroups: u32, subgroup_size: u32) {
  let lane = index % TEAM;
  let step = THREADS / TEAM * ROWS;
  var start = number * step;
  var ahead: Groups;
  load_groups(&ahead, start + ROWS * (index / TEAM), lane);
  stage(index, number == 0u);
  while (start < params.rows) {
    let r = start + ROWS * (index / TEAM);
    start += workgroups * step;
    var sums = array<vec4f, MOST_TOKENS>(); // written out: without it, Chromium 150 clears them but once
    for (var g = lane; g < groups_of(COLS); g += DEPTH * TEAM) {
      var ready = ahead;
      let next = g + DEPTH * TEAM;
      let goes_on = next < groups_of(COLS);
      if (goes_on || start < params.rows) {
        load_groups(
          &ahead, select(start + ROWS * (index / TEAM), r, goes_on), select(lane, next, goes_on));
      }
      for (var d = 0u; d < DEPTH; d++) {
        let group = g + d * TEAM;
        if (group < groups_of(COLS)) {
          for (var t = 0u; t < TOKENS; t++) {
            sums[t] = add_products(sums[t], &ready, d * ROWS, group, t);
          }
        }
      }
    }
    for (var t = 0u; t < TOKENS; t++) {
      let sum = team_sum(sums[t], index, subgroup_size);
      if (lane == 0u && (TOKENS == 1u || t < state.count)) {
        store(r, sum, t);
      }
    }
  }
}

// The next token: repetition penalty over `seen`, temperature, `mask`, top-k, top-p, min-p, draw (the
// order of Hugging Face); or the largest allowed logit after the penalty (greedy), the lowest id of
// equal ones. The mask must allow one.
// uses: state
// uses: logits
//
// logits f32, read as vec4s; tops, ids: of blocks of 4 · BLOCK tokens (sample_blocks.wgsl); seen: a bit a
// token; params is written once a generation. Writes the id to tokens[0], to ring[step % 256] and to
// its place in history [context], and moves the state on to the next token. Where a logit is infinite or
// NaN, there is no token: BROKEN goes to the ring alone, and the host ends the generation.
//
// With VERIFIES it samples row verify_row[0] of a batch whose tokens after the first are drafts. If the id is
// the next draft, the next row's logits are right, and verify_row[0] moves on to it; otherwise the batch ends
// there, verify_row[0] is NONE, and runs for the rows that are left do nothing.
//
// Everything after exp() is integer arithmetic, so equal logits give the same token everywhere: a
// weight is floor(2^24 · exp(z - largest z)), and sums are (s / 4096, s % 4096), exact below 2^43.
// The k-th largest z, and the z at which the weights reach p, are found digit by digit in a key that
// sorts like z (radix select); everything equal to the threshold is kept.
//
// Blocks whose largest z is below the k-th largest of all blocks' hold none of the top k, and below
// z - 17 weights are 0: other blocks are left out, unless more than MOST_KEPT remain.
//
// One workgroup; each of its 256 threads walks its own run of the blocks that are kept.

// State, and the ring of sampled ids in the same buffer.
struct Control {
  state: State,
  @align(256) ring: array<u32, 256>,
}

@group(0) @binding(0) var<storage, read> logits: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> seen: array<u32>;
@group(0) @binding(2) var<storage, read_write> tokens: array<u32>;
@group(0) @binding(3) var<storage, read_write> control: Control;
@group(0) @binding(4) var<storage, read> tops: array<vec4f>;
@group(0) @binding(5) var<storage, read> ids: array<u32>;
@group(0) @binding(6) var<storage, read_write> history: array<u32>;
@group(0) @binding(7) var<storage, read_write> verify_row: array<u32>;
@group(0) @binding(8) var<storage, read> mask: array<u32>;
@group(0) @binding(9) var<uniform> params: Params;

const ONE = 16777216.0; // 2^24, the weight of the largest

const MOST_KEPT = 512u;
const WEIGHTLESS = 17.0; // exp(-17) · 2^24 is less than 1

const TOKENS = 0u; // what is counted in a selection
const WEIGHTS = 1u;
const BLOCKS = 2u;

var<workgroup> bests: array<Best, 256>;
var<workgroup> high_sums: array<atomic<u32>, 256>; // of a digit's bin, or of a thread's run
var<workgroup> low_sums: array<atomic<u32>, 256>;
var<workgroup> sums: array<vec2u, 256>; // of a bin and all after it
var<workgroup> kept: array<u32, MOST_KEPT>; // blocks, in their order
var<workgroup> found: vec4u; // what one thread tells the others
var<private> top: f32; // the largest z
var<private> walked: u32; // vec4s that are walked: of the kept blocks, or of all
var<private> is_cut: bool; // whether some blocks are left out

// Unsigned integers in the order of the floats.
fn sort_key(z: f32) -> u32 {
  let bits = bitcast<u32>(z);
  let key = select(bits | 0x80000000u, ~bits, (bits & 0x80000000u) != 0u);
  return select(key, 0x80000000u, z == 0.0);
}

fn weigh(z: f32) -> u32 {
  return select(u32(exp(z - top) * ONE), u32(ONE), z >= top); // exp(0) might miss 1
}

// First and one past the last of a thread's run of `all` vec4s.
fn run_of(thread: u32, all: u32) -> vec2u {
  let each = (all + 255u) / 256u;
  return min(vec2u(thread * each, thread * each + each), vec2u(all));
}

fn blocks() -> u32 {
  return (params.vocab + 4u * BLOCK - 1u) / (4u * BLOCK);
}

// The vec4 of logits that is walked as number i.
fn walked_at(i: u32) -> u32 {
  if (is_cut) {
    return kept[i / BLOCK] * BLOCK + i % BLOCK;
  }
  return i;
}

// The largest logit's id; NONE while the plan is halted.
fn find_best(thread: u32) -> u32 {
  var best = Best(LOWEST, NONE);
  for (var i = thread; i < blocks(); i += 256u) {
    best = better(best, Best(tops[i / 4u][i % 4u], ids[i]));
  }
  for (var step = 128u; step > 0u; step /= 2u) {
    bests[thread] = best;
    workgroupBarrier();
    if (thread < step) {
      best = better(best, bests[thread + step]);
    }
    workgroupBarrier();
  }
  if (thread == 0u) {
    let id = select(best.id, NONE, control.state.count == 0u);
    found = vec4u(bitcast<u32>(best.z), id, 0u, 0u);
  }
  let told = workgroupUniformLoad(&found);
  top = bitcast<f32>(told.x);
  return told.y;
}

// Leaves out the blocks that hold no token of the top k, or none with a weight.
fn keep_blocks(thread: u32) {
  is_cut = false;
  walked = (params.vocab + 3u) / 4u;
  var least = top - WEIGHTLESS;
  var floor_key = sort_key(least);
  if (params.top_k > 0u && params.top_k < blocks()) {
    floor_key = max(floor_key, select_key(thread, 0u, vec2u(0u, params.top_k), BLOCKS));
  }
  let run = run_of(thread, (blocks() + 3u) / 4u);
  var count = 0u;
  for (var i = 4u * run.x; i < min(4u * run.y, blocks()); i++) {
    count += select(0u, 1u, sort_key(tops[i / 4u][i % 4u]) >= floor_key);
  }
  sum_after(255u - thread, vec2u(0u, count)); // and so before `thread`
  let all = sums[0].y + sums[0].x * 4096u;
  if (all > MOST_KEPT) {
    return;
  }
  let mine = sums[255u - thread];
  var place = mine.y + mine.x * 4096u - count;
  for (var i = 4u * run.x; i < min(4u * run.y, blocks()); i++) {
    if (sort_key(tops[i / 4u][i % 4u]) >= floor_key) {
      kept[place] = i;
      place += 1u;
    }
  }
  is_cut = true;
  walked = all * BLOCK;
}

// Adds to a bin of the sums; `amount` is below 2^25.
fn put(bin: u32, amount: u32) {
  atomicAdd(&high_sums[bin], amount >> 12u);
  atomicAdd(&low_sums[bin], amount & 4095u);
}

// A bin's sum as (s / 4096, s % 4096).
fn bin_sum(bin: u32) -> vec2u {
  return carried(vec2u(atomicLoad(&high_sums[bin]), atomicLoad(&low_sums[bin])));
}

fn carried(sum: vec2u) -> vec2u {
  return vec2u(sum.x + (sum.y >> 12u), sum.y & 4095u);
}

fn reaches(sum: vec2u, target_sum: vec2u) -> bool {
  return sum.x > target_sum.x || (sum.x == target_sum.x && sum.y >= target_sum.y);
}

// a · b as (high word, low word).
fn multiply(a: u32, b: u32) -> vec2u {
  let middle = (a >> 16u) * (b & 0xffffu) + (((a & 0xffffu) * (b & 0xffffu)) >> 16u);
  let other = (a & 0xffffu) * (b >> 16u) + (middle & 0xffffu);
  return vec2u((a >> 16u) * (b >> 16u) + (middle >> 16u) + (other >> 16u), a * b);
}

// floor(sum · fraction / 2^32).
fn part_of(sum: vec2u, fraction: u32) -> vec2u {
  let high = multiply(sum.x, fraction);
  let low = multiply(sum.y, fraction);
  let word = (high.y << 12u) + low.y;
  let carry = select(0u, 1u, word < low.y);
  return carried(vec2u(high.x, (high.y >> 20u) + low.x + carry));
}

// sums[bin] = what `bin` and all bins after it bring; each thread brings one.
fn sum_after(bin: u32, brought: vec2u) {
  var sum = brought;
  sums[bin] = sum;
  workgroupBarrier();
  for (var step = 1u; step < 256u; step *= 2u) {
    if (bin + step < 256u) {
      sum = carried(sum + sums[bin + step]);
    }
    workgroupBarrier();
    sums[bin] = sum;
    workgroupBarrier();
  }
}

fn clear(thread: u32) {
  atomicStore(&high_sums[thread], 0u);
  atomicStore(&low_sums[thread], 0u);
  workgroupBarrier();
}

// Four numbers from 4i on, and how many of them there are: tops of blocks, or walked tokens' z.
struct Four {
  z: vec4f,
  count: u32,
}

fn four(i: u32, what: u32) -> Four {
  if (what == BLOCKS) {
    return Four(tops[i], min(4u, blocks() - 4u * i));
  }
  let at = walked_at(i);
  return Four(load_z(at), min(4u, params.vocab - min(4u * at, params.vocab)));
}

// Sums over kept tokens (key >= floor_key, weight >= least) of each thread's run and those of the
// threads before it, in sums[255 - thread].
fn sum_runs(thread: u32, floor_key: u32, least: u32) {
  let run = run_of(thread, walked);
  var sum = vec2u();
  for (var i = run.x; i < run.y; i++) {
    let values = four(i, TOKENS);
    for (var c = 0u; c < values.count; c++) {
      let weight = weigh(values.z[c]);
      if (sort_key(values.z[c]) >= floor_key && weight >= least) {
        sum += vec2u(weight >> 12u, weight & 4095u);
      }
    }
  }
  sum_after(255u - thread, carried(sum));
}

// The largest key such that what lies at or above it (of keys >= floor_key) reaches `goal`: counted
// in tokens, in their weights or in blocks.
fn select_key(thread: u32, floor_key: u32, goal: vec2u, what: u32) -> u32 {
  var prefix = 0u; // the digits found so far
  var above = vec2u(); // the sum of all keys above those that share them
  let run = run_of(thread, select(walked, (blocks() + 3u) / 4u, what == BLOCKS));
  for (var shift = 24i; shift >= 0i; shift -= 8i) {
    clear(thread);
    let known = select(0xffffffffu << (u32(shift) + 8u), 0u, shift == 24i); // bits of the prefix
    for (var i = run.x; i < run.y; i++) {
      let values = four(i, what);
      for (var c = 0u; c < values.count; c++) {
        let key = sort_key(values.z[c]);
        if (key >= floor_key && (key & known) == prefix) {
          put((key >> u32(shift)) & 255u, select(1u, weigh(values.z[c]), what == WEIGHTS));
        }
      }
    }
    workgroupBarrier();
    sum_after(thread, bin_sum(thread));
    var after = above; // what lies above this thread's digit
    if (thread < 255u) {
      after = carried(above + sums[thread + 1u]);
    }
    if (!reaches(after, goal) && (thread == 0u || reaches(carried(above + sums[thread]), goal))) {
      found = vec4u(prefix | (thread << u32(shift)), after, 0u);
    }
    let told = workgroupUniformLoad(&found);
    prefix = told.x;
    above = told.yz;
  }
  return prefix;
}

// One output of PCG: x -> well mixed 32 bits (O'Neill 2014, RXS-M-XS).
fn pcg(x: u32) -> u32 {
  let state_word = x * 747796405u + 2891336453u;
  let word = ((state_word >> ((state_word >> 28u) + 4u)) ^ state_word) * 277803737u;
  return (word >> 22u) ^ word;
}

// Draws among tokens with key >= floor_key and weight >= least, in the order of ids: the thread in
// whose run the draw falls finishes. `best` is for sums that never reach it, which there are none of.
fn draw(thread: u32, floor_key: u32, least: u32, best: u32) {
  var goal = part_of(sums[0], pcg(control.state.seed ^ pcg(control.state.step)));
  goal = carried(goal + vec2u(0u, 1u)); // the first token at which the sum passes the fraction
  storageBarrier(); // nobody moves the state on before all have read it
  var before = vec2u();
  if (thread > 0u) {
    before = sums[256u - thread];
  }
  let is_last = thread == 255u && !reaches(sums[0], goal);
  if (reaches(before, goal) || !(is_last || reaches(sums[255u - thread], goal))) {
    return;
  }
  let run = run_of(thread, walked);
  var token = best;
  for (var i = run.x; i < run.y && !reaches(before, goal); i++) {
    let values = four(i, TOKENS);
    for (var c = 0u; c < values.count; c++) {
      let weight = weigh(values.z[c]);
      if (!reaches(before, goal) && sort_key(values.z[c]) >= floor_key && weight >= least) {
        before = carried(before + vec2u(weight >> 12u, weight & 4095u));
        token = 4u * walked_at(i) + c;
      }
    }
  }
  finish(token);
}

fn finish(token: u32) {
  control.ring[control.state.step % 256u] = token;
  seen[token / 32u] |= 1u << (token % 32u);
  control.state.step += 1u;
  control.state.position += select(control.state.count, 1u, VERIFIES == 1u);
  if (control.state.position < arrayLength(&history)) {
    history[control.state.position] = token;
  }
  if (VERIFIES == 1u) {
    let is_right = row + 1u < control.state.count && tokens[row + 1u] == token;
    verify_row[0] = select(NONE, row + 1u, is_right);
    if (is_right) {
      return;
    }
  }
  tokens[0] = token;
  control.state.count = 1u;
}

fn finish_broken() {
  control.ring[control.state.step % 256u] = BROKEN;
  control.state.step += 1u;
  if (VERIFIES == 1u) {
    verify_row[0] = NONE;
  }
}

@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) thread: u32) {
  if (VERIFIES == 1u) {
    if (thread == 0u) {
      found = vec4u(verify_row[0]);
    }
    let told = workgroupUniformLoad(&found);
    if (told.x == NONE) {
      return;
    }
    row = told.x;
  }
  let best = find_best(thread);
  if (best == NONE) {
    return;
  }
  if (best == BROKEN) {
    if (thread == 0u) {
      finish_broken();
    }
    return;
  }
  if (params.greedy == 1u) {
    if (thread == 0u) {
      finish(best);
    }
    return;
  }
  keep_blocks(thread);
  workgroupBarrier();
  var floor_key = 0u;
  if (params.top_k > 0u && params.top_k < params.vocab) {
    floor_key = select_key(thread, 0u, carried(vec2u(0u, params.top_k)), TOKENS);
  }
  if (params.top_p < 1.0) {
    sum_runs(thread, floor_key, 0u);
    let goal = part_of(sums[0], u32(params.top_p * 0x1p32f));
    workgroupBarrier(); // before sums are put there again
    let least_goal = vec2u(goal.x, select(goal.y, 1u, all(goal == vec2u())));
    floor_key = select_key(thread, floor_key, least_goal, WEIGHTS);
  }
  let least = max(u32(ceil(params.min_p * ONE)), 1u);
  sum_runs(thread, floor_key, least);
  draw(thread, floor_key, least, best);
}

// The next token: repetition penalty over `seen`, temperature, top-k, top-p, min-p, draw (the order
// of Hugging Face); or the largest logit after the penalty (greedy), the lowest id of equal ones.
// uses: state
//
// logits [vocab] f32, read as vec4s; seen: a bit a token; params is written once a generation.
// Writes the id to tokens[0] and to ring[step % 256], and moves the state on to the next token.
//
// Everything after exp() is integer arithmetic, so equal logits give the same token everywhere: a
// weight is floor(2^24 · exp(z - largest z)), and sums are (s / 4096, s % 4096), exact below 2^43.
// The k-th largest z, and the z at which the weights reach p, are found digit by digit in a key that
// sorts like z (radix select); everything equal to the threshold is kept.
//
// One workgroup; each of its 256 threads walks its own run of the vocabulary.

struct Params {
  vocab: u32,
  temperature: f32,
  top_k: u32, // 0: all
  top_p: f32,
  min_p: f32,
  repetition_penalty: f32,
  greedy: u32,
}

@group(0) @binding(0) var<storage, read> logits: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> seen: array<u32>;
@group(0) @binding(2) var<storage, read_write> tokens: array<u32>;
@group(0) @binding(3) var<storage, read_write> ring: array<u32>;
@group(0) @binding(4) var<storage, read_write> state: State;
@group(0) @binding(5) var<uniform> params: Params;

const ONE = 16777216.0; // 2^24, the weight of the largest

var<workgroup> best_z: array<f32, 256>;
var<workgroup> best_id: array<u32, 256>;
var<workgroup> high_sums: array<atomic<u32>, 256>; // of a digit's bin, or of a thread's run
var<workgroup> low_sums: array<atomic<u32>, 256>;
var<workgroup> top: f32; // the largest z
var<workgroup> found: vec4u; // what thread 0 tells the others

// Four ids from 4i on -> what is compared: penalised logits, over the temperature unless greedy.
fn load_z(i: u32) -> vec4f {
  var z = logits[i];
  let bits = (seen[i / 8u] >> (4u * (i % 8u))) & 15u;
  if (bits != 0u && params.repetition_penalty != 1.0) {
    let punished = select(z / params.repetition_penalty, z * params.repetition_penalty,
      z < vec4f());
    z = select(z, punished, (vec4u(bits) & vec4u(1u, 2u, 4u, 8u)) != vec4u());
  }
  return select(z / params.temperature, z, params.greedy == 1u);
}

// Unsigned integers in the order of the floats.
fn sort_key(z: f32) -> u32 {
  let bits = bitcast<u32>(z);
  let key = select(bits | 0x80000000u, ~bits, (bits & 0x80000000u) != 0u);
  return select(key, 0x80000000u, z == 0.0);
}

fn weigh(z: f32) -> u32 {
  return select(u32(exp(z - top) * ONE), u32(ONE), z >= top); // exp(0) might miss 1
}

// First and one past the last vec4 of a thread's run.
fn run_of(thread: u32) -> vec2u {
  let all = (params.vocab + 3u) / 4u;
  let each = (all + 255u) / 256u;
  return min(vec2u(thread * each, thread * each + each), vec2u(all));
}

fn find_best(thread: u32) {
  let run = run_of(thread);
  var z_best = -3.4e38;
  var id = 0xffffffffu;
  for (var i = run.x; i < run.y; i++) {
    let z = load_z(i);
    for (var c = 0u; c < 4u; c++) {
      if (4u * i + c < params.vocab && (z[c] > z_best || id == 0xffffffffu)) {
        z_best = z[c];
        id = 4u * i + c;
      }
    }
  }
  best_z[thread] = z_best;
  best_id[thread] = id;
  workgroupBarrier();
  if (thread == 0u) {
    for (var i = 1u; i < 256u; i++) {
      if (best_id[i] != 0xffffffffu && best_z[i] > z_best) {
        z_best = best_z[i];
        id = best_id[i];
      }
    }
    top = z_best;
    found = vec4u(id, 0u, 0u, 0u);
  }
  workgroupBarrier();
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

fn clear(thread: u32) {
  atomicStore(&high_sums[thread], 0u);
  atomicStore(&low_sums[thread], 0u);
  workgroupBarrier();
}

// Sum over kept tokens (key >= floor_key, weight >= least) of each thread's run, in its bin.
fn sum_runs(thread: u32, floor_key: u32, least: u32) {
  clear(thread);
  let run = run_of(thread);
  var sum = vec2u();
  for (var i = run.x; i < run.y; i++) {
    let z = load_z(i);
    for (var c = 0u; c < 4u; c++) {
      let weight = weigh(z[c]);
      if (4u * i + c < params.vocab && sort_key(z[c]) >= floor_key && weight >= least) {
        sum += vec2u(weight >> 12u, weight & 4095u);
      }
    }
  }
  sum = carried(sum);
  atomicStore(&high_sums[thread], sum.x);
  atomicStore(&low_sums[thread], sum.y);
  workgroupBarrier();
}

// The largest key such that what lies at or above it (of keys >= floor_key) reaches `goal`:
// counted in tokens (WEIGHED false) or in weights.
fn select_key(thread: u32, floor_key: u32, goal: vec2u, weighed: bool) -> u32 {
  var prefix = 0u; // the digits found so far
  var above = vec2u(); // the sum of all keys above those that share them
  for (var shift = 24i; shift >= 0i; shift -= 8i) {
    clear(thread);
    let run = run_of(thread);
    let mask = select(0xffffffffu << (u32(shift) + 8u), 0u, shift == 24i);
    for (var i = run.x; i < run.y; i++) {
      let z = load_z(i);
      for (var c = 0u; c < 4u; c++) {
        let key = sort_key(z[c]);
        if (4u * i + c < params.vocab && key >= floor_key && (key & mask) == prefix) {
          put((key >> u32(shift)) & 255u, select(1u, weigh(z[c]), weighed));
        }
      }
    }
    workgroupBarrier();
    if (thread == 0u) {
      var digit = 255u;
      var sum = carried(above + bin_sum(255u));
      while (digit > 0u && !reaches(sum, goal)) {
        above = sum;
        digit -= 1u;
        sum = carried(above + bin_sum(digit));
      }
      found = vec4u(prefix | (digit << u32(shift)), above, 0u);
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

// The sum of all bins; every thread gets it.
fn whole(thread: u32) -> vec2u {
  if (thread == 0u) {
    var sum = vec2u();
    for (var i = 0u; i < 256u; i++) {
      sum = carried(sum + bin_sum(i));
    }
    found = vec4u(sum, 0u, 0u);
  }
  return workgroupUniformLoad(&found).xy;
}

// Draws among tokens with key >= floor_key and weight >= least, in the order of ids.
fn draw(floor_key: u32, least: u32) -> u32 {
  var sum = vec2u();
  for (var i = 0u; i < 256u; i++) {
    sum = carried(sum + bin_sum(i));
  }
  var goal = part_of(sum, pcg(state.seed ^ pcg(state.step)));
  goal = carried(goal + vec2u(0u, 1u)); // the first token at which the sum passes the fraction
  var thread = 0u;
  sum = bin_sum(0u);
  var before = vec2u();
  while (thread < 255u && !reaches(sum, goal)) {
    before = sum;
    thread += 1u;
    sum = carried(sum + bin_sum(thread));
  }
  let run = run_of(thread);
  for (var i = run.x; i < run.y; i++) {
    let z = load_z(i);
    for (var c = 0u; c < 4u; c++) {
      let weight = weigh(z[c]);
      if (4u * i + c < params.vocab && sort_key(z[c]) >= floor_key && weight >= least) {
        before = carried(before + vec2u(weight >> 12u, weight & 4095u));
        if (reaches(before, goal)) {
          return 4u * i + c;
        }
      }
    }
  }
  return best_id[0]; // never: the run's sum reaches the goal
}

fn finish(token: u32) {
  tokens[0] = token;
  ring[state.step % 256u] = token;
  seen[token / 32u] |= 1u << (token % 32u);
  state.position += state.count;
  state.count = 1u;
  state.step += 1u;
}

@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) thread: u32) {
  find_best(thread);
  if (params.greedy == 1u) {
    if (thread == 0u) {
      finish(found.x);
    }
    return;
  }
  var floor_key = 0u;
  if (params.top_k > 0u && params.top_k < params.vocab) {
    let goal = carried(vec2u(0u, params.top_k));
    floor_key = select_key(thread, 0u, goal, false);
  }
  if (params.top_p < 1.0) {
    sum_runs(thread, floor_key, 0u);
    let goal = part_of(whole(thread), u32(params.top_p * 0x1p32f));
    let least_goal = vec2u(goal.x, select(goal.y, 1u, all(goal == vec2u())));
    floor_key = select_key(thread, floor_key, least_goal, true);
  }
  let least = max(u32(ceil(params.min_p * ONE)), 1u);
  sum_runs(thread, floor_key, least);
  if (thread == 0u) {
    finish(draw(floor_key, least));
  }
}

// The gated delta rule, token after token. A value head has a memory S [VALUE_DIM, KEY_DIM], of which
//   S = e^g · S;  S = S + β (v − S k) ⊗ k;  out[t, head] = S q
// where k and q are divided by their lengths, q by √KEY_DIM too, g = a · softplus(alpha + dt) and
// β = σ(beta). Head h has the key and query of head h / (value_heads / key_heads), or with TILED those of
// head h % key_heads.
// uses: state
//
// qkv [batch, qkv_stride] f32: heads of q, then of k [key_heads, KEY_DIM], then of v [value_heads, VALUE_DIM].
// gates [batch, gate_stride]: beta [value_heads] from column beta0 on, alpha from alpha0 on. a, dt [value_heads].
// memory [value_heads, VALUE_DIM, KEY_DIM], which counts as zero before position 0; out [batch, out_stride]. KEY_DIM and
// VALUE_DIM are multiples of 4, KEY_DIM at most 256.
//
// A workgroup does 16 rows (x) of the memory of a head (y) for the whole batch, 8 threads a row, which keep it in
// registers. A token takes one reduction: S is read for k and q at once, before it changes, and
// S q = e^g · (the S before) q + β (v − S k) · (k · q). Keys and queries of some tokens are staged together.

override KEY_DIM: u32;
override VALUE_DIM: u32;
override TILED: u32;
override WIDTH = KEY_DIM / 4u; // vec4s of a key
override EACH = (KEY_DIM / 4u + 7u) / 8u; // of which a thread has: every eighth
override PADDED = 8u * ((KEY_DIM / 4u + 7u) / 8u); // vec4s of a staged key: zeros behind it
override STAGED = min(256u / (8u * ((KEY_DIM / 4u + 7u) / 8u)), 16u); // tokens at once
override TEAM = 128u / min(256u / (8u * ((KEY_DIM / 4u + 7u) / 8u)), 16u); // threads that stage one

struct Params {
  key_heads: u32,
  value_heads: u32,
  qkv_stride: u32,
  gate_stride: u32,
  beta0: u32,
  alpha0: u32,
  out_stride: u32,
  eps: f32, // added to the squares of lengths
}

@group(0) @binding(0) var<storage, read> qkv: array<f32>;
@group(0) @binding(1) var<storage, read> gates: array<f32>;
@group(0) @binding(2) var<storage, read> a: array<f32>;
@group(0) @binding(3) var<storage, read> dt: array<f32>;
@group(0) @binding(4) var<storage, read_write> memory: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> out: array<f32>;
@group(0) @binding(6) var<uniform> state: State;
@group(0) @binding(7) var<uniform> params: Params;

const THREADS = 128u;
const PARTS = 8u; // threads a row
const ROWS = 16u;
const MOST = 8u; // vec4s that a thread has

struct Token {
  decay: f32, // e^g
  rate: f32, // β
  overlap: f32, // k · q
}

var<workgroup> queries: array<vec4f, 256>;
var<workgroup> keys: array<vec4f, 256>;
var<workgroup> values: array<f32, 256>; // of this workgroup's rows
var<workgroup> tokens: array<Token, 16>;
var<workgroup> squares: array<vec4f, 128>; // q · q, k · k and q · k of what each thread staged
var<workgroup> products: array<vec2f, 256>; // S k and S q of each thread, of two tokens in turn

fn softplus(x: f32) -> f32 {
  let u = exp(-abs(x));
  // For small u, 1 + u has lost most of it.
  let series = u * (1.0 - u * (0.5 - u * (0.33333334 - 0.25 * u)));
  return max(x, 0.0) + select(log(1.0 + u), series, u < 0.02);
}

// The key head of a value head.
fn key_head(head: u32) -> u32 {
  return select(head / (params.value_heads / params.key_heads), head % params.key_heads, TILED == 1u);
}

fn four(at: u32) -> vec4f {
  return vec4f(qkv[at], qkv[at + 1u], qkv[at + 2u], qkv[at + 3u]);
}

// Tokens start .. start + count - 1 of the batch, into workgroup memory.
fn stage(index: u32, head: u32, row0: u32, start: u32, count: u32) {
  let member = index % TEAM;
  let s = index / TEAM;
  let live = s < count;
  let row = (start + s) * params.qkv_stride;
  let query = row + key_head(head) * KEY_DIM;
  let key = query + params.key_heads * KEY_DIM;
  var sum = vec4f();
  for (var i = member; i < PADDED && live; i += TEAM) {
    var q = vec4f();
    var k = vec4f();
    if (i < WIDTH) {
      q = four(query + 4u * i);
      k = four(key + 4u * i);
    }
    queries[s * PADDED + i] = q;
    keys[s * PADDED + i] = k;
    sum += vec4f(dot(q, q), dot(k, k), dot(q, k), 0.0);
  }
  squares[index] = sum;
  let value = 2u * params.key_heads * KEY_DIM + head * VALUE_DIM + row0;
  for (var i = index; i < count * ROWS; i += THREADS) {
    let has = row0 + i % ROWS < VALUE_DIM;
    values[i] = select(0.0, qkv[(start + i / ROWS) * params.qkv_stride + value + i % ROWS], has);
  }
  workgroupBarrier();
  if (live) {
    sum = vec4f();
    for (var i = 0u; i < TEAM; i++) {
      sum += squares[s * TEAM + i];
    }
    let of_query = 1.0 / sqrt((sum.x + params.eps) * f32(KEY_DIM));
    let of_key = 1.0 / sqrt(sum.y + params.eps);
    for (var i = member; i < PADDED; i += TEAM) {
      queries[s * PADDED + i] *= of_query;
      keys[s * PADDED + i] *= of_key;
    }
    if (member == 0u) {
      let at = (start + s) * params.gate_stride + head;
      let g = a[head] * softplus(gates[at + params.alpha0] + dt[head]);
      let rate = 1.0 / (1.0 + exp(min(-gates[at + params.beta0], 80.0)));
      tokens[s] = Token(exp(g), rate, of_query * of_key * sum.z);
    }
  }
  workgroupBarrier();
}

@compute @workgroup_size(128)
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(local_invocation_index) index: u32,
) {
  if (state.count == 0u) {
    return;
  }
  let head = workgroup.y;
  let row0 = workgroup.x * ROWS;
  let row = row0 + index / PARTS;
  let part = index % PARTS;
  let place = (head * VALUE_DIM + row) * WIDTH;
  var own = array<vec4f, MOST>();
  for (var n = 0u; n < EACH; n++) {
    let i = PARTS * n + part;
    if (row < VALUE_DIM && i < WIDTH && state.position > 0u) {
      own[n] = memory[place + i];
    }
  }
  for (var start = 0u; start < state.count; start += STAGED) {
    let count = min(state.count - start, STAGED);
    workgroupBarrier(); // what was staged before has been read
    stage(index, head, row0, start, count);
    for (var s = 0u; s < count; s++) {
      var product = vec2f();
      for (var n = 0u; n < EACH; n++) {
        let i = s * PADDED + PARTS * n + part;
        product += vec2f(dot(own[n], keys[i]), dot(own[n], queries[i]));
      }
      let turn = (s % 2u) * THREADS;
      products[turn + index] = product;
      workgroupBarrier();
      product = vec2f();
      for (var i = 0u; i < PARTS; i++) {
        product += products[turn + index - part + i];
      }
      let token = tokens[s];
      let step = token.rate * (values[s * ROWS + index / PARTS] - token.decay * product.x);
      for (var n = 0u; n < EACH; n++) {
        own[n] = token.decay * own[n] + step * keys[s * PADDED + PARTS * n + part];
      }
      if (part == 0u && row < VALUE_DIM) {
        out[(start + s) * params.out_stride + head * VALUE_DIM + row] =
          token.decay * product.y + step * token.overlap;
      }
    }
  }
  for (var n = 0u; n < EACH; n++) {
    let i = PARTS * n + part;
    if (row < VALUE_DIM && i < WIDTH) {
      memory[place + i] = own[n];
    }
  }
}

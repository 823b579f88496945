// Logits as the samplers compare them. Put before those whose header says "uses: logits"; they bind
// `logits` [rows, vocab rounded up to a vec4] f32 as vec4s, `seen`, a bit a token, and `params`, written
// once a generation. `verify_row` is bound where there are several rows: verify_row[0] is the one to be sampled.
// `mask`, a bit a token as in `seen`, is bound where only tokens whose bit is set may come next; it changes
// from token to token, so never with `verify_row`: one of the two at most, and eight storage buffers in all.

override BLOCK: u32; // vec4s whose largest logit sample_blocks.wgsl finds: 32 times a small number
override VERIFIES: u32; // 0: there is one row; 1: the rows of a batch with drafts (draft.wgsl)
override MASKED: u32; // 0: every token may come next; 1: those of `mask`

struct Params {
  vocab: u32,
  temperature: f32,
  top_k: u32, // 0: all
  top_p: f32,
  min_p: f32,
  repetition_penalty: f32,
  greedy: u32,
}

const LOWEST = -3.4e38; // also of a token that the mask does not allow,
const ALLOWED = -3.3e38; // and the least of one that it does
const HIGHEST = 0x1.fffffep+127; // of f32
const NONE = 0xffffffffu; // no id, or no row: a draft was wrong, or all were right
const BROKEN = 0xfffffffeu; // in place of an id: a logit is infinite or NaN
const EXPONENT = 0x7f800000u; // bits of an f32, all set in those two

var<private> row: u32;

// The logits of four ids from 4i on.
fn load_logits(i: u32) -> vec4f {
  return logits[row * ((params.vocab + 3u) / 4u) + i];
}

// Which of four are infinite or NaN. By their bits, since compilers take floats to be finite.
fn are_broken(four: vec4f) -> vec4<bool> {
  return (bitcast<vec4u>(four) & vec4u(EXPONENT)) == vec4u(EXPONENT);
}

// Which of the lowest four bits are set.
fn are_set(bits: u32) -> vec4<bool> {
  return (vec4u(bits) & vec4u(1u, 2u, 4u, 8u)) != vec4u();
}

// Four ids from 4i on -> what is compared: penalised logits, over the temperature unless greedy; LOWEST
// where the mask has no bit.
fn load_z(i: u32) -> vec4f {
  var z = load_logits(i);
  let bits = (seen[i / 8u] >> (4u * (i % 8u))) & 15u;
  if (bits != 0u && params.repetition_penalty != 1.0) {
    let punished = select(z / params.repetition_penalty, z * params.repetition_penalty,
      z < vec4f());
    z = select(z, punished, are_set(bits));
  }
  z = select(z / params.temperature, z, params.greedy == 1u);
  if (MASKED == 1u) {
    let allowed = are_set(mask[i / 8u] >> (4u * (i % 8u)));
    z = select(vec4f(LOWEST), max(z, vec4f(ALLOWED)), allowed);
  }
  return z;
}

struct Best {
  z: f32,
  id: u32,
}

// The larger; of equal ones the lower id.
fn better(a: Best, b: Best) -> Best {
  let second = b.id != NONE && (a.id == NONE || b.z > a.z || (b.z == a.z && b.id < a.id));
  return Best(select(a.z, b.z, second), select(a.id, b.id, second));
}

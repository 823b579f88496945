// BLAKE3's compression function, after section 2.2 of its specification. Put before kernels whose
// header says "uses: compress".
//
// The state is four rows of four words: rows 0 and 1 begin as the chaining value, row 2 as the first
// half of SHA-256's initial values, row 3 as counter, length and flags. A round mixes the columns and
// then the diagonals, which are columns once the rows are turned against each other.

const IV = array<vec4u, 2>(
  vec4u(0x6a09e667u, 0xbb67ae85u, 0x3c6ef372u, 0xa54ff53au),
  vec4u(0x510e527fu, 0x9b05688cu, 0x1f83d9abu, 0x5be0cd19u));
const CHUNK_START = 1u;
const CHUNK_END = 2u;
const PARENT = 4u;
const ROOT = 8u;

struct Chain {
  low: vec4u,
  high: vec4u,
}

struct Rows {
  a: vec4u,
  b: vec4u,
  c: vec4u,
  d: vec4u,
}

fn turned(x: vec4u, count: u32) -> vec4u {
  return (x >> vec4u(count)) | (x << vec4u(32u - count));
}

// Four quarter rounds side by side, one a column; `first` and `second` are words of the message.
fn mix(v: Rows, first: vec4u, second: vec4u) -> Rows {
  var a = v.a + v.b + first;
  var d = turned(v.d ^ a, 16u);
  var c = v.c + d;
  var b = turned(v.b ^ c, 12u);
  a = a + b + second;
  d = turned(d ^ a, 8u);
  c = c + d;
  b = turned(b ^ c, 7u);
  return Rows(a, b, c, d);
}

// One block of up to 64 bytes, its sixteen words in m0 .. m3.
fn compress(chain: Chain, message: Rows, counter: u32, length: u32, flags: u32) -> Chain {
  var v = Rows(chain.low, chain.high, IV[0], vec4u(counter, 0u, length, flags));
  var m = message;
  for (var round = 0u; round < 7u; round++) {
    v = mix(v, vec4u(m.a.xz, m.b.xz), vec4u(m.a.yw, m.b.yw));
    v = mix(Rows(v.a, v.b.yzwx, v.c.zwxy, v.d.wxyz), vec4u(m.c.xz, m.d.xz), vec4u(m.c.yw, m.d.yw));
    v = Rows(v.a, v.b.wxyz, v.c.zwxy, v.d.yzwx);
    m = Rows(
      vec4u(m.a.z, m.b.z, m.a.w, m.c.z),
      vec4u(m.b.w, m.a.x, m.b.x, m.d.y),
      vec4u(m.a.y, m.c.w, m.d.x, m.b.y),
      vec4u(m.c.y, m.d.z, m.d.w, m.c.x));
  }
  return Chain(v.a ^ v.c, v.b ^ v.d);
}

// The chaining value of a node of the tree from those of its two children.
fn parent(left: Chain, right: Chain, root: bool) -> Chain {
  let message = Rows(left.low, left.high, right.low, right.high);
  return compress(Chain(IV[0], IV[1]), message, 0u, 64u, PARENT | select(0u, ROOT, root));
}

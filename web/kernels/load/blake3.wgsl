// uses: compress
//
// BLAKE3's first step: the chaining value of every chunk of 1024 bytes.
//
// data [length bytes]: blocks of `block` chunks, each of which is hashed by itself; the last block
// and its last chunk may be shorter. chains [chunks] of two vec4u. A thread hashes a chunk: the
// sixteen compressions within one depend on each other, those of different chunks do not.

struct Params {
  length: u32,
  block: u32,
}

@group(0) @binding(0) var<storage, read> data: array<vec4u>;
@group(0) @binding(1) var<storage, read_write> chains: array<vec4u>;
@group(0) @binding(2) var<uniform> params: Params;

// Sixteen bytes from byte `at` on; those from `end` on count as zero.
fn sixteen(at: u32, end: u32) -> vec4u {
  if (at >= end) {
    return vec4u(0u);
  }
  let there = vec4u(end - at) - min(vec4u(end - at), vec4u(0u, 4u, 8u, 12u));
  // A shift by 32 is no shift in WGSL, so that whole words are taken as they are.
  let kept = (vec4u(1u) << (8u * min(there, vec4u(3u)))) - vec4u(1u);
  return data[at / 16u] & select(kept, vec4u(0xffffffffu), there >= vec4u(4u));
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let chunk = id.x;
  let chunks = max((params.length + 1023u) / 1024u, 1u);
  if (chunk >= chunks) {
    return;
  }
  let counter = chunk % params.block;
  let alone = min(params.block, chunks - (chunk - counter)) == 1u;
  let start = 1024u * chunk;
  let end = min(start + 1024u, params.length);
  let last = (max(end - start, 1u) - 1u) / 64u;
  var chain = Chain(IV[0], IV[1]);
  for (var i = 0u; i <= last; i++) {
    let at = start + 64u * i;
    let message = Rows(
      sixteen(at, end), sixteen(at + 16u, end), sixteen(at + 32u, end), sixteen(at + 48u, end));
    let flags = select(0u, CHUNK_START, i == 0u) | select(0u, CHUNK_END, i == last)
      | select(0u, ROOT, i == last && alone);
    chain = compress(chain, message, counter, min(end - at, 64u), flags);
  }
  chains[2u * chunk] = chain.low;
  chains[2u * chunk + 1u] = chain.high;
}

// uses: compress
//
// BLAKE3's second step: the chaining values of a block's chunks -> the block's digest.
//
// chains [chunks] of two vec4u, as blake3.wgsl leaves them; digests [blocks] of two vec4u. Level by
// level neighbours become one node, and an odd last one goes up as it is: that is BLAKE3's tree, whose
// left side is always a power of two. A workgroup joins a block, at most 1024 chunks; the first level
// comes from the buffer, all others stay in the workgroup's memory.

struct Params {
  length: u32,
  block: u32,
}

@group(0) @binding(0) var<storage, read> chains: array<vec4u>;
@group(0) @binding(1) var<storage, read_write> digests: array<vec4u>;
@group(0) @binding(2) var<uniform> params: Params;

const THREADS = 256u;

var<workgroup> nodes: array<Chain, 512>;

fn chain_of(chunk: u32) -> Chain {
  return Chain(chains[2u * chunk], chains[2u * chunk + 1u]);
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) thread: u32) {
  let chunks = max((params.length + 1023u) / 1024u, 1u);
  let first = group.x * params.block;
  var count = min(params.block, chunks - first);
  for (var i = thread; 2u * i < count; i += THREADS) {
    nodes[i] = chain_of(first + 2u * i);
    if (2u * i + 1u < count) {
      nodes[i] = parent(nodes[i], chain_of(first + 2u * i + 1u), count == 2u);
    }
  }
  count = (count + 1u) / 2u;
  while (count > 1u) {
    workgroupBarrier();
    var node = nodes[min(2u * thread, 511u)];
    if (2u * thread + 1u < count) {
      node = parent(node, nodes[2u * thread + 1u], count == 2u);
    }
    workgroupBarrier();
    if (2u * thread < count) {
      nodes[thread] = node;
    }
    count = (count + 1u) / 2u;
  }
  if (thread == 0u) {
    digests[2u * group.x] = nodes[0].low;
    digests[2u * group.x + 1u] = nodes[0].high;
  }
}

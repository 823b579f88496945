// sums[w] = the sum of all words that workgroup w reads, modulo 2^32: how fast can memory be read?
//
// data [tiles · 1024] vec4u, sums [workgroups]. Workgroup w reads tiles w, w + workgroups, ...; its
// 256 threads read four vec4u of a tile each, neighbours beside neighbours.

struct Params {
  tiles: u32,
}

@group(0) @binding(0) var<storage, read> data: array<vec4u>;
@group(0) @binding(1) var<storage, read_write> sums: array<u32>;
@group(0) @binding(2) var<uniform> params: Params;

var<workgroup> shares: array<u32, 256>;

@compute @workgroup_size(256)
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) workgroups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  var sum = vec4u(0u);
  for (var tile = workgroup.x; tile < params.tiles; tile += workgroups.x) {
    let at = 1024u * tile + lane;
    sum += data[at] + data[at + 256u] + data[at + 512u] + data[at + 768u];
  }
  shares[lane] = sum.x + sum.y + sum.z + sum.w;
  workgroupBarrier();
  if (lane == 0u) {
    var all = 0u;
    for (var i = 0u; i < 256u; i++) {
      all += shares[i];
    }
    sums[workgroup.x] = all;
  }
}

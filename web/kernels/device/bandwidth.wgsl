// sums[t] = the sum of all words that thread t reads, modulo 2^32: how fast can memory be read?
//
// data [tiles · 1024] vec4u, sums [workgroups · 256]. Workgroup w reads tiles w, w + workgroups, ...;
// each of its threads reads four vec4u of a tile, neighbours beside neighbours.

struct Params {
  tiles: u32,
}

@group(0) @binding(0) var<storage, read> data: array<vec4u>;
@group(0) @binding(1) var<storage, read_write> sums: array<u32>;
@group(0) @binding(2) var<uniform> params: Params;

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
  sums[256u * workgroup.x + lane] = sum.x + sum.y + sum.z + sum.w;
}

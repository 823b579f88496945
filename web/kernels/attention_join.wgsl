// out[h] = Σ_s exp(m[s, h] - M) · parts[s, h] / Σ_s exp(m[s, h] - M) · l[s, h], M being the largest
// m[s, h] and marks (m, l): what attention_decode.wgsl left of each run s of keys.
//
// parts [splits, heads, HEAD_DIM] f32, marks [splits, heads], out [heads, HEAD_DIM]. A thread does a
// vec4 of the output. A run without keys has l = 0 and so no share.

override HEAD_DIM: u32;

struct Params {
  heads: u32,
  splits: u32,
}

@group(0) @binding(0) var<storage, read> parts: array<vec4f>;
@group(0) @binding(1) var<storage, read> marks: array<vec2f>;
@group(0) @binding(2) var<storage, read_write> out: array<vec4f>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let width = params.heads * HEAD_DIM / 4u;
  if (id.x >= width) {
    return;
  }
  let head = id.x / (HEAD_DIM / 4u);
  var largest = marks[head].x;
  for (var s = 1u; s < params.splits; s++) {
    largest = max(largest, marks[s * params.heads + head].x);
  }
  var sum = vec4f();
  var total = 0.0;
  for (var s = 0u; s < params.splits; s++) {
    let mark = marks[s * params.heads + head];
    let share = exp(mark.x - largest);
    total += share * mark.y;
    sum += share * parts[s * width + id.x];
  }
  out[id.x] = sum / total;
}

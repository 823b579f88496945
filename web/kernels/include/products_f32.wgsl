// A group's product in f32, activations staged as they are. Put before the matvecs whose header says
// "uses: products_f32"; it needs dequantize.wgsl and matvec_common.wgsl.

alias Staged = vec4f;

fn keep(v: vec4f) -> vec4f {
  return v;
}

fn restored(v: vec4f) -> vec4f {
  return v;
}

fn product(group: Group, v: Activations) -> f32 {
  return group_product(
    group, Half(v.v0, v.v1, v.v2, v.v3), Half(v.v4, v.v5, v.v6, v.v7), v.sum);
}

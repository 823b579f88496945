enable subgroups;
diagnostic(off, subgroup_uniformity);
// matvec.wgsl with subgroups: out[out0 + row0 + r] = Σ_c W[r, c] · v[c], or act(gate) · up of pairs of
// rows; v is one token's activations, with norms folded in (see vector.wgsl). Everything in f32.
// uses: types
// uses: planes
// uses: state
// uses: grid
// uses: activation
// uses: rows
// uses: vector
// uses: team

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

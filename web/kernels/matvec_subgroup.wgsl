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
// uses: products_f32
// uses: team
// uses: subgroup_sums

// matvec.wgsl for GPUs that lack subgroups, or whose subgroups are small: out[out0 + row0 + r] =
// Σ_c W[r, c] · v[c], or act(gate) · up of pairs of rows; v is one token's activations, with norms folded in
// (see matvec_common.wgsl). Everything in f32.
// uses: types
// uses: dequantize
// uses: state
// uses: grid
// uses: activation
// uses: rows
// uses: matvec_common
// uses: products_f32
// uses: matvec_rows
// uses: workgroup_sums

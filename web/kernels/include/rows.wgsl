// Which rows of a matrix are multiplied, and where their products go. Put before those whose header says
// "uses: rows"; it needs activation.wgsl, and matmul_common.wgsl or matvec_common.wgsl, which have the bindings.
//
// A slice of a matrix is `params.rows` rows from row `params.row0` on; or, with EXPERTS, `params.experts`
// matrices of so many rows each, one below another. A token then uses `params.used` of all experts: its
// slot j, number token · used + j of the batch, has its own row of `out`. Activations x are a row a token
// (EXPERTS 1) or a row a slot (2).
//
// With ADDEND, `addend` is added: one number a row of the matrix, from number `params.addend0` on, and
// `params.addend_stride` further for each token. A bias is the same for all tokens, its stride is 0. With
// ADDEND 2 these numbers are the ups of an activation, whose gates alone are multiplied.

override ADDEND: u32;
override EXPERTS: u32;
override PAIRED = ACTIVATION > 0u && ADDEND != UPS;

const UPS = 2u; // of ADDEND

var<private> expert_row: u32; // the expert's first row in this slice

// Turns to an expert; false where it is not in this slice.
fn take_expert(expert: u32) -> bool {
  let here = expert - params.row0 / params.rows; // wraps, and so is too large, below the first
  expert_row = here * params.rows;
  return here < params.experts;
}

// The row of x that a slot multiplies.
fn row_of_slot(slot: u32) -> u32 {
  return select(slot, slot / params.used, EXPERTS == 1u);
}

// The row of the slice that is number r of those multiplied: in pairs, gates are the even
// numbers, which are the matrix's first half, and ups, its second, the odd ones.
fn row_of(r: u32) -> u32 {
  let row = min(r, params.rows - 1u);
  return expert_row + select(row, row / 2u + (row & 1u) * (params.rows / 2u), PAIRED);
}

fn with_addend(token: u32, r: u32, sum: f32) -> f32 {
  if (ADDEND == 0u) {
    return sum;
  }
  let given = addend[token * params.addend_stride + params.addend0 + params.row0 + row_of(r)];
  if (ADDEND == UPS) {
    return gated(vec4f(sum), vec4f(given)).x;
  }
  return sum + given;
}

// Stores the sum of number r, which is none of a pair, in the row of `out` of a token, or of a slot.
fn store_one(token: u32, r: u32, sum: f32) {
  if (r < params.rows) {
    out[out_base(token) + select(params.row0 + r, r, EXPERTS > 0u)] = with_addend(token, r, sum);
  }
}

// Stores the sums of numbers r and r + 1.
fn store_two(token: u32, r: u32, sums: vec2f) {
  if (!PAIRED) {
    store_one(token, r, sums.x);
    store_one(token, r + 1u, sums.y);
  } else if (r < params.rows) {
    let gate = vec4f(with_addend(token, r, sums.x));
    let up = vec4f(with_addend(token, r + 1u, sums.y));
    out[out_base(token) + r / 2u] = gated(gate, up).x;
  }
}

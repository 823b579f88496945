// act(gate) · up. Put before kernels whose header says "uses: activation". In those that multiply a
// matrix, with an activation, rows are pairs: gates are the matrix's first half, and their ups, which the
// kernel computes beside them, its second.

override ACTIVATION: u32; // 0: none, 1: silu, 2: gelu with tanh

fn activate(x: vec4f) -> vec4f {
  if (ACTIVATION == 1u) {
    return x / (1.0 + exp(min(-x, vec4f(80.0)))); // exp(80) is finite, and the quotient is 0
  }
  let inner = 0.7978845608028654 * (x + 0.044715 * x * x * x); // sqrt(2 / pi)
  return 0.5 * x * (1.0 + tanh(clamp(inner, vec4f(-10.0), vec4f(10.0)))); // tanh(10) is 1 in f32
}

// The matrix row of number r of `rows`: with an activation, gates are the even numbers.
fn row_of_rows(r: u32, rows: u32) -> u32 {
  let row = min(r, rows - 1u);
  return select(row, row / 2u + (row & 1u) * (rows / 2u), ACTIVATION > 0u);
}

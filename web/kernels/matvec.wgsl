// out[out0 + row0 + r] = Σ_c W[r, c] · v[c], or act(gate) · up of pairs of rows; v is one token's
// activations, with norms folded in (see vector.wgsl).
// uses: planes
// uses: state
// uses: vector
//
// A thread computes 4 rows, a workgroup 128: no subgroups, so that it runs everywhere, and little
// waiting, which CPUs that play a GPU do badly.

fn total_of(value: f32, index: u32, at: u32) -> f32 {
  squares[at + index] = value;
  workgroupBarrier();
  var whole = 0.0;
  for (var i = 0u; i < 32u; i++) {
    whole += squares[at + i];
  }
  return whole;
}

// 16 activations from vec4 `at` on.
fn load_half(at: u32) -> Half {
  return Half(activation(at), activation(at + 1u), activation(at + 2u), activation(at + 3u));
}

// Products of row r with 32 columns, in four parts.
fn products(r: u32, g: u32, a: Half, b: Half) -> vec4f {
  let group = load_group(r, g, COLS);
  return multiply(first_half(group), a) + multiply(second_half(group), b);
}

@compute @workgroup_size(32)
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) grid: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let number = workgroup.y * grid.x + workgroup.x;
  stage(lane, 32u, number == 0u);
  let row = (number * 32u + lane) * 4u;
  if (row >= params.rows) {
    return;
  }
  let rows = four_rows(row);
  let groups = groups_of(COLS);
  var sums0 = vec4f();
  var sums1 = vec4f();
  var sums2 = vec4f();
  var sums3 = vec4f();
  for (var g = 0u; g < groups; g++) {
    let a = load_half(8u * g);
    let b = load_half(8u * g + 4u);
    sums0 += products(rows.x, g, a, b);
    sums1 += products(rows.y, g, a, b);
    sums2 += products(rows.z, g, a, b);
    sums3 += products(rows.w, g, a, b);
  }
  store_four(row, vec4f(total(sums0), total(sums1), total(sums2), total(sums3)));
}

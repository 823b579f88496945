// Norm of a head and rotation, with angles from a table in two levels. Put before kernels whose header
// says "uses: rope_math"; they have HEAD_DIM, PAIRS and QK_NORM, and bind qkv, q_norm, k_norm and angles.
//
// angles (cos, sin): HEAD_DIM/2 for each of the positions 0..63, then for each multiple of 64; their
// sum follows from the addition theorem, since WGSL's sine is not accurate for large angles.

fn angle(position: u32, i: u32) -> vec2f {
  let half = HEAD_DIM / 2u;
  let fine = angles[(position % 64u) * half + i];
  let coarse = angles[(64u + position / 64u) * half + i];
  return vec2f(coarse.x * fine.x - coarse.y * fine.y, coarse.y * fine.x + coarse.x * fine.y);
}

// Element i of the head at `base` of qkv: rotated with its partner and normed, in the order of QK_NORM.
fn turned_value(base: u32, i: u32, position: u32, inverse: f32, is_query: bool) -> f32 {
  let half = HEAD_DIM / 2u;
  var first = i < half;
  var pair = select(i - half, i, first);
  var partner = select(i - half, i + half, first);
  if (PAIRS == 1u) {
    first = i % 2u == 0u;
    pair = i / 2u;
    partner = i ^ 1u;
  }
  var own = qkv[base + i];
  var other = qkv[base + partner];
  if (QK_NORM == 1u) {
    own *= inverse * (select(k_norm[i], q_norm[i], is_query) + params.offset);
    other *= inverse * (select(k_norm[partner], q_norm[partner], is_query) + params.offset);
  }
  let turn = angle(position, pair);
  let value = own * turn.x + select(other, -other, first) * turn.y;
  if (QK_NORM == 2u) { // a rotation leaves a head as long as it is
    return value * inverse * (select(k_norm[i], q_norm[i], is_query) + params.offset);
  }
  return value;
}

// Elements i .. i + 3.
fn turned_four(base: u32, i: u32, position: u32, inverse: f32, is_query: bool) -> vec4f {
  return vec4f(
    turned_value(base, i, position, inverse, is_query),
    turned_value(base, i + 1u, position, inverse, is_query),
    turned_value(base, i + 2u, position, inverse, is_query),
    turned_value(base, i + 3u, position, inverse, is_query));
}

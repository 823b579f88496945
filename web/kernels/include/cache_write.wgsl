// Puts keys and values where cache.wgsl finds them. Put before kernels whose header says
// "uses: cache_write"; they bind `keys` and `values` for writing. f32 and f16 are kept four by four. For q8
// the numbers of a whole row have to be known: kernels put them in workgroup memory, say by `fresh(i)` what
// numbers 4i .. 4i + 3 there are, and after a barrier write the words of q8_word, a thread each.

const LEAST_SCALE = 1e-30; // less is as good as 0, and may have no reciprocal

fn halves(four: vec4f) -> vec2u {
  let finite = clamp(four, vec4f(-MOST_HALF), vec4f(MOST_HALF));
  return vec2u(pack2x16float(finite.xy), pack2x16float(finite.zw));
}

fn keep_key(row: u32, i: u32, four: vec4f) {
  if (KV_TYPE == F16) {
    keys[row + i] = halves(four);
    return;
  }
  keys[row + 2u * i] = bitcast<vec2u>(four.xy);
  keys[row + 2u * i + 1u] = bitcast<vec2u>(four.zw);
}

fn keep_value(row: u32, i: u32, four: vec4f) {
  if (KV_TYPE == F16) {
    values[row + i] = halves(four);
    return;
  }
  values[row + 2u * i] = bitcast<vec2u>(four.xy);
  values[row + 2u * i + 1u] = bitcast<vec2u>(four.zw);
}

// The largest magnitude among the numbers of a group, the row's last being `end - 1` in fours.
fn group_scale(first: u32, end: u32) -> f32 {
  var largest = vec4f();
  for (var i = first; i < min(first + 8u, end); i++) {
    largest = max(largest, abs(fresh(i)));
  }
  return max(max(largest.x, largest.y), max(largest.z, largest.w));
}

// Word n of the ROW that keep, as q8, the row that `fresh` has from `first` on.
fn q8_word(first: u32, n: u32) -> vec2u {
  let end = first + HEAD_DIM / 4u;
  if (n >= CODES) {
    let group = first + 16u * (n - CODES);
    return bitcast<vec2u>(vec2f(group_scale(group, end), group_scale(group + 8u, end)));
  }
  let scale = group_scale(first + n / 4u * 8u, end);
  let inverse = select(0.0, 1.0 / scale, scale > LEAST_SCALE);
  let four = first + 2u * n;
  return vec2u(
    pack4x8snorm(inverse * fresh(four)), pack4x8snorm(inverse * fresh(min(four + 1u, end - 1u))));
}

// Puts keys and values where cache.wgsl finds them. Put before kernels whose header says
// "uses: cache_write"; they bind `keys` and `values` for writing.

fn halves(four: vec4f) -> vec2u {
  let finite = clamp(four, vec4f(-MOST_HALF), vec4f(MOST_HALF));
  return vec2u(pack2x16float(finite.xy), pack2x16float(finite.zw));
}

fn keep_key(place: u32, four: vec4f) {
  if (KV_HALF == 1u) {
    keys[place] = halves(four);
    return;
  }
  keys[2u * place] = bitcast<vec2u>(four.xy);
  keys[2u * place + 1u] = bitcast<vec2u>(four.zw);
}

fn keep_value(place: u32, four: vec4f) {
  if (KV_HALF == 1u) {
    values[place] = halves(four);
    return;
  }
  values[2u * place] = bitcast<vec2u>(four.xy);
  values[2u * place + 1u] = bitcast<vec2u>(four.zw);
}

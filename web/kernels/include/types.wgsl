// Types of weights, by the numbers that weights/placement.py gives them, and how wide a row is in their second
// plane (dequantize.wgsl): those before Q4_0 are dense and have none. Put before kernels whose header says
// "uses: types".

const F32 = 0u;
const F16 = 1u;
const BF16 = 2u;
const Q4_0 = 3u;
const Q4_1 = 4u;
const Q5_0 = 5u;
const Q5_1 = 6u;
const Q8_0 = 7u;
const Q4_K = 8u;
const Q5_K = 9u;
const Q6_K = 10u;
const MXFP4 = 11u;
const IQ4_NL = 12u;
const Q3_K = 13u;
const Q2_K = 14u;

// Words of high bits in a row of so many groups of 32 columns.
fn high_words(kind: u32, groups: u32) -> u32 {
  if (kind == Q5_0 || kind == Q5_1 || kind == Q5_K || kind == Q3_K) {
    return groups;
  }
  return select(0u, 2u * groups, kind == Q6_K);
}

// Words of scales in a row; they come after its high bits.
fn scale_words(kind: u32, groups: u32) -> u32 {
  if (kind == Q4_0 || kind == Q5_0 || kind == Q8_0 || kind == IQ4_NL) {
    return (groups + 1u) / 2u;
  } else if (kind == Q4_1 || kind == Q5_1) {
    return groups;
  } else if (kind == MXFP4) {
    return (groups + 3u) / 4u;
  } else if (kind == Q4_K || kind == Q5_K) {
    return 4u * (groups / 8u);
  }
  return 5u * (groups / 8u);
}

// Words of both.
fn row_words(kind: u32, groups: u32) -> u32 {
  return high_words(kind, groups) + scale_words(kind, groups);
}

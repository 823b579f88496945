// What keeps attention's scores within ±c: c · tanh(score / c), c being SCORE_CAP; with 0 they are left as
// they are. Put before kernels whose header says "uses: score_cap".

override SCORE_CAP: f32;

// `unit`: what scores were multiplied by before.
fn capped(scores: vec4f, unit: f32) -> vec4f {
  if (SCORE_CAP == 0.0) {
    return scores;
  }
  let most = max(SCORE_CAP, 1e-30) * unit; // compilers divide by it even where there is no cap
  let within = most * tanh(clamp(scores / most, vec4f(-10.0), vec4f(10.0))); // tanh(10) is 1
  // By their bits, since compilers take floats to be numbers: what is none stays, and ends the answer.
  let are_none = (bitcast<vec4u>(scores) & vec4u(0x7fffffffu)) > vec4u(0x7f800000u);
  return select(within, scores, are_none);
}

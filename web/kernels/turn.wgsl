// Rotary angles from a table in two levels. Put before kernels whose header says "uses: turn"; they
// have a binding `angles` and HEAD_DIM.
//
// angles (cos, sin): HEAD_DIM/2 for each of the positions 0..63, then for each multiple of 64; their
// sum follows from the addition theorem, since WGSL's sine is not accurate for large angles.

fn angle(position: u32, i: u32) -> vec2f {
  let half = HEAD_DIM / 2u;
  let fine = angles[(position % 64u) * half + i];
  let coarse = angles[(64u + position / 64u) * half + i];
  return vec2f(coarse.x * fine.x - coarse.y * fine.y, coarse.y * fine.x + coarse.x * fine.y);
}

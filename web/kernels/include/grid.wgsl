// Workgroups of which there may be more than one dimension of a grid takes: gpu/grids.py folds those over it
// and the next one. Put before kernels whose header says "uses: grid".

// A workgroup's number, from its place in the two dimensions and the length of the first.
fn unfolded(place: vec2u, length: u32) -> u32 {
  return place.y * length + place.x;
}

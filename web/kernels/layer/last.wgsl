// The last token of a batch, alone: its hidden state, what layers have for it of their own (OWN 1), and
// the state, by which it is the batch from now on.
//
// x [batch, width], own [batch, own_width]; out, own_out the same of one token, all in vec4s. One workgroup.
// uses: state

override OWN: u32;

struct Params {
  width: u32,
  own_width: u32,
}

@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read> own: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> out: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> own_out: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> state: State;
@group(0) @binding(5) var<uniform> params: Params;

var<workgroup> last: u32; // and one more: 0 for none

@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) index: u32) {
  if (index == 0u) {
    last = state.count;
    state.position += max(last, 1u) - 1u;
    state.count = min(last, 1u);
  }
  let count = workgroupUniformLoad(&last);
  if (count == 0u) {
    return;
  }
  for (var i = index; i < params.width; i += 256u) {
    out[i] = x[(count - 1u) * params.width + i];
  }
  for (var i = index; i < params.own_width && OWN == 1u; i += 256u) {
    own_out[i] = own[(count - 1u) * params.own_width + i];
  }
}

"""route.wgsl with another main: experts as residency/synthetic.py chooses them, of no logits.

A model of random weights has routers that choose nearly the same experts for every token. With this
text in the kernel's place (`replace_kernel`) it runs as if its text had a profile's locality. Time
and layer come of the clock of lookups, so that a halted layer chooses the same again; without slots
the clock stands still.
"""

from __future__ import annotations

from doppler.residency.synthetic import Profile

MAIN = """
fn scrambled(value: u32) -> u32 {{
  let state = value * 747796405u + 2891336453u;
  let word = ((state >> ((state >> 28u) + 4u)) ^ state) * 277803737u;
  return (word >> 22u) ^ word;
}}

fn drawn(time: u32, layer: u32, slot: u32, again: u32) -> f32 {{
  let bits = scrambled(scrambled(scrambled(scrambled(time) ^ layer) ^ slot) ^ again);
  return f32(bits >> 8u) / 16777216.0;
}}

// An expert by its layer's order, of which the r-th has the weight (r + first)^-skew.
fn expert_of(share: f32, layer: u32) -> u32 {{
  let n = f32(params.experts);
  let first = 1.0 + {head} * n;
  let begin = pow(first, {power});
  let rank = pow(begin - share * (begin - pow(first + n, {power})), 1.0 / {power}) - first;
  return (min(u32(max(rank, 0.0)), params.experts - 1u) * 37u + layer * 53u) % params.experts;
}}

@compute @workgroup_size(64)
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) grid: vec3u,
  @builtin(local_invocation_index) index: u32,
) {{
  let t = unfolded(workgroup.xy, grid.x);
  if (t >= state.count || index > 0u) {{
    return;
  }}
  let layer = state.clock % {layers}u;
  let now = 1000u + state.clock / {layers}u + t;
  for (var slot = 0u; slot < params.used; slot++) {{
    var time = now; // since when this slot of the choice is what it is
    for (var i = 0u; i < 32u && drawn(time, layer, slot, 1000000u) < {likeness}; i++) {{
      time--;
    }}
    var expert = 0u;
    for (var again = 0u; again < 1000u; again++) {{
      expert = expert_of(drawn(time, layer, slot, again), layer);
      var known = false;
      for (var i = 0u; i < slot; i++) {{
        known = known || best[i] == expert;
      }}
      if (!known) {{
        break;
      }}
    }}
    best[slot] = expert;
    topk_ids[t * params.used + slot] = expert;
    topk_weights[t * params.used + slot] = params.factor / f32(params.used);
  }}
}}
"""


def router_source(shipped: str, layers: int, profile: Profile) -> str:
    """`shipped` is the text of route.wgsl; `layers` are those that have slots."""
    likeness = sum(profile.likeness) / len(profile.likeness)
    values = {"head": profile.head, "power": 1 - profile.skew, "likeness": likeness}
    numbers = {name: f"{value:.4f}" for name, value in values.items()}
    return shipped[: shipped.index("@compute")] + MAIN.format(layers=layers, **numbers)

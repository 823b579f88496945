"""Cases of the experts of a layer that does not hold all: which slots they are in."""

from __future__ import annotations

import numpy as np

from doppler.workbench.case import Array, Case, Expected, Launch, Rng, Trial, inside, named
from doppler.workbench.cases.inputs import case
from doppler.workbench.cases.moe import MIXTURES, ROOM, Mixture

NONE = 0xFFFFFFFF
CAUSE = 5
CLOCK = 40


def lookup(rng: Rng, mixture: Mixture, slots: int, halts: bool, missing: bool) -> Trial:
    """Experts in slots in any order; what is `missing` is one that the last token uses."""
    experts, count = mixture.experts, mixture.tokens * mixture.used
    routed = np.minimum(mixture.topk_ids(rng), experts - 1)
    table = np.full(experts, NONE, np.uint32)
    used = np.unique(routed[:count])
    table[used] = rng.permutation(slots)[: len(used)]
    if missing:
        table[routed[count - 1]] = NONE
    arrays = {
        "routed": routed,
        "table": table,
        "topk_ids": np.full(mixture.slots, 9999, np.uint32),
        "demand": np.full(experts, 9999, np.uint32),
        "uses": np.arange(2 * experts, dtype=np.uint32).reshape(experts, 2),
        "state": np.array([3, mixture.tokens, 2, 1, 0, CLOCK], np.uint32),
    }
    params = {"experts": experts, "used": mixture.used, "slots": slots, "cause": CAUSE}
    launch = Launch("lookup", {"HALTS": int(halts)}, params, named(arrays), mixture.tokens + ROOM)
    found = np.minimum(table[routed[:count]], slots)
    demand = np.bincount(routed[:count], minlength=experts)
    outputs = ["topk_ids", "demand", "uses", "state"]
    ids = inside(arrays["topk_ids"], np.s_[:count], found, 0.0, 1.0)
    state = _state(arrays["state"], halts, missing)
    uses = _uses(arrays["uses"], demand if halts and not missing else 0 * demand)
    exact = {"demand": demand, "uses": uses, "state": state}
    return Trial(
        arrays,
        [launch],
        outputs,
        lambda _: {"topk_ids": ids, **{name: Expected(it) for name, it in exact.items()}},
    )


def _state(before: Array, halts: bool, missing: bool) -> Array:
    """Halted, or one lookup later."""
    after = before.copy()
    if halts and missing:
        after[1], after[4] = 0, CAUSE
    elif halts:
        after[5] += 1
    return after


def _uses(before: Array, demand: Array) -> Array:
    """When each was used last, and how often."""
    after = before.copy()
    after[demand > 0, 0] = CLOCK + 1
    after[:, 1] += demand.astype(np.uint32)
    return after


CASES: tuple[Case, ...] = tuple(
    case(
        "lookup",
        f"{mixture}{'' if halts else ', in a pass'}{', one is missing' if missing else ''}",
        lookup,
        mixture,
        mixture.experts + 1,
        halts,
        missing,
    )
    for mixture in MIXTURES
    for halts in (True, False)
    for missing in (False, True)
)

"""Cases of the kernels of layers with a state, and of those that copy it."""

from __future__ import annotations

import numpy as np

from doppler import references
from doppler.workbench.case import Array, Case, Expected, Launch, Rng, Trial, inside, named
from doppler.workbench.cases.inputs import UNTOUCHED, case, normal, padded, state

LOST = 100.0  # what the state holds in place of inputs before position 0


def conv(rng: Rng, channels: int, taps: int, tokens: int, position: int, gated: bool) -> Trial:
    """A batch whose last token is not real; rows are longer than what is read and written."""
    parts = 3 if gated else 1
    rows, filters = normal(rng, tokens + 1, parts * channels), normal(rng, channels, taps)
    if not gated:
        rows[0, 0] = -300.0  # whose exp is too large
    earlier = normal(rng, taps - 1, channels)  # the latest last
    earlier[: max(taps - 1 - position, 0)] = 0.0
    recent = np.full((taps - 1, channels), LOST, np.float32)
    for back in range(1, min(taps - 1, position) + 1):
        recent[(position - back) % (taps - 1)] = earlier[-back]
    arrays = {
        "x": padded(rows, parts * channels + 8),
        "filters": filters.astype(np.float32),
        "recent": recent,
        "out": np.full((tokens + 1, channels + 4), UNTOUCHED, np.float32),
        "state": state(tokens, position),
    }
    params = {"channels": channels, "in_stride": parts * channels + 8, "out_stride": channels + 4}
    own = rows[:tokens]
    inputs = references.conv_inputs(own) if gated else own
    exact = references.conv(inputs, filters, earlier)
    exact = own[:, channels : 2 * channels] * exact if gated else references.silu(exact)
    kept = range(max(tokens - taps + 1, 0), tokens)
    places = [(position + t) % (taps - 1) for t in kept]
    return Trial(
        arrays,
        [Launch("conv", {"TAPS": taps, "GATED": int(gated)}, params, named(arrays), tokens + 1)],
        ["out", "recent"],
        lambda _: {
            "out": inside(arrays["out"], np.s_[:tokens, :channels], exact),
            "recent": inside(recent, places, inputs[list(kept)]),
        },
    )


def nothing(rng: Rng, kernel: str) -> Trial:
    """A plan that is halted: no state changes, and no copy of it."""
    values = [normal(rng, 2, 8).astype(np.float32) for _ in range(2)]
    arrays = {"x": normal(rng, 4, 24).astype(np.float32), "out": values[0]}
    arrays["state"] = state(0, 9)
    arrays["state"][4] = 1
    params, constants = {"size": 4}, {}
    if kernel == "conv":
        arrays |= {"filters": normal(rng, 8, 3).astype(np.float32), "recent": values[1]}
        params = {"channels": 8, "in_stride": 24, "out_stride": 8}
        constants = {"TAPS": 3, "GATED": 1}
    same = {name: Expected(array) for name, array in arrays.items() if name in {"out", "recent"}}
    launch = Launch(kernel, constants, params, named(arrays), 4)
    return Trial(arrays, [launch], list(same), lambda _: same)


def copy(rng: Rng, size: int) -> Trial:
    """`size` vec4s of more."""
    x: Array = normal(rng, size + 3, 4).astype(np.float32)
    arrays = {"x": x, "out": np.full(x.shape, UNTOUCHED, np.float32), "state": state(1, 5)}
    right = {"out": inside(arrays["out"], np.s_[:size], x[:size], 0.0, 1.0)}
    launch = Launch("copy", {}, {"size": size}, named(arrays))
    return Trial(arrays, [launch], ["out"], lambda _: right)


CASES: tuple[Case, ...] = (
    *(
        case("conv", f"{n} tokens of {channels} from {at}, {taps} taps{note}", conv, *sizes, gated)
        for gated, note in ((True, ""), (False, ", with SiLU"))
        for sizes in (
            *((8, 3, n, at) for n in (1, 2, 3) for at in (0, 1, 2, 3)),
            *((8, 4, n, at) for n in (1, 2, 5) for at in (0, 2, 7)),
            (260, 3, 37, 5),
            (68, 4, 16, 0),
            (12, 2, 17, 1),
            (4, 8, 33, 3),
        )
        for channels, taps, n, at in (sizes,)
    ),
    case("conv", "halted", nothing, "conv"),
    *(case("copy", f"{size} vec4s", copy, size) for size in (1, 256, 700)),
    case("copy", "halted", nothing, "copy"),
)

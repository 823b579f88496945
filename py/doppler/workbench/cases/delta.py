"""Cases of the kernels of Gated DeltaNet, and of gates of heads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from doppler.config.mixers import LENGTH_EPS
from doppler.recurrences import delta_rates, gated_delta, head_gate, unit
from doppler.workbench.case import Case, Expected, Launch, Rng, Trial, inside, named
from doppler.workbench.cases.inputs import UNTOUCHED, case, fours, normal, state


@dataclass(frozen=True)
class Heads:
    """Of a Gated DeltaNet, and how wide each is."""

    keys: int
    values: int
    key_dim: int
    value_dim: int
    tiled: bool = False

    @property
    def of_values(self) -> list[int]:
        """The key head of each value head."""
        each = self.values // self.keys
        return [h % self.keys if self.tiled else h // each for h in range(self.values)]


def delta(rng: Rng, heads: Heads, count: int, batch: int, position: int = 9) -> Trial:
    """A batch of which the first `count` tokens are real; at position 0, memory is empty, whatever
    it holds.

    Some heads forget nearly all, some nearly nothing; some keys are all zeros.
    """
    width, outer = heads.keys * heads.key_dim, heads.values * heads.value_dim
    qkv = normal(rng, batch, 2 * width + outer)
    qkv[0, width : width + heads.key_dim] = 0
    gates = 3 * normal(rng, batch, 2 * fours(heads.values))
    alpha0 = fours(heads.values)
    a, dt = -np.exp(normal(rng, heads.values)), 2 * normal(rng, heads.values) - 2
    a, dt = (it.astype(np.float32).astype(np.float64) for it in (a, dt))
    memory = normal(rng, heads.values, heads.value_dim, heads.key_dim)
    before = {
        "qkv": np.pad(qkv, ((0, 0), (0, 4))).astype(np.float32),
        "gates": gates.astype(np.float32),
        "a": a.astype(np.float32),
        "dt": dt.astype(np.float32),
        "memory": memory.astype(np.float32),
        "out": np.full((batch, outer + 4), UNTOUCHED, np.float32),
        "state": state(count, position),
    }
    params = {
        "key_heads": heads.keys,
        "value_heads": heads.values,
        "qkv_stride": qkv.shape[1] + 4,
        "gate_stride": gates.shape[1],
        "beta0": 0,
        "alpha0": alpha0,
        "out_stride": outer + 4,
        "eps": LENGTH_EPS,
    }
    constants = {
        "KEY_DIM": heads.key_dim,
        "VALUE_DIM": heads.value_dim,
        "TILED": int(heads.tiled),
    }
    q, k, v = np.split(qkv[:count], [width, 2 * width], axis=1)
    q, k = (unit(it.reshape(count, heads.keys, heads.key_dim))[:, heads.of_values] for it in (q, k))
    beta, alpha = gates[:count, : heads.values], gates[:count, alpha0:][:, : heads.values]
    rates = delta_rates(beta, alpha, a, dt)
    v = v.reshape(count, heads.values, heads.value_dim)
    out, after = gated_delta(q / np.sqrt(heads.key_dim), k, v, *rates, memory * (position > 0))
    # Sums are over terms of either sign, as large as the memory's rows: of these is the rounding.
    scale = np.abs(out).max() if count else 1.0
    return Trial(
        before,
        [Launch("delta", constants, params, named(before), batch)],
        ["out", "memory"],
        lambda _: {
            "out": inside(
                before["out"], np.s_[:count, :outer], out.reshape(count, outer), scale=scale
            ),
            "memory": Expected(after, 1e-5, np.full(after.shape, np.abs(after).max()))
            if count
            else Expected(before["memory"]),
        },
    )


def gated(rng: Rng, heads: int, head_dim: int, tokens: int, normed: bool) -> Trial:
    """Heads through gates, some of which are so large that exp would overflow; the last token of
    the batch is not real.
    """
    width, eps = heads * head_dim, 1e-3
    x, gates = normal(rng, tokens + 1, width), 3 * normal(rng, tokens + 1, width)
    gates[0, 0], gates[0, -1] = -200.0, 200.0
    weight = normal(rng, head_dim)
    arrays = {
        "x": np.pad(x, ((0, 0), (0, 4)), constant_values=UNTOUCHED).astype(np.float32),
        "gates": np.pad(gates, ((0, 0), (8, 0))).astype(np.float32),
        "state": state(tokens),
    }
    arrays |= {"weight": weight.astype(np.float32)} if normed else {}
    params = {"heads": heads, "stride": width + 4, "gate_stride": width + 8, "gate0": 8}
    constants = {"HEAD_DIM": head_dim, "NORM": int(normed)}
    shape = (tokens, heads, head_dim)
    own, through = (it[:tokens].reshape(shape) for it in (x, gates))
    exact = head_gate(own, through, weight if normed else None, eps).reshape(tokens, width)
    return Trial(
        arrays,
        [Launch("head_gate", constants, {**params, "eps": eps}, named(arrays), tokens + 1)],
        ["x"],
        lambda _: {"x": inside(arrays["x"], np.s_[:tokens, :width], exact)},
    )


# As published models have them; and others: no dimension is a multiple of what threads take.
DELTAS = {
    "four of 128, two for each key": Heads(2, 4, 128, 128),
    "three of 4": Heads(1, 3, 4, 4),
    "of 36 and 20, in turn": Heads(2, 6, 36, 20, tiled=True),
    "one of 256 and 8": Heads(1, 1, 256, 8),
}
CASES: tuple[Case, ...] = (
    *(
        case("delta", f"{name}, {count} of {batch} tokens", delta, heads, count, batch)
        for name, heads in DELTAS.items()
        for count, batch in ((1, 1), (30, 33))
    ),
    case("delta", "halted", delta, DELTAS["of 36 and 20, in turn"], 0, 5),
    case("delta", "from the start", delta, DELTAS["of 36 and 20, in turn"], 3, 4, 0),
    case("delta", "70 of 70 tokens", delta, DELTAS["of 36 and 20, in turn"], 70, 70),
    *(
        case(
            "head_gate", f"{tokens} tokens of {heads} x {dim}{name}", gated, heads, dim, tokens, it
        )
        for heads, dim, tokens in ((1, 4, 1), (3, 36, 5), (2, 256, 3))
        for name, it in (("", False), (", normed", True))
    ),
)

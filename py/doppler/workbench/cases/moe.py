"""Cases of a mixture of experts: routing, tiles of an expert's slots, products, their sum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from doppler import references
from doppler.config.layer import Experts
from doppler.gpu.wgsl import Number
from doppler.plan.bindings import most_tiles
from doppler.weights.placement import FORMS
from doppler.workbench.case import (
    Array,
    Arrays,
    Case,
    Expected,
    Launch,
    Rng,
    Trial,
    inside,
    named,
)
from doppler.workbench.cases.inputs import (
    UNTOUCHED,
    case,
    fours,
    normal,
    padded,
    state,
)
from doppler.workbench.cases.matmul import SUM_ERROR, features, name_of
from doppler.workbench.cases.weights import Matrix, moved

ROOM = 2  # tokens of the batch that are not real


@dataclass(frozen=True)
class Mixture:
    """`tokens` real tokens use `used` of `experts` experts each."""

    experts: int
    used: int
    tokens: int

    def __str__(self) -> str:
        return f"{self.tokens} tokens, {self.used} of {self.experts} experts"

    @property
    def slots(self) -> int:
        """Of the batch: (token, expert) pairs, those of tokens beyond too."""
        return (self.tokens + ROOM) * self.used

    def topk_ids(self, rng: Rng) -> Array:
        """Experts by slot, each token's different ones; those of the tokens beyond are none."""
        ids = [rng.permutation(self.experts)[: self.used] for _ in range(self.tokens)]
        return np.concatenate([*ids, [self.experts + 7] * (ROOM * self.used)]).astype(np.uint32)


# One of each, all used, more than a workgroup's threads, tokens to spare.
MIXTURES = (
    Mixture(1, 1, 1),
    Mixture(5, 2, 7),
    Mixture(8, 8, 3),
    Mixture(300, 9, 2),
    Mixture(1000, 3, 33),
)


def route(rng: Rng, mixture: Mixture, **how: Any) -> Trial:
    """Also where logits are equal, where the first comes first, and far apart. how: of Experts."""
    experts, tokens, slots = mixture.experts, mixture.tokens, mixture.slots
    of_all = Experts(experts, mixture.used, **how)
    logits = 3 * normal(rng, tokens + ROOM, experts)
    logits[0, experts // 2 :] = logits[0, 0]
    logits[-1 - ROOM] *= 30
    logits = logits.astype(np.float32).astype(np.float64)  # shares hang on the last bit
    stride = fours(experts)
    arrays = {
        "logits": padded(logits, stride),
        "topk_ids": np.full(slots, 9999, np.uint32),
        "topk_weights": np.full(slots, UNTOUCHED, np.float32),
        "state": state(tokens),
    }
    scales, biases = normal(rng, experts), 0.1 * normal(rng, experts)
    biases = biases.astype(np.float32).astype(np.float64)
    arrays |= {"scales": scales.astype(np.float32)} if of_all.scaled else {}
    arrays |= {"biases": biases.astype(np.float32)} if of_all.biased else {}
    params: dict[str, Number] = {"experts": experts, "used": mixture.used, "stride": stride}
    params["factor"] = of_all.factor
    constants = {"NORMED": int(of_all.normed), "SCALED": int(of_all.scaled)}
    constants |= {"SIGMOID": int(of_all.sigmoid), "BIASED": int(of_all.biased)}
    ids, weights = references.route(
        logits[:tokens], of_all, scales if of_all.scaled else 1.0, biases
    )
    return Trial(
        arrays,
        [Launch("route", constants, params, named(arrays), tokens + ROOM)],
        ["topk_ids", "topk_weights"],
        lambda _: {
            "topk_ids": inside(arrays["topk_ids"], np.s_[: ids.size], ids.ravel(), 0.0, 1.0),
            "topk_weights": inside(
                arrays["topk_weights"],
                np.s_[: ids.size],
                weights.ravel(),
                scale=np.repeat(np.abs(weights).max(axis=1), mixture.used),
            ),
        },
    )


# What Experts says of them.
ROUTERS: Mapping[str, Mapping[str, Any]] = {
    "shares of them": {"normed": True},
    "shares of all": {"normed": False},
    "scaled": {"normed": False, "scaled": True},
    "shares of them, biased": {"normed": True, "biased": True},
    "sigmoids": {"normed": False, "sigmoid": True, "biased": True},
    "shares of sigmoids": {"normed": True, "sigmoid": True, "biased": True, "factor": 2.5},
}


def tiled(mixture: Mixture, topk_ids: Array, size: int) -> tuple[Launch, dict[str, Array]]:
    """A launch of align, and its arrays but for the ids and the state."""
    tiles = most_tiles(mixture.slots, mixture.experts, size)
    arrays = {
        "order": np.full(mixture.slots, 9999, np.uint32),
        "tiles": np.full((tiles, 4), 9999, np.uint32),
    }
    params = {"experts": mixture.experts, "used": mixture.used, "size": size, "tiles": tiles}
    return Launch("align", {}, params, named(["topk_ids", "state", *arrays])), arrays


def align(rng: Rng, mixture: Mixture, size: int) -> Trial:
    """Every slot is in one tile, of its own expert, in whatever order; the tiles that are left are
    empty.
    """
    topk_ids = mixture.topk_ids(rng)
    launch, made = tiled(mixture, topk_ids, size)
    return Trial(
        {**made, "topk_ids": topk_ids, "state": state(mixture.tokens)},
        [launch],
        ["order", "tiles"],
        lambda got: {
            "order": _in_any_order(got["order"], made["order"], topk_ids, mixture),
            "tiles": Expected(_tiles(made["tiles"], topk_ids, mixture, size)),
        },
    )


def _in_any_order(got: Array, before: Array, topk_ids: Array, mixture: Mixture) -> Expected:
    """The slots by expert: as they came, where they are those of each expert."""
    count = mixture.tokens * mixture.used
    order, found = np.argsort(topk_ids[:count], kind="stable"), got[:count]
    is_whole = np.array_equal(np.sort(found), np.arange(count))
    if is_whole and np.array_equal(topk_ids[found], topk_ids[order]):
        order = found
    return inside(before, np.s_[:count], order, 0.0, 1.0)


def _tiles(before: Array, topk_ids: Array, mixture: Mixture, size: int) -> Array:
    """(expert, first place, one past the last, 0) of each run of slots; zeros beyond them."""
    counts = np.bincount(topk_ids[: mixture.tokens * mixture.used], minlength=mixture.experts)
    ends = np.cumsum(counts)
    runs = [
        (expert, first, min(first + size, end), 0)
        for expert, (count, end) in enumerate(zip(counts, ends, strict=True))
        for first in range(end - count, end, size)
    ]
    out = np.zeros_like(before)
    out[: len(runs)] = runs
    return out


def summed(rng: Rng, width: int, used: int, tokens: int, beside: int = 0) -> Trial:
    """What a token's experts gave, by their weights; and a dense FFN, by its gate or as it is."""
    stride, batch, routes, gate = fours(width), tokens + ROOM, 12, 8
    x, weights = normal(rng, batch * used, width), normal(rng, batch, used)
    arrays = {
        "x": padded(x, stride),
        "topk_weights": weights.astype(np.float32).ravel(),
        "out": np.full((batch, stride), UNTOUCHED, np.float32),
        "state": state(tokens),
    }
    exact = np.zeros((tokens, stride))
    exact[:, :width] = (weights[..., None] * x.reshape(batch, used, width)).sum(axis=1)[:tokens]
    if beside:
        dense, gates = normal(rng, batch, width), 4 * normal(rng, batch, routes)
        gates[0, gate] = -200.0
        arrays |= {"beside": padded(dense, stride)}
        arrays |= {"gates": gates.astype(np.float32)} if beside == 1 else {}
        shares = 1 / (1 + np.exp(-gates[:tokens, gate, None])) if beside == 1 else 1.0
        exact[:, :width] += shares * dense[:tokens]
    params = {"stride": stride, "used": used, "routes": routes, "gate": gate}
    return Trial(
        arrays,
        [Launch("sum", {"BESIDE": beside}, params, named(arrays), batch)],
        ["out"],
        lambda _: {"out": inside(arrays["out"], np.s_[:tokens], exact)},
    )


# Slots of a tile (0: a slot is a workgroup's own), and a cut.
KERNELS: Mapping[str, tuple[int, Mapping[str, int]]] = {
    "matvec": (0, {}),
    "matvec_workgroup": (0, {"TEAM": 4, "ROWS": 2, "DEPTH": 1, "TOKENS": 1}),
    "matvec_subgroup": (0, {"TEAM": 8, "ROWS": 2, "DEPTH": 2, "TOKENS": 1}),
    "matmul": (16, {}),
    "matmul_tile": (64, {"ROW_BLOCKS": 1, "TOKEN_BLOCKS": 1, "HALF": 0}),
}
PRODUCTS = Mixture(7, 3, 41)
FIRST, HERE = 2, 4  # experts of the slice that the products are made with
WIDTHS = {"BF16": 45, "MXFP4": 96, "Q4_K": 256}
# (rows of x by token or by slot, activation, rows of an expert)
PARTS = {
    "of tokens": (1, 0, 10),
    "of tokens, gated": (1, 3, 10),
    "of slots": (2, 0, 5),
    "of slots, gated": (2, 2, 6),
}


def by_expert(rng: Rng, kernel: str, kind: str, part: tuple[int, int, int]) -> Trial:
    """Products with each slot's own expert, from a slice that has some of them."""
    (rows_of, activation, height), (size, cut) = part, KERNELS[kernel]
    mixture, cols = PRODUCTS, WIDTHS[kind]
    slots, topk_ids = mixture.slots, mixture.topk_ids(rng)
    matrix = Matrix.random(rng, kind, mixture.experts * height, cols)
    arrays, relayout = moved(matrix.part(FIRST * height, HERE * height))
    out_rows = height // 2 if activation else height
    rows = slots if rows_of == 2 else mixture.tokens + ROOM
    x, bias = normal(rng, rows, cols), normal(rng, mixture.experts * height)
    placed: dict[str, Array] = {}
    launches = [relayout]
    if size:
        launch, placed = tiled(mixture, topk_ids, size)
        launches.append(launch)
    arrays |= {
        "x": padded(x, fours(cols)),
        "addend": bias.astype(np.float32),
        "state": state(mixture.tokens),
        "out": np.full((slots, out_rows + 3), UNTOUCHED, np.float32),
        "topk_ids": topk_ids,
        **placed,
    }
    constants = {"FORM": FORMS[kind], "ACTIVATION": activation, "ADDEND": 1, "EXPERTS": rows_of}
    params: dict[str, int | float] = {
        "rows": height,
        "row0": FIRST * height,
        "x_stride": fours(cols),
        "out_stride": out_rows + 3,
        "out0": 2,
        "experts": HERE,
        "used": mixture.used,
        "addend0": 0,
        "addend_stride": 0,
    }
    if size:
        params["cols"] = cols
    else:
        constants |= {"COLS": cols, "PROLOGUE": 0, "STAGE": 1, "SPLITS": 0, "SCALED": 0}
        params |= {"last": 0, "eps": 0.0, "offset": 0.0, "heads": 0}
    bound = arrays.keys() - {"raw", *(("topk_ids",) if size else ())}
    count = len(placed["tiles"]) * size if size else slots
    launches.append(Launch(kernel, {**constants, **cut}, params, named(bound), count))
    experts = matrix.values.reshape(mixture.experts, height, cols)
    return Trial(
        arrays,
        launches,
        ["out"],
        lambda _: {"out": _by_slot(arrays, experts, (rows_of, activation))},
    )


def _by_slot(arrays: Arrays, experts: Array, how: tuple[int, int]) -> Expected:
    """What each slot gives whose expert is here, relative to the products that were added up."""
    (rows_of, activation), topk_ids = how, arrays["topk_ids"]
    weights, biases = experts.astype(np.float64), arrays["addend"].reshape(len(experts), -1)
    x = arrays["x"].astype(np.float64)[:, : experts.shape[2]]
    out, scale = arrays["out"].astype(np.float64), np.zeros(arrays["out"].shape)
    for slot in range(PRODUCTS.tokens * PRODUCTS.used):
        expert = topk_ids[slot]
        if FIRST <= expert < FIRST + HERE:
            v = x[slot if rows_of == 2 else slot // PRODUCTS.used]
            out[slot, 2:-1], scale[slot, 2:-1] = _product(
                weights[expert], v, biases[expert], activation
            )
    return Expected(out, 4 * SUM_ERROR, scale)


def _product(matrix: Array, v: Array, bias: Array, activation: int) -> tuple[Array, Array]:
    """matrix · v + bias, gated, and how large what was added up is."""
    sums, sizes = matrix @ v + bias, np.abs(matrix) @ np.abs(v) + np.abs(bias)
    if not activation:
        return sums, sizes
    half = len(sums) // 2
    factor = 1 + np.abs(sums[half:]) + sizes[half:]
    gated = references.gate(sums[None, :half], sums[None, half:], name_of(activation))[0]
    return gated, (1 + sizes[:half]) * factor


CASES: tuple[Case, ...] = (
    *(
        Case("route", f"{mixture}, {name}", partial(route, mixture=mixture, **how))
        for name, how in ROUTERS.items()
        for mixture in (MIXTURES if how.keys() == {"normed"} else MIXTURES[1:4])
    ),
    *(
        case("align", f"{mixture}, tiles of {size}", align, mixture, size)
        for mixture in (*MIXTURES, Mixture(4, 2, 700), Mixture(2, 1, 129))
        for size in (4, 64)
    ),
    *(
        case("sum", f"{tokens} tokens of {width}, {used} experts", summed, width, used, tokens)
        for width, used, tokens in ((1, 1, 1), (67, 3, 5), (260, 8, 17))
    ),
    case("sum", "5 tokens of 67, 3 experts and a dense FFN", summed, 67, 3, 5, 2),
    case("sum", "5 tokens of 67, 3 experts and a dense FFN with a gate", summed, 67, 3, 5, 1),
    *(
        case(
            kernel,
            f"by expert, {kind}, {name}",
            by_expert,
            kernel,
            kind,
            part,
            needs=features(kernel),
        )
        for kernel in KERNELS
        for kind in WIDTHS
        for name, part in PARTS.items()
    ),
)

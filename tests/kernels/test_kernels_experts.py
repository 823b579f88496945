"""Kernels of a mixture of experts, in the browser against float64 NumPy."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from doppler import references
from doppler.plan.bindings import most_tiles
from doppler.weights.placement import FORMS
from gpu_page import Case, GpuPage
from test_kernels_ops import assert_close, normal, padded, state
from test_kernels_weights import SUM_ERROR, blocks, dequantized, relayout

Array = npt.NDArray[Any]
# (experts, used, tokens): one of each, all used, more than a workgroup's threads, tokens to spare
MIXTURES = ((1, 1, 1), (5, 2, 7), (8, 8, 3), (300, 9, 2), (1000, 3, 33))
ROOM = 2  # tokens of the batch that are not real


def routed(rng: np.random.Generator, experts: int, used: int, tokens: int) -> Array:
    """Experts by slot, each token's different ones; those of the tokens beyond are none."""
    topk_ids = [rng.permutation(experts)[:used] for _ in range(tokens)]
    return np.concatenate([*topk_ids, [experts + 7] * (ROOM * used)]).astype(np.uint32)


def route_case(
    rng: np.random.Generator, mixture: tuple[int, int, int], normed: bool
) -> tuple[Case, tuple[Array, Array]]:
    """A case and the exact (experts, topk_weights) of its real tokens; some logits are equal."""
    experts, used, tokens = mixture
    logits = 3 * normal(rng, tokens + ROOM, experts)
    logits[0, experts // 2 :] = logits[0, 0]
    logits[-1 - ROOM] *= 30
    stride = -(-experts // 4) * 4
    arrays = {
        "logits": padded(logits, stride),
        "topk_ids": np.full((tokens + ROOM) * used, 9999, np.uint32),
        "topk_weights": np.full((tokens + ROOM) * used, 7.0, np.float32),
        "state": state(tokens),
    }
    params = {"experts": experts, "used": used, "stride": stride}
    constants = {"NORMED": int(normed)}
    case = Case("route", constants, arrays, params, ["topk_ids", "topk_weights"], tokens + ROOM)
    return case, references.route(logits[:tokens], used, normed)


@pytest.mark.parametrize("normed", [True, False])
def test_route(gpu_page: GpuPage, normed: bool) -> None:
    """Also where logits are equal, where the first comes first, and far apart."""
    rng = np.random.default_rng(1)
    made = [route_case(rng, mixture, normed) for mixture in MIXTURES]
    for (_, right), result in zip(made, gpu_page.run([c for c, _ in made]), strict=True):
        topk_ids, topk_weights = right
        assert result["topk_ids"][: topk_ids.size].tolist() == topk_ids.ravel().tolist()
        assert_close(
            result["topk_weights"][: topk_weights.size].reshape(topk_weights.shape), topk_weights
        )
        assert (result["topk_ids"][topk_ids.size :] == 9999).all()
        assert (result["topk_weights"][topk_weights.size :] == 7.0).all()


def align_case(topk_ids: Array, experts: int, used: int, tokens: int, size: int) -> Case:
    slots = len(topk_ids)
    tiles = most_tiles(slots, experts, size)
    arrays = {
        "topk_ids": topk_ids,
        "order": np.full(slots, 9999, np.uint32),
        "tiles": np.full((tiles, 4), 9999, np.uint32),
        "state": state(tokens),
    }
    params = {"experts": experts, "used": used, "size": size, "tiles": tiles}
    return Case("align", {}, arrays, params, ["order", "tiles"])


def test_assign(gpu_page: GpuPage) -> None:
    """Every slot is in one tile, of its own expert; what is left of the room for tiles is empty."""
    rng = np.random.default_rng(2)
    many = (*MIXTURES, (4, 2, 700), (2, 1, 129))
    made = [(routed(rng, *mixture), mixture, size) for mixture in many for size in (4, 64)]
    cases = [align_case(topk_ids, *mixture, size) for topk_ids, mixture, size in made]
    for (topk_ids, (_, used, tokens), size), result in zip(made, gpu_page.run(cases), strict=True):
        order = result["order"]
        assert sorted(order[: tokens * used].tolist()) == list(range(tokens * used))
        ends, seen = 0, []
        for expert, first, past, _ in result["tiles"].tolist():
            if past == 0:
                continue
            assert first == ends
            assert 0 < past - first <= size
            assert (topk_ids[order[first:past]] == expert).all()
            seen.append((expert, past - first))
            ends = past
        assert ends == tokens * used
        assert [expert for expert, _ in seen] == sorted(expert for expert, _ in seen)
        whole = [count == size for _, count in seen]
        changes = [a[0] != b[0] for a, b in itertools.pairwise(seen)]
        assert all(full or change for full, change in zip(whole[:-1], changes, strict=True))


def combine_case(
    rng: np.random.Generator, width: int, used: int, tokens: int
) -> tuple[Case, Array]:
    """A case and the exact output of its real tokens."""
    stride = -(-width // 4) * 4
    x, topk_weights = normal(rng, (tokens + ROOM) * used, width), normal(rng, (tokens + ROOM), used)
    arrays = {
        "x": padded(x, stride),
        "topk_weights": topk_weights.astype(np.float32).ravel(),
        "out": np.full((tokens + ROOM, stride), 7.0, np.float32),
        "state": state(tokens),
    }
    params = {"stride": stride, "used": used}
    each = x.reshape(tokens + ROOM, used, width)
    exact = (topk_weights[..., None] * each).sum(axis=1)[:tokens]
    return Case("sum", {}, arrays, params, ["out"], tokens + ROOM), exact


def test_combine(gpu_page: GpuPage) -> None:
    rng = np.random.default_rng(3)
    made = [combine_case(rng, *shape) for shape in ((1, 1, 1), (67, 3, 5), (260, 8, 17))]
    for (_, exact), result in zip(made, gpu_page.run([c for c, _ in made]), strict=True):
        tokens, width = exact.shape
        assert_close(result["out"][:tokens, :width], exact)
        assert (result["out"][tokens:] == 7.0).all()


KERNELS: Mapping[str, tuple[int, Mapping[str, int]]] = {  # slots of a tile, and a cut
    "matvec": (0, {}),
    "matvec_workgroup": (0, {"TEAM": 4, "ROWS": 2, "DEPTH": 1, "TOKENS": 1}),
    "matvec_subgroup": (0, {"TEAM": 8, "ROWS": 2, "DEPTH": 2, "TOKENS": 1}),
    "matmul": (16, {}),
    "matmul_tile": (64, {"ROW_BLOCKS": 1, "TOKEN_BLOCKS": 1, "HALF": 0}),
}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("kind", ["BF16", "MXFP4", "Q4_K"])
def test_products_by_expert(gpu_page: GpuPage, kernel: str, kind: str) -> None:
    """For tokens and for slots, with activation and without, from a slice with some experts."""
    rng = np.random.default_rng(FORMS[kind])
    cols = {"BF16": 45, "MXFP4": 96, "Q4_K": 256}[kind]
    experts, used, tokens, first, here = 7, 3, 41, 2, 4
    topk_ids = routed(rng, experts, used, tokens)
    size, cut = KERNELS[kernel]
    placed = {"topk_ids": topk_ids}
    if size:
        (placed,) = gpu_page.run([align_case(topk_ids, experts, used, tokens, size)])
    cases, right = [], []
    for rows_of, activation, height in ((1, 0, 10), (1, 3, 10), (2, 0, 5), (2, 2, 6)):
        data = blocks(kind, experts * height, cols, rng)
        matrix = dequantized(kind, data, experts * height, cols).reshape(experts, height, cols)
        row_bytes = len(data) // (experts * height)
        part = data[first * height * row_bytes : (first + here) * height * row_bytes]
        (planes,) = gpu_page.run([relayout(kind, part, here * height, cols)])
        slots = (tokens + ROOM) * used
        x = padded(normal(rng, slots if rows_of == 2 else tokens + ROOM, cols), -(-cols // 4) * 4)
        bias = normal(rng, experts * height).astype(np.float32)
        out_rows = height // 2 if activation else height
        constants = {"FORM": FORMS[kind], "ACTIVATION": activation, "ADDEND": 1, "EXPERTS": rows_of}
        params = {
            "rows": height,
            "row0": first * height,
            "x_stride": x.shape[1],
            "out_stride": out_rows + 3,
            "out0": 2,
            "experts": here,
            "used": used,
            "addend0": 0,
            "addend_stride": 0,
        }
        if kernel.startswith("matvec"):
            constants |= {"COLS": cols, "PROLOGUE": 0, "STAGE": 1, "SPLITS": 0}
            params |= {"last": 0, "eps": 0.0, "offset": 0.0, "heads": 0}
        else:
            params["cols"] = cols
        arrays = {
            **planes,
            "x": x,
            "addend": bias,
            "state": state(tokens),
            "out": np.full((slots, out_rows + 3), 7.0, np.float32),
            **placed,
        }
        count = len(placed["tiles"]) * size if size else slots
        cases.append(Case(kernel, {**constants, **cut}, arrays, params, ["out"], count))
        right.append(exact_products(matrix, bias, x, topk_ids, used, (rows_of, activation)))
    for (exact, scale), result in zip(right, gpu_page.run(cases), strict=True):
        out = result["out"]
        mine = (
            (topk_ids >= first)
            & (topk_ids < first + here)
            & (np.arange(len(topk_ids)) < tokens * used)
        )
        error = np.abs(out[mine, 2:-1] - exact[mine]) / scale[mine]
        assert error.max() < 4 * SUM_ERROR
        assert (out[:, :2] == 7.0).all()
        assert (out[:, -1] == 7.0).all()
        assert (out[~mine] == 7.0).all()


def exact_products(
    matrix: Array, bias: Array, x: Array, topk_ids: Array, used: int, how: tuple[int, int]
) -> tuple[Array, Array]:
    """What each slot gives, [slots, rows], and how large the products were that were added up."""
    (rows_of, activation), experts = how, len(matrix)
    matrix, x = matrix.astype(np.float64), x.astype(np.float64)[:, : matrix.shape[2]]
    out, scale = [], []
    for slot, expert in enumerate(np.minimum(topk_ids, experts - 1)):
        v, b = x[slot if rows_of == 2 else slot // used], bias.reshape(experts, -1)[expert]
        sums, sizes = matrix[expert] @ v + b, np.abs(matrix[expert]) @ np.abs(v) + np.abs(b)
        if activation:
            name = ("silu", "gelu_tanh", "swiglu_clamped")[activation - 1]
            half = len(sums) // 2
            factor = 1 + np.abs(sums[half:]) + sizes[half:]
            sums = references.gate(sums[None, :half], sums[None, half:], name)[0]  # type: ignore[arg-type]
            sizes = (1 + sizes[:half]) * factor
        out.append(sums)
        scale.append(sizes)
    return np.array(out), np.array(scale)

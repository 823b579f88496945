"""attention_decode and attention_join in the browser against float64 NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from doppler import references
from doppler.config import Rope, RopePairs
from doppler.engine.memory import rope_table
from doppler.plan.decode import parts_of
from gpu_page import Case, GpuPage
from test_kernels_ops import (
    SINKS,
    assert_close,
    bound_sinks,
    cache_type,
    in_ring,
    normal,
    padded,
    sinks_at,
    state,
)

Array = npt.NDArray[Any]
# (heads, kv heads, head dim, tokens before, window, splits, slots of a ring or 0)
SHAPES = (
    (1, 1, 8, 0, 0, 1, 0),
    (3, 1, 16, 5, 0, 8, 0),
    (4, 2, 24, 40, 16, 3, 0),
    (5, 1, 64, 300, 0, 2, 0),
    (8, 1, 128, 70, 64, 32, 0),
    (4, 1, 256, 150, 0, 4, 0),
    (4, 2, 24, 40, 16, 3, 16),
    (3, 1, 64, 10, 16, 2, 16),
    (8, 1, 128, 127, 64, 32, 64),
    (5, 1, 32, 305, 280, 1, 290),
    (4, 1, 16, 308, 1, 4, 5),
)


@pytest.mark.parametrize("shift", [0, 1])  # by which sinks are dealt out to the shapes
@pytest.mark.parametrize("pairs", ["half", "interleaved"])
def test_attention_of_one_token(gpu_page: GpuPage, pairs: RopePairs, shift: int) -> None:
    rng = np.random.default_rng(5)
    context, eps, offset, rope = 310, 1e-6, 1.0, Rope(10000.0)
    decode, exact = [], []
    for index, (heads, kv_heads, dim, before, window, splits, slots) in enumerate(SHAPES):
        half = (index % 2 == 0) == (pairs == "half")
        normed = index % 3 != 1
        width = (heads + 2 * kv_heads) * dim
        qkv, q_norm, k_norm = normal(rng, 1, width), normal(rng, dim), normal(rng, dim)
        kept = [normal(rng, kv_heads, before + 1, dim).astype(cache_type(half)) for _ in range(2)]
        q, k, v = np.split(qkv.reshape(1, -1, dim), [heads, heads + kv_heads], axis=1)
        if normed:
            q = references.rms(q, q_norm, eps, offset)
            k = references.rms(k, k_norm, eps, offset)
        frequencies = np.array(rope.inverse_frequencies(dim))
        position = np.array([before])
        q, k = (references.rotate(part, position, frequencies, pairs) for part in (q, k))
        for part in kept:
            part[:, before] = 9.0
        capacity = slots or context
        keys, values = (in_ring(part, capacity) for part in kept)
        sinks = sinks_at(rng, heads, SINKS[(index + shift) % len(SINKS)])
        arrays = {
            "qkv": padded(qkv, width),
            "q_norm": q_norm.astype(np.float32),
            "k_norm": k_norm.astype(np.float32),
            "angles": np.array(rope_table(rope, dim, context)),
            "keys": keys,
            "values": values,
            "partial_out": np.full((splits, heads, dim), 7.0, np.float32),
            "partial_lse": np.full((splits, heads), 7.0, np.float32),
            "state": state(1, before),
            **bound_sinks(sinks),
        }
        constants = {"HEAD_DIM": dim, "PAIRS": int(pairs == "interleaved"), "QK_NORM": int(normed)}
        constants |= {"KV_HALF": int(half), "SINKS": int(sinks is not None), "RING": int(slots > 0)}
        constants["LANES"] = 4  # SwiftShader's subgroups have no more
        constants |= {"PARTS": min(4, parts_of(dim, before * 40)), "TURN": 4}
        params = {
            "heads": heads,
            "kv_heads": kv_heads,
            "context": context,
            "capacity": capacity,
            "window": window,
            "splits": splits,
            "scale": dim**-0.5,
            "eps": eps,
            "offset": offset,
        }
        outputs = ["keys", "values", "partial_out", "partial_lse"]
        decode.append(Case("attention_decode", constants, arrays, params, outputs))
        exact.append((q, k[0], v[0], sinks, kept))
    results = gpu_page.run(decode)
    joins = []
    for case, result, (q, k, v, sinks, kept) in zip(decode, results, exact, strict=True):
        before = int(case.arrays["state"][0])
        slot = before % int(case.params["capacity"])
        for name, own, part in (("keys", k, kept[0]), ("values", v, kept[1])):
            assert_close(result[name][:, slot], own)
            rest = [np.delete(arrays[name], slot, axis=1) for arrays in (result, case.arrays)]
            np.testing.assert_array_equal(*rest)
            part[:, before] = result[name][:, slot]
        keys, values = (part.astype(np.float64) for part in kept)
        window, scale = int(case.params["window"]), case.params["scale"]
        out = references.attention(q, keys, values, before, window, scale, sinks)[0]
        joins += [join_case(case, result, out), output_case(rng, case, result, out)]
    joined = gpu_page.run([case for case, _ in joins])
    for (_, out), result in zip(joins, joined, strict=True):
        assert_close(result["out"], out)


def join_case(case: Case, runs: dict[str, Array], out: Array) -> tuple[Case, Array]:
    arrays = {name: runs[name] for name in ("partial_out", "partial_lse")}
    arrays["out"] = np.zeros(out.shape, np.float32)
    counts = {name: case.params[name] for name in ("heads", "splits")}
    constants = {"HEAD_DIM": case.constants["HEAD_DIM"]}
    return Case("attention_join", constants, arrays, counts, ["out"]), out


def output_case(
    rng: np.random.Generator, case: Case, runs: dict[str, Array], out: Array
) -> tuple[Case, Array]:
    """The matvec that joins the runs by itself."""
    cols, rows = out.size, 9
    matrix = normal(rng, rows, cols)
    marks = np.zeros(-(-runs["partial_lse"].size // 4) * 4, np.float32)
    marks[: runs["partial_lse"].size] = runs["partial_lse"].ravel()
    constants = {"FORM": 0, "COLS": cols, "PROLOGUE": 4, "ACTIVATION": 0, "STAGE": 1, "ADDEND": 0}
    params = {
        "rows": rows,
        "row0": 0,
        "x_stride": cols,
        "out_stride": 0,
        "out0": 0,
        "last": 0,
        "eps": 0.0,
        "offset": 0.0,
        "heads": case.params["heads"],
        "experts": 0,
        "used": 0,
        "addend0": 0,
        "addend_stride": 0,
    }
    arrays = {
        "codes": padded(matrix, cols),
        "x": runs["partial_out"],
        "branch": marks,
        "state": state(1),
        "out": np.zeros(rows, np.float32),
    }
    constants |= {"TEAM": 8, "ROWS": 2, "DEPTH": 1, "TOKENS": 1}
    constants |= {"SPLITS": case.params["splits"], "EXPERTS": 0}
    made = Case("matvec_subgroup", constants, arrays, params, ["out"])
    return made, matrix @ out.ravel()

"""Matvecs with norms, residuals and activations folded in, in the browser against float64 NumPy."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from doppler import references
from gpu_page import Case, GpuPage
from test_kernels_ops import assert_close, normal, padded, state, vec4s

Array = npt.NDArray[Any]
SHAPES = ((1, 6), (5, 36), (67, 100), (130, 640), (31, 1152))
EPS = 1e-6


def folded_case(
    rng: np.random.Generator, kernel: str, shape: tuple[int, int], prologue: int, **more: int
) -> tuple[Case, Array, Array]:
    """A case, the exact output and what `next` should hold."""
    rows, cols = shape
    tokens, last, activation = 3, more.get("last", 0), more.get("activation", 0)
    gates = rows * (1 + (activation > 0))
    stride, offset = -(-cols // 4) * 4, 1.0 if prologue == 3 else 0.0
    x, branch = normal(rng, tokens, cols), 3 * normal(rng, tokens, cols)
    weight, post = normal(rng, cols), normal(rng, cols)
    matrix = normal(rng, gates, cols)
    constants = {"FORM": 0, "COLS": cols, "PROLOGUE": prologue, "ACTIVATION": activation}
    constants |= {"ADDEND": 0, "STAGE": more.get("stage", 1), "SPLITS": 0, "EXPERTS": 0}
    if kernel != "matvec":
        constants |= {"TEAM": more["team"], "ROWS": more["together"], "DEPTH": more["depth"]}
        constants["TOKENS"] = 1
    arrays = {
        "codes": padded(matrix, stride),
        "x": padded(x, stride),
        "branch": padded(branch, stride),
        "post": vec4s(post),
        "weight": vec4s(weight),
        "next": np.zeros((tokens, stride), np.float32),
        "state": state(tokens),
        "out": np.full(rows + 7, 7.0, np.float32),
    }
    params = {
        "rows": gates,
        "row0": 0,
        "x_stride": stride,
        "out_stride": 0,
        "out0": 4,
        "last": last,
        "eps": EPS,
        "offset": offset,
        "heads": 0,
        "experts": 0,
        "used": 0,
        "addend0": 0,
        "addend_stride": 0,
    }
    t = tokens - 1 if last else 0
    h, v = references.norm(
        x[[t]],
        branch[[t]] if prologue > 1 else None,
        post if prologue == 3 else None,
        weight,
        EPS,
        offset,
    )
    out = (x[t] if prologue == 0 else v[0]) @ matrix.T
    if activation:
        name = ("silu", "gelu_tanh")[activation - 1]
        out = references.gate(out[None, :rows], out[None, rows:], name)[0]  # type: ignore[arg-type]
    return Case(kernel, constants, arrays, params, ["out", "next"]), out, h[0]


@pytest.mark.parametrize("kernel", ["matvec", "matvec_workgroup", "matvec_subgroup"])
def test_folded_norms(gpu_page: GpuPage, kernel: str) -> None:
    rng = np.random.default_rng(11)
    cuts = ((1, 1, 0), (4, 2, 1), (128, 4, 1), (256, 2, 2), (16, 1, 0))
    made = []
    for number, (shape, prologue) in enumerate(itertools.product(SHAPES, range(4))):
        team, rows, act = cuts[(number + number // 5) % 5]  # each shape and prologue meets others
        more = {"last": prologue % 2, "stage": int(prologue > 0 or team > 4), "activation": act}
        cut = {"team": team, "together": rows, "depth": (8, 2, 1)[number % 3] // rows or 1}
        made.append(folded_case(rng, kernel, shape, prologue, **more, **cut))
    for (case, out, h), result in zip(
        made, gpu_page.run([case for case, _, _ in made]), strict=True
    ):
        assert_close(result["out"][4:-3], out)
        assert np.all(result["out"][:4] == 7.0)
        assert np.all(result["out"][-3:] == 7.0)
        if case.constants["PROLOGUE"] > 1:
            t = 2 if case.params["last"] else 0
            assert_close(result["next"][t, : len(h)], h)
        else:
            assert not result["next"].any()

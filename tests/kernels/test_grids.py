"""Grids that one dimension has no room for: the same numbers on a device that has little room."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from doppler.workbench.case import Case, Rng, Trial
from doppler.workbench.cases import attention, layer, matmul, moe
from doppler.workbench.cases.inputs import case
from doppler.workbench.compare import compare
from gpu_page import GpuPage

MOST = 3  # workgroups in a dimension
TOKENS = 7  # of a batch: more than that
ROWS = 128 * MOST + 1


@pytest.fixture
def small_page(gpu_page: GpuPage) -> Iterator[GpuPage]:
    """The page with a device that keeps to MOST."""
    gpu_page.run_python(f"""
from doppler.errors import DeviceError
large = gpu, kernels
gpu = await Gpu.open({{"maxComputeWorkgroupsPerDimension": {MOST}}})
kernels = Kernels(gpu, json.loads(js.kernelSources))
""")
    yield gpu_page
    gpu_page.run_python("gpu.destroy()\ngpu, kernels = large")


def with_planes(rng: Rng, *args: Any) -> Trial:
    """A case of gather that tells what relayout made, too."""
    trial = layer.gather(rng, *args)
    return replace(trial, outputs=[*trial.outputs, "codes", "scales"])


def folded() -> Sequence[Case]:
    """Every kernel whose grid is folded."""
    rotation = attention.Rotation(1, 1, 16, "half", True, 5, attention.ROPES[0], "f32")
    place, kept = attention.Place(3, 1, 5, TOKENS, 0), attention.Kept("f32", None, False)
    product = matmul.Product("matvec", "Q8_0", ROWS, 32)
    return (
        case("gather", "rows of planes, and tokens", with_planes, "Q8_0", ROWS, 32, TOKENS, 1.0),
        case("matvec", "rows", matmul.product, product),
        case("norm", "tokens", layer.norm, 67, TOKENS, True, True),
        case("rope", "tokens", attention.rope, rotation),
        case("heads_norm", "tokens", attention.heads_norm, 3, 1, 16, TOKENS),
        case("attention", "tokens", attention.batch, "attention", place, kept, 16),
        case("gate", "tokens", layer.gate, 67, TOKENS, "silu"),
        case("xielu", "tokens", layer.xielu, 67, TOKENS),
        case("route", "tokens", moe.route, moe.Mixture(5, 2, TOKENS)),
        case("sum", "tokens", moe.summed, 67, 2, TOKENS),
    )


def test_folded_grids_give_the_same(gpu_page: GpuPage, request: pytest.FixtureRequest) -> None:
    cases = folded()
    trials = [case.trial() for case in cases]
    wanted = gpu_page.run(trials)
    small: GpuPage = request.getfixturevalue("small_page")
    for made, trial, right, got in zip(cases, trials, wanted, small.run(trials), strict=True):
        for name in trial.outputs:
            np.testing.assert_array_equal(got[name], right[name], made.kernel)
        for name, expected in trial.twin(got).items():
            assert compare(got[name], expected).within, made.kernel


def test_a_grid_that_cannot_be_folded_is_refused(small_page: GpuPage) -> None:
    message = small_page.run_python("""
try:
    kernels.grid("attention_join", {"heads": 4})
    message = "none"
except DeviceError as error:
    message = str(error)
message
""")
    assert message.startswith("kernel attention_join needs 4 x 1 x 1 workgroups, and this adapter")

"""Grids that one dimension has no room for: the same numbers on a device that has little room."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from gpu_page import Case, GpuPage
from test_kernels_experts import combine_case, route_case
from test_kernels_ops import ROPES, attention_case, gate_case, norm_case, rope_case
from test_kernels_weights import blocks, gather_case, product_case, relayout

MOST = 3  # workgroups in a dimension
TOKENS = 7  # of a batch: more than that


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


@pytest.fixture
def cases(gpu_page: GpuPage) -> list[Case]:
    """Every kernel whose grid is folded, and what it gives where there is room."""
    rng = np.random.default_rng(0)
    rows = 128 * MOST + 1
    raw = relayout("Q8_0", blocks("Q8_0", rows, 32, rng), rows, 32)
    (planes,) = gpu_page.run([raw])
    tokens = rng.permutation(rows)[:TOKENS].astype(np.uint32)
    x = rng.standard_normal((1, 32), np.float32)
    return [
        raw,
        gather_case("Q8_0", planes, rows, 32, tokens),
        product_case("matvec", "Q8_0", planes, np.zeros((rows, 32)), x),
        norm_case(rng, 67, TOKENS, True, True)[0],
        rope_case(rng, (1, 1), 16, "half", True, 5, ROPES[0], False)[0],
        attention_case(rng, (3, 1), 16, 5, TOKENS, 0, False, None, False)[0],
        gate_case(rng, 67, TOKENS, "silu")[0],
        route_case(rng, (5, 2, TOKENS), True)[0],
        combine_case(rng, 67, 2, TOKENS)[0],
    ]


def test_folded_grids_give_the_same(
    gpu_page: GpuPage, cases: list[Case], request: pytest.FixtureRequest
) -> None:
    wanted = gpu_page.run(cases)
    small: GpuPage = request.getfixturevalue("small_page")
    for case, right, result in zip(cases, wanted, small.run(cases), strict=True):
        for name in case.outputs:
            np.testing.assert_array_equal(result[name], right[name], case.kernel)


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

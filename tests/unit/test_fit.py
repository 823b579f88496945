"""What of a model goes where: as much as a budget of GPU memory allows, on paper."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from doppler.engine.build import build
from doppler.engine.fit import fits
from doppler.engine.footprint import Fit, Options, hashing_room, needed
from doppler.errors import DeviceError
from doppler.gpu.kernels import Device, Kernels
from paper_engine import large_gpu, ranged

OPTIONS = Options(4096, 512, kv="f16", half=True)
MIXTURES = ("gemma-4-26b-a4b", "gpt-oss-20b", "mixtral-8x7b")
GB = 10**9


@pytest.mark.parametrize("shape", MIXTURES)
def test_slots_fill_a_budget_and_never_exceed_it(shape: str) -> None:
    gpu, manifest = large_gpu(), ranged(shape)
    whole, experts = needed(gpu, manifest, OPTIONS, Fit()), manifest.experts[0].bytes
    for share in (0.9, 0.5):
        options = replace(OPTIONS, gpu_budget=int(share * whole))
        smaller, fit = next(fits(gpu, manifest, options))
        assert smaller == options
        taken = needed(gpu, manifest, options, fit) + hashing_room(manifest)
        assert options.gpu_budget is not None
        assert options.gpu_budget - 2 * experts < taken <= options.gpu_budget
        assert max(fit.slots.values()) - min(fit.slots.values()) <= 1
        paper = large_gpu()
        asyncio.run(build(Device(paper, Kernels(paper, {})), manifest, options))
        assert paper.memory()["total"] <= taken


def test_a_large_budget_changes_nothing() -> None:
    gpu, manifest = large_gpu(), ranged("gpt-oss-20b")
    options = replace(OPTIONS, gpu_budget=100 * GB)
    assert next(fits(gpu, manifest, options)) == (options, Fit())


def test_a_device_that_refuses_gets_fewer_slots() -> None:
    """Without a budget, all is tried first, and then less and less, down to a token's experts."""
    gpu, manifest = large_gpu(), ranged("mixtral-8x7b")
    tried = [fit for _, fit in fits(gpu, manifest, OPTIONS)]
    counts = [sum(fit.slots.values()) for fit in tried]
    assert counts == [0, 32 * 7, 32 * 5, 32 * 3, 32 * 2]


def test_batches_are_smaller_where_nothing_else_helps() -> None:
    gpu, manifest = large_gpu(), ranged("gpt-oss-20b")
    config = manifest.config
    least = Fit(slots=dict.fromkeys(range(len(config.layers)), 4))
    budget = needed(gpu, manifest, replace(OPTIONS, gpu_budget=GB), least) - 1
    smaller, fit = next(fits(gpu, manifest, replace(OPTIONS, gpu_budget=budget)))
    assert smaller.batch == 64
    assert sum(fit.slots.values()) >= sum(least.slots.values())


def test_a_budget_that_is_too_small_says_what_is_needed() -> None:
    gpu, manifest = large_gpu(), ranged("gpt-oss-20b")
    with pytest.raises(DeviceError, match=r"needs \d+ bytes .* the budget is 100000000: allow"):
        next(fits(gpu, manifest, replace(OPTIONS, gpu_budget=GB // 10)))

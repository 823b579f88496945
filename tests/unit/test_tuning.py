"""How the best cut of a matvec is looked for, and kept."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from doppler.engine.build import build
from doppler.engine.footprint import Fit, Options, needed
from doppler.errors import RequestError
from doppler.gpu.kernels import Device, Kernels
from doppler.gpu.profile import profile_bytes
from doppler.plan.matvec import team
from doppler.plan.matvec_configs import MOST_AHEAD, Cut, near, unknown
from paper_engine import large_gpu, paper_engine, synthetic


@pytest.mark.parametrize("cut", [Cut(4, 2, 2), Cut(16, 1, 1), Cut(256, 1, 1)])
@pytest.mark.parametrize("has_pairs", [False, True])
def test_cuts_near_the_rule(cut: Cut, has_pairs: bool) -> None:
    """The rule's own is the first, and each of the others is one that the kernels take."""
    found = near(cut, has_pairs)
    assert found[0] == cut
    assert len(set(found)) == len(found) > 5
    for other in found[1:]:
        assert other.team in (4, 8, 16, 32, 64, 128, 256)
        assert other.rows in ((2, 4) if has_pairs else (1, 2, 4))
        assert other.depth * other.rows <= MOST_AHEAD


def test_measuring_keeps_to_the_budget() -> None:
    """What a budget leaves is never needed otherwise; measuring takes no more than that."""
    manifest, gpu = synthetic("gemma-3-1b"), large_gpu()
    assert paper_engine(manifest, gpu).gpu_budget.spare is None
    options = Options(4096, 512, "f16", half=True, gpu_budget=700 << 20)
    engine = asyncio.run(build(Device(gpu, Kernels(gpu, {})), manifest, options))
    assert engine.gpu_budget.spare == (700 << 20) - needed(gpu, manifest, options, Fit())
    assert 0 < engine.gpu_budget.spare < 1 << 27
    kinds = unknown(engine._runner.plans.to_tune(), {})
    profile = profile_bytes(engine.steps(0, 1))
    assert 16 * 256 * len(kinds) < profile < 1 << 20
    steps = engine._runner.plans.to_tune()
    engine.gpu_budget.spare = 256 * len(steps)  # for all of them, and none of a cut
    assert asyncio.run(engine.tune(asyncio.Lock())) == ({}, len(kinds))
    engine.gpu_budget.spare = profile - 1
    with pytest.raises(RequestError, match=f"takes {profile} bytes .* leaves {profile - 1}: allow"):
        asyncio.run(engine.profile(0, 1))


def test_what_was_measured_is_used() -> None:
    """A model asks for each kind of matrix once, and for none that is known."""
    engine = paper_engine(synthetic("gemma-3-1b"), large_gpu())
    steps = engine.steps(0, 1)
    kinds = unknown(steps, {})
    assert sum(map(len, kinds.values())) == sum("TEAM" in step.constants for step in steps)
    assert len(kinds) < 15
    head = next(kind for kind, group in kinds.items() if group[0].label == "head")
    assert Cut.of(kinds[head][0]) == team(262144, 1152, 0)
    other = Cut(8, 4, 1)
    assert set(unknown(steps, {head: other})) == set(kinds) - {head}
    engine._plan(replace(engine._model, cuts={head: other}))
    changed = [step for step in engine.steps(0, 1) if step not in steps]
    assert [(step.label, Cut.of(step)) for step in changed] == [("head", other)]

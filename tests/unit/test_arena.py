"""Activations that share memory, judged by playing the plan: nothing is lost before it is read."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from doppler.gpu.device import GpuBuffer, Slice
from doppler.gpu.step import Step
from doppler.plan.arena import share
from doppler.plan.bindings import Widths
from doppler.plan.prefill import PrefillPlan
from paper_engine import large_gpu, least_gpu, paper_engine, synthetic

ROWS = 512


def stand_in(size: int) -> Slice:
    return Slice(GpuBuffer(None, size, "activations", None), 0, size)


def step(**bindings: Slice) -> Step:
    return Step("kernel", {}, bindings, {}, 1, "step")


@pytest.mark.parametrize("shape", ["gemma-3-1b", "llama-3.2-3b"])
@pytest.mark.parametrize("gpu", [large_gpu(), least_gpu()])
def test_shared_activations_outlive_their_use(shape: str, gpu: Any) -> None:
    manifest = synthetic(shape)
    engine, _ = paper_engine(manifest, gpu)
    sizes = {n: 4 * ROWS * width for n, width in Widths.of(manifest.config).by_buffer().items()}
    slices: dict[str, Any] = {name: stand_in(size) for name, size in sizes.items()}
    memory = replace(engine._memory.token, **slices)
    steps = PrefillPlan(replace(engine._model, memory=memory)).all(ROWS)
    groups = share(steps, slices)
    group_of = {name: number for number, group in enumerate(groups) for name in group}
    names = {part.buffer: name for name, part in slices.items()}
    holder: dict[int, str] = {}  # of each group's memory: the activation that lies there
    for each in steps:
        bound = [(b, names[p.buffer]) for b, p in each.bindings.items() if p.buffer in names]
        used = [group_of[name] for _, name in bound]
        assert len(used) == len(set(used)), "a step binds one buffer twice"
        for binding, name in bound:
            if binding == "out":
                holder[group_of[name]] = name
            else:
                assert holder[group_of[name]] == name, f"{each.label} reads what was overwritten"
    held = sum(sizes[group[0]] for group in groups)
    assert held < 0.85 * sum(sizes[name] for name in group_of)


def test_what_is_needed_at_once_is_kept_apart() -> None:
    """Of a -> b -> c, a and c may share; not while a is read later, or two steps fill one."""
    a, b, c, d = (stand_in(16 * size) for size in (4, 3, 2, 1))
    slices = {"a": a, "b": b, "c": c, "d": d}
    chain = [step(out=a), step(x=a, out=b), step(x=b, out=c)]
    assert share(chain, slices) == [["a", "c"], ["b"]]
    assert share([*chain, step(x=a, y=c, out=d)], slices) == [["a"], ["b", "d"], ["c"]]
    filled_twice = [step(out=a), step(out=b), step(out=b), step(x=b, y=a, out=c)]
    assert share(filled_twice, slices) == [["a"], ["b"], ["c"]]
    kept = [step(out=a), step(x=a, out=b), step(a=a, x=b), step(x=a, out=c)]
    assert share(kept, slices) == [["a"], ["b", "c"]]

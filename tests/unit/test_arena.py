"""Activations that share memory, judged by playing the plan: nothing is lost before it is read."""

from __future__ import annotations

from typing import Any

import pytest

from doppler.gpu.step import Step, View
from doppler.plan.arena import batch_groups, share
from paper_engine import large_gpu, least_gpu, paper_engine, synthetic


def step(**bindings: str) -> Step:
    views = {binding: View(name, 0, 16) for binding, name in bindings.items()}
    return Step("kernel", {}, views, {}, 1, "step")


@pytest.mark.parametrize("shape", ["gemma-3-1b", "llama-3.2-3b", "gemma-4-26b-a4b"])
@pytest.mark.parametrize("gpu", [large_gpu(), least_gpu()])
def test_shared_activations_outlive_their_use(shape: str, gpu: Any) -> None:
    engine = paper_engine(synthetic(shape), gpu)
    sizes = engine._model.layout.batch_activations
    groups = batch_groups(engine._model)
    group_of = {name: number for number, group in enumerate(groups) for name in group}
    holder: dict[int, str] = {}  # of each group's memory: the activation that lies there
    for each in engine.steps(0, engine.batch):
        bound = [(b, view.buffer) for b, view in each.bindings.items() if view.buffer in sizes]
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
    sizes = {"a": 64, "b": 48, "c": 32, "d": 16}
    chain = [step(out="a"), step(x="a", out="b"), step(x="b", out="c")]
    assert share(chain, sizes) == [["a", "c"], ["b"]]
    assert share([*chain, step(x="a", y="c", out="d")], sizes) == [["a"], ["b", "d"], ["c"]]
    filled_twice = [step(out="a"), step(out="b"), step(out="b"), step(x="b", y="a", out="c")]
    assert share(filled_twice, sizes) == [["a"], ["b"], ["c"]]
    kept = [step(out="a"), step(x="a", out="b"), step(a="a", x="b"), step(x="a", out="c")]
    assert share(kept, sizes) == [["a"], ["b", "c"]]

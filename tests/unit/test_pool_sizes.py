"""Slots of a mixture that become more or fewer while it is loaded: what is copied, and where."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from doppler.engine.fit import fits, slots_within
from doppler.engine.footprint import Fit, Options, needed
from doppler.errors import DeviceError, RequestError
from doppler.gpu.binder import Binder
from doppler.gpu.device import GpuBuffer, Slice
from doppler.gpu.kernels import Device
from doppler.gpu.step import View
from doppler.weights.placement import place_weights
from doppler.weights.pool_sizes import Outcome, change_buffers, changed, copies_of
from paper_engine import PaperGpu, large_gpu, ranged

SHAPE = "gpt-oss-20b"  # whose experts have biases
OLD, NEW = {"a": 400, "b": 80}, {"a": 800, "c": 160}
COPIES = [(View("a", 0, 100), View("a", 200, 100)), (View("b", 40, 40), View("c", 0, 40))]


class NotedGpu(PaperGpu):
    """Paper that notes what is copied, and has no room for buffers of more than `most` bytes."""

    def __init__(self, most: int) -> None:
        gpu = large_gpu()
        super().__init__(gpu.limits, gpu.features)
        self.most, self.copied = most, list[tuple[str, int, str, int, int]]()
        self.names: dict[int, str] = {}

    def _create(self, size: int, kind: Any, label: str, usage: int) -> GpuBuffer:
        if size > self.most:
            raise DeviceError(f"{label}: no room")
        buffer = super()._create(size, kind, label, usage)
        self.names[id(buffer)] = f"{label}/{size}"
        return buffer

    def copy(self, part: Slice, target: GpuBuffer, at: int) -> None:
        source = self.names[id(part.buffer)]
        self.copied.append((source, part.offset, self.names[id(target)], at, part.size))


def change(most_bytes: int | None, most_of_one: int = 1 << 30) -> tuple[NotedGpu, Binder, Outcome]:
    gpu = NotedGpu(1 << 30)
    binder = Binder(cast("Device", type("Paper", (), {"gpu": gpu})()))
    for name, size in OLD.items():
        binder.allocate([name], size, "weights")
    gpu.most = most_of_one
    return gpu, binder, asyncio.run(change_buffers(binder, OLD, NEW, COPIES, most_bytes))


@pytest.mark.parametrize("most", [None, 480 + 960])
def test_what_stays_is_copied(most: int | None) -> None:
    gpu, binder, outcome = change(most)
    assert outcome == Outcome(is_new=True, is_full=True)
    assert gpu.copied == [("a/400", 0, "a/800", 200, 100), ("b/80", 40, "c/160", 0, 40)]
    assert "b" not in binder
    assert (gpu.memory()["total"], gpu.peak) == (960, 1440)


def test_no_budget_is_exceeded() -> None:
    gpu, _, outcome = change(480 + 959)
    assert outcome == Outcome(is_new=True, is_full=False)
    assert gpu.copied == []
    assert gpu.peak == gpu.memory()["total"] == 960


@pytest.mark.parametrize(("most", "is_full"), [(None, True), (1000, False)])
def test_a_device_without_room_keeps_what_it_had(most: int | None, is_full: bool) -> None:
    gpu, binder, outcome = change(most, most_of_one=799)
    assert outcome == Outcome(is_new=False, is_full=is_full)
    assert gpu.copied == []
    assert "c" not in binder
    assert gpu.memory()["total"] == 480


def test_an_expert_is_copied_whole() -> None:
    """Slot 5 of 12 goes to slot 2 of 4: all rows of its planes, and its biases."""
    manifest, limits = ranged(SHAPE), large_gpu().limits
    old, new = (place_weights(manifest, limits, 0, {3: count}) for count in (12, 4))
    before, after = changed(old, new, 3)
    assert sum(after.values()) * 3 == sum(before.values())
    names = [*manifest.config.expert_shapes(3, 5)], [*manifest.config.expert_shapes(3, 2)]
    source, target = ([manifest.tensor(name) for name in each] for each in names)
    copies = [*copies_of(old, new, [(source, target)])]
    assert {view.buffer for view, _ in copies} == before.keys()
    assert {view.buffer for _, view in copies} == after.keys()
    for one, other in copies:
        assert one.size == other.size
        assert one.offset % 4 == other.offset % 4 == one.size % 4 == 0
        assert one.offset + one.size <= before[one.buffer]
        assert other.offset + other.size <= after[other.buffer]
    assert sum(one.size for one, _ in copies) == pytest.approx(sum(after.values()) / 4, rel=1e-3)


def test_slots_of_another_budget() -> None:
    gpu, manifest = large_gpu(), ranged(SHAPE)
    options = Options(4096, 512, kv="f16", half=True, gpu_budget=8 * 10**9)
    _, fit = next(fits(gpu, manifest, options))
    assert slots_within(gpu, manifest, options, fit) == fit.slots
    every = slots_within(gpu, manifest, Options(4096, 512, kv="f16", half=True), fit)
    assert set(every.values()) == {32}
    fewer = Options(4096, 512, kv="f16", half=True, gpu_budget=6 * 10**9)
    slots = slots_within(gpu, manifest, fewer, fit)
    assert sum(slots.values()) < sum(fit.slots.values())
    assert needed(gpu, manifest, fewer, Fit(slots=slots)) <= 6 * 10**9
    little = Options(4096, 512, kv="f16", half=True, gpu_budget=10**8)
    with pytest.raises(RequestError, match="at least as it is loaded"):
        slots_within(gpu, manifest, little, fit)

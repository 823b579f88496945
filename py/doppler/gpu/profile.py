"""Where a plan's time goes: bytes and operations of its dispatches, and GPU time by kind.

A dispatch alone takes a few microseconds, of which beginning and ending a pass would be most; so
the same step of all layers is timed together, one after another as they would be in a token,
which also leaves no layer's weights in the GPU's cache.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from doppler.gpu.binder import Binder
from doppler.gpu.device import Gpu
from doppler.gpu.kernels import recorded_bytes
from doppler.gpu.step import Step

WARM_SECONDS = 1.0  # of work before the first is measured: at rest, a GPU's clock is a fraction
WARM_RUNS = 4  # queued at once
RUNS = 5
LEAST_TIMED = 16  # dispatches in a pass
_LAYER = re.compile(r"^blk\.\d+\.")


@dataclass(frozen=True)
class Work:
    """What one dispatch cannot do without: `bytes` of weights and keys read, `flops`."""

    label: str
    kernel: str
    bytes: int
    flops: int


@dataclass(frozen=True)
class Timing(Work):
    """All `count` dispatches of a kind together. `us`: median microseconds of GPU time."""

    count: int
    us: float


def work(steps: Sequence[Step], seen: int) -> list[Work]:
    """What every step of a plan has to do where `seen` tokens are in the cache."""
    return [Work(step.label, step.kernel, *_least(step, seen)) for step in steps]


def profile_bytes(steps: Sequence[Step]) -> int:
    """What `profile` takes of the GPU's memory, at most."""
    timed = sum(_repeats(kind) * len(kind) for kind in _kinds(steps).values())
    return recorded_bytes(len(steps) + timed)


def _kinds(steps: Sequence[Step]) -> dict[tuple[str, str], list[Step]]:
    """Steps of one label, but for the layer, and one kernel."""
    kinds: dict[tuple[str, str], list[Step]] = {}
    for step in steps:
        kinds.setdefault((_LAYER.sub("", step.label), step.kernel), []).append(step)
    return kinds


def _repeats(kind: Sequence[Step]) -> int:
    return -(-LEAST_TIMED // len(kind))


async def profile(
    binder: Binder, steps: Sequence[Step], seen: int, rewind: Callable[[], None]
) -> list[Timing]:
    """Times a plan by kind of step (the same label but for the layer), in order of first use.

    `rewind` sets the state so that `seen` tokens are in the cache: what runs moves on from there.
    """
    gpu, kernels, kinds = binder.device.gpu, binder.device.kernels, _kinds(steps)
    repeats = [_repeats(kind) for kind in kinds.values()]
    whole = binder.record(steps)
    parts = [binder.record(kind * n) for kind, n in zip(kinds.values(), repeats, strict=True)]

    def queue() -> None:
        rewind()
        kernels.run(*[whole] * WARM_RUNS)

    runs = []
    try:
        await warm_up(gpu, queue)
        for _ in range(RUNS):
            rewind()
            runs.append(await kernels.time(*([part] for part in parts)))
        await gpu.done()
    finally:
        for recording in (whole, *parts):
            recording.destroy()
    times = [median(part) / n for part, n in zip(zip(*runs, strict=True), repeats, strict=True)]
    return [
        _timing(label, kernel, work(kind, seen), us)
        for ((label, kernel), kind), us in zip(kinds.items(), times, strict=True)
    ]


def _timing(label: str, kernel: str, works: Sequence[Work], us: float) -> Timing:
    size, flops = sum(w.bytes for w in works), sum(w.flops for w in works)
    return Timing(label, kernel, size, flops, len(works), round(us, 2))


async def warm_up(gpu: Gpu, queue: Callable[[], None]) -> None:
    """Queues work again and again until the GPU has had time to raise its clock."""
    end = time.perf_counter() + WARM_SECONDS
    while time.perf_counter() < end:
        queue()
        await gpu.done()


def _least(step: Step, seen: int) -> tuple[int, int]:
    """(bytes, floating-point operations) that a step cannot do without."""
    p, bound = step.params, step.bindings
    if step.kernel.startswith("attention") and "keys" in bound:
        keys = min(seen + step.tokens, int(p["window"]) or seen + step.tokens)
        each = bound["keys"].size // int(p["capacity"])  # bytes of a key, of all heads bound
        group = int(p["heads"]) // int(p["kv_heads"])
        numbers = int(p["kv_count"]) * int(step.constants["HEAD_DIM"])
        return keys * 2 * each, 4 * step.tokens * keys * group * numbers
    if step.kernel.startswith("mat"):
        planes = sum(bound[name].size for name in ("codes", "scales") if name in bound)
        columns, rows = int(step.constants.get("COLS") or p["cols"]), step.tokens
        if p["experts"]:
            rows = bound["order"].size // 4 if "order" in bound else step.tokens
            planes = planes * min(rows, int(p["experts"])) // int(p["experts"])
        return planes, 2 * rows * int(p["rows"]) * columns
    return 0, 0

"""Where a plan's time goes: GPU time, bytes and operations of each of its dispatches."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from doppler.gpu import Gpu
from doppler.kernels import Kernels
from doppler.plan import Step

WARM_SECONDS = 1.0  # of work before the first is measured: at rest, a GPU's clock is a fraction
WARM_RUNS = 4  # queued at once
RUNS = 5


@dataclass(frozen=True)
class Work:
    """What one dispatch cannot do without: `bytes` of weights and keys read, `flops`."""

    label: str
    kernel: str
    bytes: int
    flops: int

    def described(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Timing(Work):
    """One dispatch that ran. `us`: median microseconds of GPU time."""

    us: float


def work(steps: Sequence[Step], seen: int) -> list[Work]:
    """What every step of a plan has to do where `seen` tokens are in the cache."""
    return [Work(step.label, step.kernel, *_least(step, seen)) for step in steps]


async def profile(
    gpu: Gpu, kernels: Kernels, steps: Sequence[Step], seen: int, rewind: Callable[[], None]
) -> list[Timing]:
    """Times every step of a plan by itself, in the plan's order.

    `rewind` sets the state so that `seen` tokens are in the cache: what runs moves on from there.
    """
    recording = kernels.record_steps(steps)

    def queue() -> None:
        rewind()
        kernels.run(*[recording] * WARM_RUNS)

    try:
        await warm_up(gpu, queue)
        rewind()
        runs = [await kernels.time(recording) for _ in range(RUNS)]
        await gpu.done()
    finally:
        recording.destroy()
    return [
        Timing(**done.described(), us=round(median(times), 2))
        for done, times in zip(work(steps, seen), zip(*runs, strict=True), strict=True)
    ]


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
        each = 2 * bound["keys"].size // int(p["context"])  # a key and its value, of all heads
        width = bound["keys"].size // int(p["context"]) // int(p["kv_heads"]) // 4
        return keys * each, 4 * step.tokens * keys * int(p["heads"]) * width
    if step.kernel.startswith("mat"):
        planes = sum(bound[name].size for name in ("codes", "high", "scales") if name in bound)
        columns = int(step.constants.get("COLS") or p["cols"])
        return planes, 2 * step.tokens * int(p["rows"]) * columns
    return 0, 0

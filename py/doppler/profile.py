"""Where a plan's time goes: GPU time, bytes and operations of each of its dispatches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from doppler.gpu import Gpu
from doppler.kernels import Kernels
from doppler.plan import Step

WARM_RUNS = 20  # before the first is measured: a GPU at rest runs at a fraction of its clock
RUNS = 5


@dataclass(frozen=True)
class Timing:
    """One dispatch. `us`: median microseconds of GPU time; `bytes`: of weights and keys read."""

    label: str
    kernel: str
    us: float
    bytes: int
    flops: int

    def described(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


async def profile(gpu: Gpu, kernels: Kernels, steps: Sequence[Step], seen: int) -> list[Timing]:
    """Times every step of a plan by itself, in the plan's order; `seen` tokens are in the cache."""
    recording = kernels.record_steps(steps)
    try:
        kernels.run(*[recording] * WARM_RUNS)
        runs = [await kernels.time(recording) for _ in range(RUNS)]
        await gpu.done()
    finally:
        recording.destroy()
    return [
        Timing(step.label, step.kernel, round(median(times), 2), *_work(step, seen))
        for step, times in zip(steps, zip(*runs, strict=True), strict=True)
    ]


def _work(step: Step, seen: int) -> tuple[int, int]:
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

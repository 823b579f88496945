"""Where a plan's time goes: GPU time, bytes and operations of each kind of dispatch.

A dispatch alone takes a few microseconds, of which beginning and ending a pass would be most; so
the same step of all layers is timed together, one after another as they would be in a token,
which also leaves no layer's weights in the GPU's cache.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from doppler.gpu import Gpu
from doppler.kernels import Kernels
from doppler.plan import Step

WARM_RUNS = 20  # before the first is measured: a GPU at rest runs at a fraction of its clock
RUNS = 5
LEAST_TIMED = 16  # dispatches in a pass
_LAYER = re.compile(r"^blk\.\d+\.")


@dataclass(frozen=True)
class Timing:
    """One kind of dispatch, `count` of them. us: microseconds of GPU time, median of runs;
    bytes: of weights and keys read; flops: operations; all three of the whole kind.
    """

    label: str
    kernel: str
    count: int
    us: float
    bytes: int
    flops: int

    def described(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


async def profile(gpu: Gpu, kernels: Kernels, steps: Sequence[Step], seen: int) -> list[Timing]:
    """Times a plan by kind of step, in order of first use; `seen` tokens are in the cache."""
    kinds: dict[tuple[str, str], list[Step]] = {}
    for step in steps:
        kinds.setdefault((_LAYER.sub("", step.label), step.kernel), []).append(step)
    whole = kernels.record_steps(steps)
    parts = [kernels.record_steps(repeated(kind)) for kind in kinds.values()]
    try:
        kernels.run(*[whole] * WARM_RUNS)
        runs = [await kernels.time(*parts) for _ in range(RUNS)]
        await gpu.done()
    finally:
        for recording in (whole, *parts):
            recording.destroy()
    return [
        Timing(
            label, kernel, len(kind), round(_once(kind, median(times)), 2), *_work_of(kind, seen)
        )
        for ((label, kernel), kind), times in zip(
            kinds.items(), zip(*runs, strict=True), strict=True
        )
    ]


def repeated(kind: Sequence[Step]) -> list[Step]:
    """The steps as often as makes at least LEAST_TIMED of them."""
    return list(kind) * -(-LEAST_TIMED // len(kind))


def _once(kind: Sequence[Step], us: float) -> float:
    return us * len(kind) / len(repeated(kind))


def _work_of(kind: Sequence[Step], seen: int) -> tuple[int, int]:
    works = [_work(step, seen) for step in kind]
    return sum(bytes for bytes, _ in works), sum(flops for _, flops in works)


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

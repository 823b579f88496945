"""Which cut of a matvec is the quickest on a device: measured once for each kind of matrix.

A cut says how threads share the rows (matvec_rows.wgsl). The best differs from GPU to GPU by more
than one would guess, so those near the rule of thumb are timed on the model's own weights, the
layers one after another as in a token. What is found is kept (page/tuned.py).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from statistics import median

from doppler.gpu.binder import Binder
from doppler.gpu.kernels import Kernels, Recording, recorded_bytes
from doppler.gpu.step import Step
from doppler.plan.matvec_configs import Cut, Cuts, near, unknown

LEAST_GAIN = 0.97  # of the rule's time: what is not quicker than that may be noise
ROUNDS = 3
LEAST_US = 2000.0  # that are timed at once: browsers may round to a tenth of a millisecond
WARM_US = 20000.0  # of all steps before: a GPU at rest runs at a fraction of its clock


async def tune(
    binder: Binder,
    steps: Sequence[Step],
    known: Cuts,
    lent: Callable[[], AbstractAsyncContextManager[None]],
    spare: int | None = None,
) -> tuple[dict[str, Cut], int]:
    """The best cut of every kind of matvec among `steps` that is not known yet; and how many kinds
    are not measured, since they would take more than the `spare` bytes of the GPU's memory.

    Kernels are compiled beside whatever else goes on; each kind is measured within `lent`, where
    the steps may write what they write. Needs an adapter that measures time.
    """
    kernels, kinds = binder.device.kernels, unknown(steps, known)
    measured = {
        kind: group
        for kind, group in kinds.items()
        if spare is None or _bytes(steps, group) <= spare
    }
    refused, best = len(kinds) - len(measured), dict[str, Cut]()
    if not measured:
        return best, refused
    warm = binder.record(steps)
    try:
        for kind, group in measured.items():
            cuts = _cuts(group)
            tried = [[_recut(step, cut) for step in group] for cut in cuts]
            firsts = (first for first, *_ in tried)
            variants = [kernels.variant(s.kernel, s.constants, s.bindings) for s in firsts]
            await asyncio.gather(*map(kernels.prepare, variants))
            async with lent():
                best[kind] = cuts[await _quickest(binder, warm, tried)]
    finally:
        warm.destroy()
    return best, refused


def _cuts(group: Sequence[Step]) -> list[Cut]:
    """Those that are tried for a kind of matvec."""
    return near(Cut.of(group[0]), bool(group[0].constants["ACTIVATION"]))


def _bytes(steps: Sequence[Step], group: Sequence[Step]) -> int:
    """What measuring a kind takes of the GPU's memory beside all steps, at most."""
    return recorded_bytes(len(steps) + len(_cuts(group)) * len(group))


def _recut(step: Step, cut: Cut) -> Step:
    return replace(step, constants={**step.constants, **cut.constants()})


async def _quickest(binder: Binder, warm: Recording, tried: Sequence[Sequence[Step]]) -> int:
    """Which of `tried` is it: the first, unless another is clearly quicker."""
    kernels, recordings = binder.device.kernels, [binder.record(steps) for steps in tried]
    try:
        (once,) = await kernels.time([warm])
        kernels.run(*[warm] * math.ceil(WARM_US / max(once, 1.0)))
        times = await _times(kernels, recordings)
    finally:
        for recording in recordings:
            recording.destroy()
    best = min(range(len(times)), key=times.__getitem__)
    return best if times[best] < LEAST_GAIN * times[0] else 0


async def _times(kernels: Kernels, recordings: Sequence[Recording]) -> list[float]:
    """Of each recording: the median of several rounds, in which each runs for a while."""
    (once,) = await kernels.time((recordings[0],))
    often = math.ceil(LEAST_US / max(once, 1.0))
    rounds = [await kernels.time(*([r] * often for r in recordings)) for _ in range(ROUNDS)]
    return [median(each) for each in zip(*rounds, strict=True)]

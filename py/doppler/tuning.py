"""Which cut of a matvec is the quickest on a device: measured once for each kind of matrix.

A cut says how threads share the rows (kernels/team.wgsl). The best differs from GPU to GPU by more
than one would guess, so those near the rule of thumb are timed on the model's own weights, the
layers one after another as in a token. What is found is kept (page/cuts.py).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from statistics import median
from typing import NamedTuple

from doppler.kernels import Kernels, Recording
from doppler.plan import Step

MOST_AHEAD = 8  # groups that a thread asks for at once: DEPTH · ROWS in kernels/team.wgsl
LEAST_GAIN = 0.97  # of the rule's time: what is not quicker than that may be noise
ROUNDS = 3
LEAST_US = 2000.0  # that are timed at once: browsers may round to a tenth of a millisecond
WARM_US = 20000.0  # of all steps before: a GPU at rest runs at a fraction of its clock


class Cut(NamedTuple):
    """Threads that share a row, rows that they do at once, and groups of 32 columns likewise."""

    team: int
    rows: int
    depth: int

    def constants(self) -> dict[str, int]:
        """Those of kernels/team.wgsl."""
        return {"TEAM": self.team, "ROWS": self.rows, "DEPTH": self.depth}

    @classmethod
    def checked(cls, team: int, rows: int, depth: int) -> Cut:
        """One that was kept. Raises ValueError where no kernel can be cut so."""
        whole = all(type(number) is int and number > 0 for number in (team, rows, depth))
        if not whole or team & (team - 1) or team > 256 or rows not in (1, 2, 4):
            raise ValueError(f"{team} threads and {rows} rows are no cut")
        if rows * depth > MOST_AHEAD:
            raise ValueError(f"{rows} rows of {depth} groups are too much for a thread")
        return cls(team, rows, depth)

    @classmethod
    def of(cls, step: Step) -> Cut:
        """What a step of a matvec is cut by."""
        return cls(*(int(step.constants[name]) for name in ("TEAM", "ROWS", "DEPTH")))


Cuts = Mapping[str, Cut]  # by what `kind_of` says


def kind_of(kernel: str, constants: Mapping[str, int | float], rows: int) -> str:
    """What the best cut depends on, besides the device."""
    names = ("FORM", "COLS", "PROLOGUE", "ACTIVATION", "EXPERTS")
    return f"{kernel} {rows} rows {' '.join(f'{name} {constants[name]:g}' for name in names)}"


def near(cut: Cut, has_pairs: bool) -> list[Cut]:
    """The cut itself, and others that may be quicker; pairs of rows stay together."""
    found = [cut]
    for team in (cut.team, cut.team // 2, 2 * cut.team):
        for rows, depth in ((1, 1), (1, 2), (2, 1), (2, 2), (4, 1)):
            other = Cut(team, rows, depth)
            fits = 4 <= team <= 256 and rows * depth <= MOST_AHEAD
            if fits and not (has_pairs and rows == 1) and other not in found:
                found.append(other)
    return found


def unknown(steps: Sequence[Step], known: Cuts) -> dict[str, list[Step]]:
    """The matvecs among `steps`, by kind, whose best cut is not known."""
    kinds: dict[str, list[Step]] = {}
    for step in steps:
        if "TEAM" in step.constants:
            kind = kind_of(step.kernel, step.constants, int(step.params["rows"]))
            kinds.setdefault(kind, []).append(step)
    return {kind: group for kind, group in kinds.items() if kind not in known}


async def tune(
    kernels: Kernels,
    steps: Sequence[Step],
    known: Cuts,
    lent: Callable[[], AbstractAsyncContextManager[None]],
) -> dict[str, Cut]:
    """The best cut of every kind of matvec among `steps` that is not known yet.

    Kernels are compiled beside whatever else goes on; each kind is measured within `lent`, where
    the steps may write what they write. Needs an adapter that measures time.
    """
    warm, best = kernels.record_steps(steps), {}
    try:
        for kind, group in unknown(steps, known).items():
            cuts = near(Cut.of(group[0]), bool(group[0].constants["ACTIVATION"]))
            tried = [[_recut(step, cut) for step in group] for cut in cuts]
            firsts = (first for first, *_ in tried)
            variants = [kernels.variant(s.kernel, s.constants, s.bindings) for s in firsts]
            await asyncio.gather(*map(kernels.prepare, variants))
            async with lent():
                best[kind] = cuts[await _quickest(kernels, warm, tried)]
    finally:
        warm.destroy()
    return best


def _recut(step: Step, cut: Cut) -> Step:
    return replace(step, constants={**step.constants, **cut.constants()})


async def _quickest(kernels: Kernels, warm: Recording, tried: Sequence[Sequence[Step]]) -> int:
    """Which of `tried` is it: the first, unless another is clearly quicker."""
    recordings = [kernels.record_steps(steps) for steps in tried]
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

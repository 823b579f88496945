"""Belady's optimum: the expert whose next use is farthest leaves first. No policy misses less.

It reads the trace that it is replayed on, so it is a bound to hold policies against, not a policy.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Sequence
from heapq import nlargest

from doppler.residency.trace import Trace


class Belady:
    """Knows when each expert is used next. Steps are the numbers of the trace's tokens."""

    def __init__(self, trace: Trace) -> None:
        self._uses: list[dict[int, list[int]]] = [{} for _ in range(trace.layers)]
        for step, token in enumerate(trace.tokens):
            for layer, used in enumerate(token):
                for expert in used:
                    self._uses[layer].setdefault(expert, []).append(step)
        self._steps = [-1] * trace.layers
        self._never = len(trace.tokens)

    def used(self, layer: int, experts: Sequence[int], step: int) -> None:
        """Only the time is noted."""
        self._steps[layer] = step

    def expected(self, layer: int, experts: Sequence[int], step: int) -> None:
        """Nothing: it knows better."""

    def victims(
        self, layer: int, resident: Collection[int], count: int, keep: Collection[int]
    ) -> list[int]:
        """Those used farthest from now, or never again."""
        kept = frozenset(keep)
        free = sorted(expert for expert in resident if expert not in kept)
        return nlargest(count, free, key=lambda expert: self._next(layer, expert))

    def _next(self, layer: int, expert: int) -> int:
        uses = self._uses[layer].get(expert, [])
        at = bisect_right(uses, self._steps[layer])
        return uses[at] if at < len(uses) else self._never

"""Plans as they are run: recorded segment by segment, when they are first needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate

from doppler.engine.plans import Key
from doppler.gpu.binder import Binder
from doppler.gpu.kernels import Recording
from doppler.plan.segments import Place, Segment


class Recordings:
    """What was recorded of one model."""

    def __init__(self, binder: Binder, build: Callable[[Key], list[Segment]]) -> None:
        self._binder, self._build = binder, build
        self._segments: dict[Key, dict[Place, Recording]] = {}
        self._joined: dict[tuple[tuple[Key, ...], Place | None, Place | None], Recording] = {}

    def get(
        self, keys: Sequence[Key], start: Place | None = None, stop: Place | None = None
    ) -> Recording:
        """Plans one after another: from `start`, a place of the first, on, and up to `stop`, which
        is not run.
        """
        wanted = (tuple(keys), start, stop)
        if wanted not in self._joined:
            kernels = self._binder.device.kernels
            if start is None and stop is None:
                parts = [part for key in keys for part in self._recorded(key).values()]
                self._joined[wanted] = kernels.join(parts)
            else:  # a halted token waits for it: nothing is joined anew
                first, end = self._ends(keys, start, stop)
                self._joined[wanted] = kernels.part(self.get(keys), first, end)
        return self._joined[wanted]

    def _ends(
        self, keys: Sequence[Key], start: Place | None, stop: Place | None
    ) -> tuple[int, int]:
        """The numbers of the first dispatch of the plans', and of the one behind the last."""
        segments = [item for key in keys for item in self._recorded(key).items()]
        places = [place for place, _ in segments]
        before = [0, *accumulate(recording.count for _, recording in segments)]
        first = 0 if start is None else places.index(start)
        return before[first], before[len(places) if stop is None else places.index(stop, first)]

    def places(self, keys: Sequence[Key]) -> list[Place]:
        """Of all segments of plans one after another."""
        return [place for key in keys for place in self._recorded(key)]

    def of(self, key: Key, place: Place) -> Recording:
        """One segment of a plan."""
        return self._recorded(key)[place]

    def destroy(self) -> None:
        """Gives all of it back."""
        for recordings in self._segments.values():
            for recording in recordings.values():
                recording.destroy()
        self._segments.clear()
        self._joined.clear()

    def _recorded(self, key: Key) -> dict[Place, Recording]:
        if key not in self._segments:
            built = self._build(key)
            self._segments[key] = {it.place: self._binder.record(it.steps) for it in built}
        return self._segments[key]

"""Progress of long work, told about ten times a second."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from doppler.api.messages import Emit, ProgressEvent, ProgressStage

INTERVAL = 0.1  # seconds between two events
WINDOW = 3.0  # seconds over which the rate is taken


class Progress:
    """Call it with (done, total) as often as you like: `emit` gets few events, and the last."""

    def __init__(
        self,
        emit: Emit[ProgressEvent],
        stage: ProgressStage,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._emit = emit
        self._stage = stage
        self._clock = clock
        self._told: deque[tuple[float, int]] = deque()

    def __call__(self, done: int, total: int) -> None:
        now = self._clock()
        if self._told and now - self._told[-1][0] < INTERVAL and done < total:
            return
        self._told.append((now, done))
        while now - self._told[0][0] > WINDOW and len(self._told) > 2:
            self._told.popleft()
        start, before = self._told[0]
        rate = (done - before) / (now - start) if now > start else 0.0
        self._emit(
            {"type": "progress", "stage": self._stage, "done": done, "total": total, "rate": rate}
        )

"""Measures a loaded model's kernels while nobody waits for it (engine/autotune.py)."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from doppler.api.host import KeptCuts
from doppler.engine.engine import Engine
from doppler.errors import DopplerError


class Tuner:
    """One engine at a time. Whoever uses the engine holds `turn`, for which the tuner waits too."""

    def __init__(self) -> None:
        self.turn = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self.refused = 0  # kinds of matrices that a budget had no room to measure

    def begin(self, engine: Engine, kept: KeptCuts) -> None:
        """Where the device is new to the model's shapes: what is found is used and kept."""
        self.refused = 0
        if engine.can_tune:
            self._task = asyncio.ensure_future(self._run(engine, kept))

    def end(self) -> None:
        """The engine is about to go."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def finished(self) -> None:
        """Waits until nothing is left to be measured."""
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _run(self, engine: Engine, kept: KeptCuts) -> None:
        with suppress(DopplerError):  # a device that was lost is told to whoever uses it next
            cuts, self.refused = await engine.tune(self.turn)
            await kept.write(cuts)

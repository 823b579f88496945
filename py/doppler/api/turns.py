"""Who uses the loaded model: one method at a time, and an answer makes way for what replaces it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from doppler.errors import RequestError

ANSWERS = ("chat", "complete")


class Turns:
    """`gate` is a lock that whoever uses the model holds besides: the tuner waits for it too."""

    def __init__(self, gate: asyncio.Lock) -> None:
        self._gate = gate
        self._busy: str | None = None
        self._idle = asyncio.Event()  # set whenever `_busy` becomes None

    @property
    def answering(self) -> bool:
        return self._busy in ANSWERS

    def refuse(self, name: str) -> None:
        """Raises RequestError while a method holds the model."""
        if self._busy is not None:
            raise RequestError(f"cannot {name} while {self._busy} is running: cancel it first")

    @asynccontextmanager
    async def turn(self, name: str) -> AsyncIterator[None]:
        """Holds the model for one method. Raises RequestError, at once, where another holds it."""
        self.refuse(name)
        self._busy = name
        self._idle.clear()
        try:
            async with self._gate:
                yield
        finally:
            self._busy = None
            self._idle.set()

    async def instead(self, cancel: Callable[[], None]) -> None:
        """Ends the answer that is being written, if one is, with `cancel`; waits for its end."""
        while self.answering:
            cancel()
            await self._idle.wait()

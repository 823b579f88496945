"""What is written again and again, without writing it each time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable


class Pace:
    """Does one thing, never twice at once: `now`, or `soon`, which is at most once in `seconds`.

    What was asked for too early is done when the time has passed, though nobody asks again. Whoever
    waits for it may be cancelled: what is begun is done all the same, never by half.
    """

    def __init__(self, seconds: float, work: Callable[[], Awaitable[None]]) -> None:
        self._seconds, self._work = seconds, work
        self._last: float | None = None
        self._turn = asyncio.Lock()
        self._later: asyncio.Task[None] | None = None

    async def now(self) -> None:
        if self._later is not None:
            self._later.cancel()  # it has not begun: what it was to do is done here
            self._later = None
        await asyncio.shield(asyncio.ensure_future(self._do()))

    async def soon(self) -> None:
        wait = 0.0 if self._last is None else self._last + self._seconds - _time()
        if wait <= 0:
            await self.now()
        elif self._later is None:
            self._later = asyncio.ensure_future(self._after(wait))

    async def _after(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self._later = None  # what is asked for while it is done may come too late for it
        await self._do()

    async def _do(self) -> None:
        async with self._turn:
            self._last = _time()
            await self._work()


def _time() -> float:
    return asyncio.get_running_loop().time()

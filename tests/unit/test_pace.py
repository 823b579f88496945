"""What is written at most once in a while, and never by half."""

from __future__ import annotations

import asyncio

from doppler.store.pace import Pace
from virtual_time import run


class Written:
    """A state that takes a moment to be written."""

    def __init__(self) -> None:
        self.state, self.written = 0, list[int]()
        self.pace = Pace(1.0, self._write)

    async def _write(self) -> None:
        state = self.state
        await asyncio.sleep(0.05)
        self.written.append(state)

    async def become(self, state: int) -> None:
        self.state = state
        await self.pace.soon()


def test_what_is_asked_for_too_early_is_done_later() -> None:
    async def test() -> None:
        it = Written()
        for state in range(1, 5):
            await it.become(state)
        assert it.written == [1]
        await asyncio.sleep(1.1)
        assert it.written == [1, 4]

    run(test())


def test_what_is_asked_for_while_it_is_written_is_done_after_it() -> None:
    async def test() -> None:
        it = Written()
        await it.become(1)
        await it.become(2)
        await asyncio.sleep(0.98)  # the second is being written
        await it.become(3)
        await asyncio.sleep(100)
        assert it.written == [1, 2, 3]

    run(test())


def test_what_is_done_now_is_not_done_later() -> None:
    async def test() -> None:
        it = Written()
        await it.become(1)
        await it.become(2)
        await it.pace.now()
        assert len(asyncio.all_tasks()) == 1, "something is left running"
        assert it.written == [1, 2]

    run(test())


def test_it_is_done_though_whoever_asked_has_gone() -> None:
    async def test() -> None:
        it = Written()
        asked = asyncio.ensure_future(it.become(1))
        await asyncio.sleep(0.02)
        asked.cancel()
        await asyncio.sleep(0.1)
        assert it.written == [1]

    run(test())

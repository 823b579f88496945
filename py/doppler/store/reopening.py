"""A model's folder for as long as the model is loaded: its files are open only while they are used.

An open file shuts out whoever would delete or mend the model: in a browser, every other tab.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from doppler.errors import DopplerError
from doppler.inputs.buffers import Buffer
from doppler.store.storage import Piece, Storage

IDLE = 1.0  # seconds without use after which the files are let go


class ReopeningStorage:
    """`Storage` that is opened when it is used, and closed by `close` or when nobody uses it.

    open_folder: what opens it; its errors reach whoever wanted to use the files.
    """

    def __init__(self, open_folder: Callable[[], Awaitable[Storage]]) -> None:
        self._open_folder = open_folder
        self.openings = 0
        self._opened: Storage | None = None
        self._changing = asyncio.Lock()  # held while it is opened or closed
        self._begun = set[asyncio.Task[Any]]()  # openings and closings that have not ended
        self._users = 0  # that wait for something now
        self._uses = 0  # so far
        self._watch: asyncio.Task[None] | None = None

    async def size(self, name: str) -> int | None:
        async with self._used() as storage:
            return await storage.size(name)

    async def read(self, name: str, offset: int, length: int) -> Buffer:
        async with self._used() as storage:
            return await storage.read(name, offset, length)

    async def gather(self, pieces: Sequence[Piece]) -> Buffer:
        async with self._used() as storage:
            return await storage.gather(pieces)

    async def write(self, name: str, offset: int, data: Buffer) -> None:
        async with self._used() as storage:
            await storage.write(name, offset, data)

    async def truncate(self, name: str, size: int) -> None:
        async with self._used() as storage:
            await storage.truncate(name, size)

    async def names(self) -> list[str]:
        async with self._used() as storage:
            return await storage.names()

    async def remove(self, name: str) -> None:
        async with self._used() as storage:
            await storage.remove(name)

    async def flush(self, name: str) -> None:
        async with self._used() as storage:
            await storage.flush(name)

    async def close(self) -> None:
        """Lets the files go. What is asked for later opens them again."""
        await self._to_the_end(self._close())

    @asynccontextmanager
    async def _used(self) -> AsyncIterator[Storage]:
        self._users += 1
        self._uses += 1
        try:
            while (opened := self._opened) is None:  # again, where it is closed as soon as opened
                await self._to_the_end(self._open())
            yield opened
        finally:
            self._users -= 1

    async def _to_the_end(self, change: Coroutine[Any, Any, None]) -> None:
        """Waits for a change, which goes on where the waiting is cancelled: a folder that is opened
        for nobody would never be closed. What was opened so is closed as one that nobody uses.
        """
        task = asyncio.ensure_future(change)
        self._begun.add(task)
        task.add_done_callback(self._ended)
        await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._begun.discard(task)
        if not task.cancelled():
            task.exception()  # perhaps nobody waits for it any more

    async def _close(self) -> None:
        async with self._changing:
            opened, self._opened = self._opened, None
            if opened is not None:
                await opened.close()

    async def _open(self) -> None:
        async with self._changing:
            if self._opened is None:
                self._opened = await self._open_folder()
                self.openings += 1
                self._watch = asyncio.ensure_future(self._close_when_idle(self._opened))

    async def _close_when_idle(self, opened: Storage) -> None:
        uses = 0
        while self._opened is opened:
            if uses == self._uses and not self._users:
                with suppress(
                    DopplerError
                ):  # nobody waits for it; the next read finds what is wrong
                    await self.close()
                return
            uses = self._uses
            await asyncio.sleep(IDLE)

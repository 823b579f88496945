"""Keeps the keys and values of conversations in storage while nobody waits, and uses them again."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from doppler.api.host import Kept
from doppler.engine.engine import Engine
from doppler.errors import DeviceError, DopplerError

IDLE_SECONDS = 0.5  # after an answer, before it is kept


class Keeper:
    """Of one loaded model. What goes wrong with storage is not told: a prompt takes longer then."""

    def __init__(self, engine: Engine, kept: Kept, identity: str) -> None:
        self._engine, self._kept, self._identity = engine, kept, identity
        self._task: asyncio.Task[None] | None = None
        self._is_stopped = False

    async def restore(self, conversation: str, ids: Sequence[int]) -> None:
        """Before a prompt is run: what is kept of its beginning need not be."""
        await self.stopped()
        cancellation = self._engine.cancellation
        try:
            if not await self._kept.size(self._identity, conversation):
                return
            async with self._kept.open(self._identity, conversation) as folder:
                keeping = self._engine.keeping()
                await keeping.restore(folder, ids, lambda: cancellation.reason([]) is not None)
        except DeviceError:
            raise
        except DopplerError:
            return

    def begin(self, conversation: str, asked: int) -> None:
        """After an answer to a prompt of `asked` ids: what is cached is kept, unless something else
        is asked for before.
        """
        self.stop()
        self._is_stopped = False
        self._task = asyncio.ensure_future(self._save(conversation, asked))

    def stop(self) -> None:
        """Something else is asked for. Once is enough: a second time would cut off its tidying."""
        if self._task is not None and not self._is_stopped:
            self._is_stopped = True
            self._task.cancel()

    async def stopped(self) -> None:
        """Stops, and waits until no file is open."""
        self.stop()
        if self._task is not None:
            await asyncio.wait([self._task])

    async def finished(self) -> None:
        """Waits until what is to be kept is."""
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _save(self, conversation: str, asked: int) -> None:
        await asyncio.sleep(IDLE_SECONDS)
        keeping = self._engine.keeping()
        if not keeping.has_enough:
            return
        with suppress(DopplerError):  # a full storage, a device that was lost
            most, may_be_full = await self._kept.most(), True
            try:
                async with self._kept.open(self._identity, conversation) as folder:
                    may_be_full = await keeping.save(folder, most, asked)
            except asyncio.CancelledError:
                may_be_full = False  # somebody waits
                raise
            finally:
                if may_be_full:
                    await self._kept.make_room(self._identity, conversation)

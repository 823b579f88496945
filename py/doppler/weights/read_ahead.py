"""Reading in order: while a part is used, the next ones are on their way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from doppler.errors import SourceError
from doppler.inputs.buffers import Buffer
from doppler.store.shards import ShardStore

AHEAD = 4  # parts that are read while another one is used
WINDOW_BYTES = 8 << 20  # read at once: each read costs a wait for the storage


class ReadAhead:
    """Parts 0 .. count - 1 of something, which `read` gives. It holds one and the next AHEAD."""

    def __init__(self, read: Callable[[int], Coroutine[Any, Any, Buffer]], count: int) -> None:
        self._read, self._count = read, count
        self._reads: dict[int, asyncio.Task[Buffer]] = {}

    async def get(self, index: int) -> Buffer:
        """A part, with the errors of `read`. Those before it are let go."""
        wanted = range(index, min(index + 1 + AHEAD, self._count))
        for other in self._reads.keys() - set(wanted):
            self._reads.pop(other).cancel()
        for part in wanted:
            if part not in self._reads:
                self._reads[part] = asyncio.ensure_future(self._read(part))
                self._reads[part].add_done_callback(_heard)
        return await self._reads[index]

    async def aclose(self) -> None:
        """Ends what is being read."""
        reads = list(self._reads.values())
        self._reads.clear()
        for read in reads:
            read.cancel()
        await asyncio.gather(*reads, return_exceptions=True)


def _heard(read: asyncio.Task[Buffer]) -> None:
    """Takes note of an error: nobody may come to wait for what was read ahead."""
    if not read.cancelled():
        read.exception()


class Windows:
    """A model's bytes as they are stored, some blocks at a time. Nothing of them is verified."""

    def __init__(self, store: ShardStore, size: int = WINDOW_BYTES) -> None:
        self._store, self._manifest = store, store.manifest
        self.blocks = max(size // self._manifest.block_size, 1)  # of a window
        self.bytes = self.blocks * self._manifest.block_size
        self.count = -(-len(self._manifest.blocks) // self.blocks)
        self._ahead = ReadAhead(self._stored, self.count)

    def blocks_of(self, index: int) -> range:
        """The blocks of a window; the last one may have fewer."""
        first = index * self.blocks
        return range(first, min(first + self.blocks, len(self._manifest.blocks)))

    async def get(self, index: int) -> Buffer:
        """A window, whose missing blocks are fetched. Raises SourceError where none can be."""
        return await self._ahead.get(index)

    async def aclose(self) -> None:
        """Ends what is being read."""
        await self._ahead.aclose()

    async def _stored(self, index: int) -> Buffer:
        wanted = self.blocks_of(index)
        try:
            return await self._store.unverified(wanted.start, len(wanted))
        except SourceError:  # some of it is missing: the store knows where to get it
            data, _ = await self._store.verified(wanted.start, len(wanted), "soon")
            return data


@dataclass(frozen=True)
class StorageRate:
    """`gb_s` of reading all `bytes` of a model from where they are stored, and nothing else."""

    bytes: int
    gb_s: float


async def measure_reading(store: ShardStore) -> StorageRate:
    """The ceiling of loading a model: it is read as loading does."""
    began = time.perf_counter()
    async with aclosing(Windows(store)) as windows:
        for index in range(windows.count):
            await windows.get(index)
    seconds = time.perf_counter() - began
    return StorageRate(store.manifest.bytes, round(store.manifest.bytes / seconds / 1e9, 3))

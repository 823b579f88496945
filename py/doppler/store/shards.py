"""Shards: get -> verify -> store. What leaves this module is verified, but for `unverified`.

A block of the manifest is the unit: it is hashed before it is written, and hashed again whenever it
is read back, so that neither a bad server nor a bad disk can reach the GPU.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_right
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from itertools import accumulate, groupby, takewhile
from typing import Any, Protocol, TypeAlias

from doppler.errors import CorruptError, SourceError, StorageError
from doppler.inputs.buffers import Buffer, Buffers
from doppler.inputs.source import Progress
from doppler.store.manifest import Manifest, Shard
from doppler.store.storage import Piece, Storage

AT_ONCE = 3  # shards that are downloaded side by side
PATIENCE = 3.0  # seconds, with a file that another tab has open to write to it
LOOK_AGAIN = 0.05


class ShardSource(Protocol):
    """Where shards come from: an address, a peer."""

    def where(self, shard: Shard) -> str:
        """The place, for messages: an address."""
        ...

    def blocks(self, shard: Shard, start: int, end: int) -> AsyncGenerator[Buffer, None]:
        """Bytes [start, end) of a shard, some whole blocks at a time (the shard's last one may be
        shorter); `start` lies on a block's boundary.

        Raises SourceError where bytes are missing. Closing the generator ends the request.
        """
        ...


@dataclass(frozen=True)
class Place:
    """Where block `index` of the model lies: bytes [start, end) of `shard`."""

    index: int
    shard: Shard
    start: int
    end: int

    def __str__(self) -> str:
        return f"block {self.index} of {self.shard.name}"


BlockHasher: TypeAlias = Callable[[Buffer], Coroutine[Any, Any, list[str]]]
"""Blocks in a row, of which the last one may be shorter -> the BLAKE3 of each in hexadecimal."""


class ShardStore:
    """The weights of one model: stored blocks, and a source for those that are missing or bad.

    Without a source (a model that was imported from a file) damage cannot be repaired.
    """

    def __init__(
        self, manifest: Manifest, storage: Storage, source: ShardSource | None, buffers: Buffers
    ) -> None:
        self.manifest = manifest
        self._storage = storage
        self._source = source
        self.buffers = buffers
        self._offsets = [shard.offset for shard in manifest.shards]
        self.hasher: BlockHasher | None = None  # what hashes blocks in a row faster than the host

    async def rest(self) -> None:
        """Lets the files go, for others to delete or mend them; a later read opens them again."""
        await self._storage.close()

    async def stored_bytes(self) -> int:
        """Bytes of weights that are there, by the sizes of the files: nothing is hashed."""
        return sum([await self._stored_bytes(shard) for shard in self.manifest.shards])

    async def missing(self) -> list[Shard]:
        """The shards that are not there in full, by the sizes of the files."""
        shards = self.manifest.shards
        return [shard for shard in shards if await self._stored_bytes(shard) < shard.bytes]

    async def download(self, progress: Progress) -> None:
        """Makes the stored model whole, going on after the last good block of each shard.

        progress: called with bytes that are stored and verified, and bytes in all. What was stored
        stays when this fails or is cancelled. Raises CorruptError with shard and block where the
        source's bytes are wrong, SourceError where they are missing, StorageError where they do not
        fit.
        """
        if self._source is None:
            raise SourceError(
                f"{self.manifest.title} was imported from a file: there is no address to get "
                "the rest from; import it again"
            )
        done = 0

        def add(count: int) -> None:
            nonlocal done
            done += count
            progress(done, self.manifest.bytes)

        waiting = iter(self.manifest.shards)

        async def work(source: ShardSource) -> None:
            for shard in waiting:  # the iterator is shared: each shard is taken once
                await self._complete(source, shard, add)

        await _together([work(self._source) for _ in range(AT_ONCE)])

    async def block(self, index: int) -> Buffer:
        """Block `index` of the model's byte space, verified; the last one may be shorter.

        A stored block that is bad or missing is fetched again, verified and stored first. Raises
        CorruptError or SourceError where that cannot be.
        """
        return (await self._block(index))[0]

    async def _block(self, index: int) -> tuple[Buffer, bool]:
        """The same; and whether it came from the source."""
        place = self._place(index)
        try:
            data = await self._read(place)
        except SourceError:
            if self._source is None:
                raise SourceError(
                    f"{place} is not stored, and there is no address to get it from; import the "
                    "model again"
                ) from None
        else:
            if self._is_good(place, data):
                return data, False
            if self._source is None:
                raise CorruptError(
                    f"{place} is damaged where it is stored: its BLAKE3 is not the manifest's, and "
                    "there is no address to get it from again; delete the model and import it again"
                )
        return await self._fetch_block(self._source, place), True

    async def unverified(self, first: int, count: int) -> Buffer:
        """Blocks first .. first + count - 1 in one piece, as they are stored: the one way past the
        check, for whoever hashes them where they go. Raises SourceError where some are missing.
        """
        places = [self._place(index) for index in range(first, first + count)]
        runs = [list(run) for _, run in groupby(places, key=lambda place: place.shard)]
        ends = [(run[0].shard.name, run[0].start, run[-1].end) for run in runs]
        parts = [await self._patient_read(name, start, end - start) for name, start, end in ends]
        if len(parts) == 1:
            return parts[0]
        whole = self.buffers.empty(sum(end - start for _, start, end in ends))
        at = 0
        for part in parts:
            self.buffers.put(whole, at, part)
            at += self.buffers.length(part)
        return whole

    async def verified(self, first: int, count: int) -> tuple[Buffer, bool]:
        """Blocks first .. first + count - 1 in one piece, each as `block` gives it; and whether
        some were bad or missing, and came from the source.
        """
        places = [self._place(index) for index in range(first, first + count)]
        ends = list(accumulate(place.end - place.start for place in places))
        starts = [0, *ends[:-1]]
        try:
            data = await self.unverified(first, count)
        except SourceError:  # some of it is missing
            data, bad = None, list(range(count))
        else:
            digests = await self._digests(data, list(zip(starts, ends, strict=True)))
            wanted = [self.manifest.blocks[place.index] for place in places]
            bad = [i for i, digest in enumerate(digests) if digest != wanted[i]]
        if data is not None and not bad:
            return data, False
        whole, fetched = self.buffers.empty(ends[-1]), False
        if data is not None:
            self.buffers.put(whole, 0, data)
        for index in bad:
            block, came = await self._block(first + index)
            self.buffers.put(whole, starts[index], block)
            fetched = fetched or came
        return whole, fetched

    async def stored(self, offsets: Sequence[int], length: int) -> bytes:
        """`length` bytes from each of these offsets of the model's byte space on, one after
        another, as they are stored: for what was verified before.

        Raises SourceError where some are missing.
        """
        pieces = [piece for offset in offsets for piece in self._pieces(offset, offset + length)]
        return self.buffers.to_bytes(await _patiently(lambda: self._storage.gather(pieces)))

    def _pieces(self, start: int, end: int) -> Iterator[Piece]:
        """Where bytes start .. end of the byte space lie."""
        while start < end:
            shard = self.manifest.shards[bisect_right(self._offsets, start) - 1]
            count = min(end, shard.offset + shard.bytes) - start
            yield shard.name, start - shard.offset, count
            start += count

    async def _complete(
        self, source: ShardSource, shard: Shard, add: Callable[[int], None]
    ) -> None:
        """Makes one shard whole; `add` is told of each verified block's bytes."""
        start = await self._good_bytes(shard, add)
        if await self._storage.size(shard.name) not in (start, None):
            await self._storage.truncate(shard.name, start)
        if start < shard.bytes:
            async with aclosing(source.blocks(shard, start, shard.bytes)) as pieces:
                async for piece in pieces:
                    await self._keep(source, shard, start, piece)
                    start += self.buffers.length(piece)
                    add(self.buffers.length(piece))
        await self._storage.flush(shard.name)

    async def _good_bytes(self, shard: Shard, add: Callable[[int], None]) -> int:
        """Length of the stored beginning of a shard whose blocks are all good."""
        stored = await self._stored_bytes(shard)
        for place in self._places(shard, 0):
            if place.end > stored:
                return place.start
            if not self._is_good(place, await self._read(place)):
                return place.start
            add(place.end - place.start)
        return shard.bytes

    async def _fetch_block(self, source: ShardSource, place: Place) -> Buffer:
        """Verified; and stored, unless there is no room: whoever needs it has it all the same."""
        async with aclosing(source.blocks(place.shard, place.start, place.end)) as pieces:
            async for piece in pieces:
                with suppress(StorageError):
                    await self._keep(source, place.shard, place.start, piece)
                    await self._storage.flush(place.shard.name)  # other tabs may want to read it
                return piece
        raise SourceError(f"{place} from {source.where(place.shard)}: nothing came; try again")

    async def _keep(self, source: ShardSource, shard: Shard, start: int, data: Buffer) -> None:
        """Verifies blocks of the source, then stores them: those before a bad one in any case."""
        end = start + self.buffers.length(data)
        places = takewhile(lambda place: place.start < end, self._places(shard, start))
        blocks = ((it, self.buffers.part(data, it.start - start, it.end - start)) for it in places)
        bad = next((it for it, block in blocks if not self._is_good(it, block)), None)
        good = end if bad is None else bad.start
        if good > start:
            await self._storage.write(shard.name, start, self.buffers.part(data, 0, good - start))
        if bad is not None:
            raise CorruptError(
                f"{bad} from {source.where(shard)}: its BLAKE3 is not the manifest's; the "
                "file there is damaged or belongs to another model. Have it mended there, or get "
                "the model from elsewhere"
            )

    async def _digests(self, data: Buffer, ends: Sequence[tuple[int, int]]) -> list[str]:
        """BLAKE3 of blocks in a row, which lie there in `data`."""
        if self.hasher is not None:
            return await self.hasher(data)
        return [self.buffers.blake3(self.buffers.part(data, start, end)) for start, end in ends]

    def _is_good(self, place: Place, block: Buffer) -> bool:
        """Whether a block is what it should be."""
        return self.buffers.blake3(block) == self.manifest.blocks[place.index]

    async def _read(self, place: Place) -> Buffer:
        return await self._patient_read(place.shard.name, place.start, place.end - place.start)

    async def _patient_read(self, name: str, start: int, length: int) -> Buffer:
        return await _patiently(lambda: self._storage.read(name, start, length))

    async def _stored_bytes(self, shard: Shard) -> int:
        return min(await self._storage.size(shard.name) or 0, shard.bytes)

    def _place(self, index: int) -> Place:
        """Shards are a whole number of blocks long, so that a block lies in one of them."""
        assert 0 <= index < len(self.manifest.blocks), f"there is no block {index}"
        offset = index * self.manifest.block_size
        shard = self.manifest.shards[bisect_right(self._offsets, offset) - 1]
        start = offset - shard.offset
        return Place(index, shard, start, min(start + self.manifest.block_size, shard.bytes))

    def _places(self, shard: Shard, start: int) -> Iterator[Place]:
        """The blocks of a shard from byte `start` on, which lies on a block's boundary."""
        size = self.manifest.block_size
        first = (shard.offset + start) // size
        count = -(-(shard.bytes - start) // size)
        return (self._place(index) for index in range(first, first + count))


async def _patiently(read: Callable[[], Awaitable[Buffer]]) -> Buffer:
    """What is read of files, which another tab may just be mending: that is waited for, a while."""
    since = time.monotonic()
    while True:
        try:
            return await read()
        except StorageError:
            if time.monotonic() - since > PATIENCE:
                raise
        await asyncio.sleep(LOOK_AGAIN)


async def _together(work: list[Coroutine[Any, Any, None]]) -> None:
    """Runs all of it side by side; the first error (or a cancellation) ends the rest."""
    tasks = [asyncio.ensure_future(part) for part in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

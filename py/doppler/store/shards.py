"""Shards: get -> verify -> store. What leaves this module is verified, but for `unverified`.

A block of the manifest is the unit: it is hashed before it is written, and hashed again whenever it
is read back, so that neither a bad server nor a bad disk can reach the GPU.
"""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncIterator,
    Callable,
    Collection,
    Coroutine,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import aclosing, suppress
from typing import Any, TypeAlias

from doppler.errors import CorruptError, SourceError, StorageError
from doppler.inputs.buffers import Buffer, Buffers
from doppler.inputs.source import Progress
from doppler.store.manifest import Manifest
from doppler.store.places import Place, Places
from doppler.store.sharded import Shard
from doppler.store.sources.scheduler import Scheduler
from doppler.store.sources.source import ShardSource, Urgency
from doppler.store.storage import Storage
from doppler.store.stored_blocks import StoredBlocks

SHARDS_WANTED = 64  # shards of a download that sources may choose from

BlockHasher: TypeAlias = Callable[[Buffer], Coroutine[Any, Any, list[str]]]
"""Blocks in a row, of which the last one may be shorter -> the BLAKE3 of each in hexadecimal."""


class ShardStore:
    """The weights of one model: stored blocks, and sources of those that are missing or bad.

    Without sources (a model that was imported from a file) damage cannot be repaired. budget: as
    StoredBlocks has it.
    """

    def __init__(
        self,
        manifest: Manifest,
        storage: Storage,
        sources: Sequence[ShardSource],
        buffers: Buffers,
        budget: int | None = None,
    ) -> None:
        self.manifest, self.buffers = manifest, buffers
        self.storage, self._places = storage, Places(manifest)
        self.blocks = StoredBlocks(self._places, storage, buffers, budget)
        self.scheduler = Scheduler(self._places, buffers, self.blocks.keep)
        for source in sources:
            self.scheduler.add(source)
        self._downloads = 0  # that are going on, and files that are taken
        self._sound = set[int]()  # blocks that were verified since the files were opened
        self._opening = storage.openings
        self.hasher: BlockHasher | None = None  # what hashes blocks in a row faster than the host

    async def rest(self) -> None:
        """Lets the files go, for others to delete or mend them; a later read opens them again."""
        await self.storage.close()

    @property
    def is_busy(self) -> bool:
        """Whether somebody waits for blocks, or for all of the model."""
        return self._downloads > 0 or self.scheduler.is_busy

    async def stored_bytes(self) -> int:
        """Bytes of weights that are there; nothing is hashed."""
        missing = await self.blocks.missing(range(len(self._places)))
        return self.manifest.bytes - sum(self._places[index].bytes for index in missing)

    async def missing(self) -> list[Shard]:
        """The shards that are not there in full; nothing is hashed."""
        lacking = await self.blocks.missing(range(len(self._places)))
        names = {self._places[index].shard.name for index in lacking}
        return [shard for shard in self.manifest.shards if shard.name in names]

    async def download(self, progress: Progress) -> None:
        """Makes the stored model whole: what is there is hashed, and the rest is asked for.

        progress: called with bytes that are stored and verified, and bytes in all. What was stored
        stays when this fails or is cancelled. Raises CorruptError with shard and block where the
        bytes of all sources are wrong, SourceError where they are missing, StorageError where they
        do not fit.
        """
        if not self.scheduler.sources:
            raise SourceError(
                f"{self.manifest.title} was imported from a file: there is no address to get "
                "the rest from; import it again"
            )
        done = 0

        def add(count: int) -> None:
            nonlocal done
            done += count
            progress(done, self.manifest.bytes)

        self.scheduler.forgive()
        self._downloads += 1
        try:
            await self.blocks.refresh()
            await self._complete(add)
            if not self.blocks.fits:
                raise StorageError(
                    f"{self.manifest.title} is not whole: less of it may be stored than when this "
                    "download began, so that blocks had to leave for others; load it as it is, or "
                    "allow more and get it again"
                )
            await self.blocks.drop_slots()
        finally:
            self._downloads -= 1
            await self.blocks.save()

    async def take(self, source: ShardSource, progress: Progress) -> int:
        """Stores what one source has of the blocks that are missing or damaged, and asks no other;
        the bytes that are lacking still. Whoever waits for such a block meanwhile gets it, too.

        progress: as `download` has it. Raises StorageError where blocks do not fit.
        """
        done = 0

        def add(count: int) -> None:
            nonlocal done
            done += count
            progress(done, self.manifest.bytes)

        self._downloads += 1
        try:
            await self.blocks.refresh()
            self.scheduler.add(source)
            for shard in self.manifest.shards:
                await self._take(source, shard, add)
            if done == self.manifest.bytes:
                await self.blocks.drop_slots()
        finally:
            self._downloads -= 1
            self.scheduler.drop(source)
            await self.blocks.save()
        return self.manifest.bytes - await self.stored_bytes()  # some may have had to leave

    async def _take(self, source: ShardSource, shard: Shard, add: Callable[[int], None]) -> None:
        lacking = [place.index async for place in self._bad(shard, add)]
        for run in self._places.runs([index for index in lacking if source.has(index)]):
            with suppress(SourceError):  # the source knows what it could not give
                async with aclosing(source.fetch(run, "idle")) as pieces:
                    async for first, data in pieces:
                        if (unkept := await self.scheduler.offer(source, first, data)) is not None:
                            raise unkept
        found = [index for index in lacking if self.blocks.has(index)]
        for index in found:
            add(self._places[index].bytes)
        if found:
            await self.blocks.finish(shard)

    async def _complete(self, add: Callable[[int], None]) -> None:
        """Hashes one shard after another, while the missing blocks of those before are fetched."""
        fetching = set[asyncio.Task[None]]()
        try:
            for shard in self.manifest.shards:
                lacking = [place.index async for place in self._bad(shard, add)]
                fetching.add(asyncio.ensure_future(self._fetch(shard, lacking, add)))
                await _first_error(fetching, SHARDS_WANTED)
            await _first_error(fetching, 0)
        finally:
            for task in fetching:
                task.cancel()
            await asyncio.gather(*fetching, return_exceptions=True)

    async def _fetch(self, shard: Shard, lacking: list[int], add: Callable[[int], None]) -> None:
        await self.scheduler.store(lacking, add)
        await self.blocks.finish(shard)

    async def _bad(self, shard: Shard, add: Callable[[int], None]) -> AsyncIterator[Place]:
        """The blocks of a shard that are missing or damaged; `add` gets the bytes of the others."""
        for index in self._places.of(shard):
            place = self._places[index]
            if await self._is_whole(place):
                add(place.bytes)
            else:
                self._damaged([index])
                yield place

    async def _is_whole(self, place: Place) -> bool:
        """Whether a block is good where it belongs. One that lies in a slot is brought there."""
        data = await self.blocks.read_in_shard(place)
        if data is not None and self._is_good(place, data):
            self.blocks.found(place.index)
            return True
        data = await self.blocks.read_in_slot(place)
        if data is None or not self._is_good(place, data):
            return False
        await self.blocks.keep(place, data)
        return True

    async def block(self, index: int, urgency: Urgency = "now") -> Buffer:
        """Block `index` of the model's byte space, verified; the last one may be shorter.

        A stored block that is bad or missing is fetched again, verified and stored first. Raises
        CorruptError or SourceError where that cannot be.
        """
        return (await self.verified(index, 1, urgency))[0]

    async def unverified(self, first: int, count: int) -> Buffer:
        """Blocks first .. first + count - 1 in one piece, as they are stored: the one way past the
        check, for whoever hashes them where they go. Raises SourceError where some are missing.
        """
        return await self.blocks.read(range(first, first + count))

    async def verified(
        self, first: int, count: int, urgency: Urgency = "now"
    ) -> tuple[Buffer, bool]:
        """Blocks first .. first + count - 1 in one piece, each as `block` gives it; and whether
        some were bad or missing, and came from a source.
        """
        wanted = range(first, first + count)
        whole, good, damaged = await self._read(wanted, self.hasher if count > 1 else None)
        bad = [index for index in wanted if index not in good]
        if whole is not None and not bad:
            return whole, False
        if bad:
            if not self.scheduler.sources:
                raise self._unmendable(self._places[bad[0]], bad[0] in damaged)
            self._damaged(damaged)
            good |= await self.scheduler.get(bad, urgency)
            await self.blocks.let_go(bad)
        return self._joined([good[index] for index in wanted]), bool(bad)

    async def given(self, index: int) -> Buffer | None:
        """A stored block for somebody else, verified; None where it is damaged, or not there any
        more: another tab may have let it leave.
        """
        _, good, _ = await self._read(range(index, index + 1), None)
        self._damaged({index} - good.keys())
        return good.get(index)

    def _damaged(self, indices: Collection[int]) -> None:
        """Blocks that are not what they should be count as stored no more, here and with peers, who
        are not asked for what is here.
        """
        held = [index for index in indices if self.blocks.has(index)]
        for index in indices:
            self.blocks.discard(index)
        if held:
            self.blocks.gone(held)

    async def stored(self, offsets: Sequence[int], length: int) -> bytes:
        """`length` bytes from each of these offsets of the model's byte space on, one after
        another. A block is hashed once while its file is open, and not for each of them.

        Raises SourceError where some are missing, and nobody has them.
        """
        ranges = [(offset, offset + length) for offset in offsets]
        blocks = sorted({index for it in ranges for index in self._places.within(*it)})
        # A block in a slot may leave for another one while it is read.
        while self.blocks.fits:
            opening = self.storage.openings
            if opening != self._opening:
                self._sound.clear()
                self._opening = opening
            lacking = [index for index in blocks if index not in self._sound]
            for index in lacking:
                await self.block(index)
            if not all(map(self.blocks.has, blocks)):  # storage is full, say
                break
            if self.storage.openings == opening:
                self._sound.update(lacking)
                data = await self.blocks.gather(ranges)
                if self.storage.openings == opening:
                    return data
        found = {index: await self.block(index) for index in blocks}
        return b"".join(part for it in ranges for part in self._cut(found, *it))

    def _cut(self, found: Mapping[int, Buffer], start: int, end: int) -> Iterator[bytes]:
        """Bytes start .. end of the byte space, from its blocks."""
        size = self.manifest.block_size
        while start < end:
            index, at = divmod(start, size)
            stop = min(size, at + end - start)
            yield self.buffers.to_bytes(self.buffers.part(found[index], at, stop))
            start += stop - at

    async def _read(
        self, wanted: range, hasher: BlockHasher | None
    ) -> tuple[Buffer | None, dict[int, Buffer], set[int]]:
        """All of these blocks in one piece, if they are stored; the good ones of them; and those
        that are there and damaged.
        """
        lacking = set(await self.blocks.missing(wanted))
        there = [index for index in wanted if index not in lacking]
        whole: Buffer | None = None
        try:
            whole = await self.blocks.read(there) if there else None
            parts = list(self._split(there, whole))
        except SourceError:  # a file was cut, or a block has left meanwhile
            parts = [part for index in there async for part in self._read_one(index)]
        if whole is not None and hasher is not None:
            digests = await hasher(whole)
        else:
            digests = [self.buffers.blake3(part) for _, part in parts]
        found = zip(parts, digests, strict=True)
        good = {i: part for (i, part), digest in found if digest == self.manifest.blocks[i]}
        return whole if not lacking else None, good, {i for i, _ in parts if i not in good}

    async def _read_one(self, index: int) -> AsyncIterator[tuple[int, Buffer]]:
        with suppress(SourceError):
            yield index, await self.blocks.read([index])

    def _split(self, indices: Sequence[int], whole: Buffer) -> Iterator[tuple[int, Buffer]]:
        at = 0
        for index in indices:
            end = at + self._places[index].bytes
            yield index, self.buffers.part(whole, at, end)
            at = end

    def _joined(self, parts: Sequence[Buffer]) -> Buffer:
        if len(parts) == 1:
            return parts[0]
        whole, at = self.buffers.empty(sum(map(self.buffers.length, parts))), 0
        for part in parts:
            self.buffers.put(whole, at, part)
            at += self.buffers.length(part)
        return whole

    def _unmendable(self, place: Place, is_damaged: bool) -> CorruptError | SourceError:
        """Why a block cannot be had: there is no source."""
        if is_damaged:
            return CorruptError(
                f"{place} is damaged where it is stored: its BLAKE3 is not the manifest's, and "
                "there is no address to get it from again; delete the model and import it again"
            )
        return SourceError(
            f"{place} is not stored, and there is no address to get it from; import the model again"
        )

    def _is_good(self, place: Place, block: Buffer) -> bool:
        """Whether a block is what it should be."""
        return self.buffers.blake3(block) == self.manifest.blocks[place.index]


async def _first_error(tasks: set[asyncio.Task[None]], most: int) -> None:
    """Waits until no more than `most` of them run. Raises the first error of one that ended."""
    while True:
        for task in [task for task in tasks if task.done()]:
            tasks.discard(task)
            task.result()
        if len(tasks) <= most:
            return
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)

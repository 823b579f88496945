"""The blocks of one model that are stored, where they lie, and what leaves for another to come."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from itertools import takewhile
from typing import TypeVar

from doppler.errors import SourceError, StorageError
from doppler.inputs.buffers import Buffer, Buffers
from doppler.store.budget import SLOTS_FILE, Slots
from doppler.store.have_map import HaveMap
from doppler.store.places import Place, Places
from doppler.store.sharded import Shard
from doppler.store.storage import Piece, Storage
from doppler.store.uses import Uses

T = TypeVar("T")

FRESH_SECONDS = 1.0  # for which what was read of the folder is believed, where a block is missing
PATIENCE = 3.0  # seconds, with a file that another tab has open to write to it
LOOK_AGAIN = 0.05


class StoredBlocks:
    """Bytes of blocks as they are stored: nothing here is hashed.

    budget: bytes of weights that may be added to what is stored, all of it counted; None where all
    of the model may be. gone: told of blocks that had to leave. displaces: whether a block that
    comes may push out what was used longest ago; one that may not is kept only where there is room.
    """

    def __init__(
        self,
        places: Places,
        storage: Storage,
        buffers: Buffers,
        budget: int | None = None,
    ) -> None:
        self._places, self._storage, self._buffers = places, storage, buffers
        self._map = HaveMap(places, storage, buffers)
        self._slots = Slots(storage, buffers, places.manifest.block_size, budget)
        self._loading = asyncio.Lock()
        self._loaded: float | None = None  # when
        self._uses = Uses()
        self.gone: Callable[[list[int]], None] = lambda indices: None
        self.displaces: Callable[[int], bool] = lambda index: True

    @property
    def budget(self) -> int | None:
        """Bytes of weights that may be stored; None: all."""
        return self._slots.budget

    @budget.setter
    def budget(self, budget: int | None) -> None:
        self._slots.budget = budget

    @property
    def fits(self) -> bool:
        """Whether all of the model may be stored."""
        return self.budget is None or self._places.manifest.bytes <= self.budget

    @property
    def room(self) -> int:
        """Blocks that can come, and none leaves for them."""
        if self.budget is None or self.fits:
            return len(self._places)
        return self._slots.room(self._in_shards())

    def unused(self, seconds: float) -> list[int]:
        """Blocks that can leave, and were not used for so long. Those in shards cannot."""
        return [it for it in self._slots.blocks if not self._uses.is_recent(it, seconds)]

    def let_leave(self, index: int) -> None:
        """Gives up a block that is in a slot."""
        self._slots.drop(index)
        self.gone([index])

    async def ready(self) -> None:
        """Reads what is stored, once."""
        if self._loaded is None:
            await self.refresh()

    def changed(self) -> None:
        """Somebody else has put other files there: they are looked at when they are used next."""
        self._loaded = None

    async def refresh(self) -> None:
        """Reads again what is stored, which other tabs may have changed, if a while has passed."""
        async with self._loading:
            now = _now()
            if self._loaded is None or now >= self._loaded + FRESH_SECONDS:
                await self._map.load()
                if self._loaded is None:
                    await _patiently(lambda: self._slots.load(len(self._places)))
                self._loaded = _now()

    def has(self, index: int) -> bool:
        """Whether a block is stored, as far as was read."""
        return index in self._map or index in self._slots

    def bits(self) -> bytes:
        """Of all blocks: bit 7 of byte 0 is block 0."""
        bits = bytearray(self._map.bits)
        for index in self._slots.blocks:
            bits[index >> 3] |= 0x80 >> (index & 7)
        return bytes(bits)

    async def missing(self, indices: Sequence[int]) -> list[int]:
        """Those of the blocks that are not stored."""
        await self.ready()
        if any(not self.has(index) for index in indices):
            await self.refresh()
        return [index for index in indices if not self.has(index)]

    async def read(self, indices: Sequence[int]) -> Buffer:
        """Those blocks in one piece. Raises SourceError where some are missing."""
        if lacking := await self.missing(indices):
            raise SourceError(f"{self._places[lacking[0]]} is not stored")
        parts = [await self._patient_read(*piece) for piece in self._pieces(indices)]
        if len(parts) == 1:
            return parts[0]
        whole, at = self._buffers.empty(sum(map(self._buffers.length, parts))), 0
        for part in parts:
            self._buffers.put(whole, at, part)
            at += self._buffers.length(part)
        return whole

    async def read_in_shard(self, place: Place) -> Buffer | None:
        """A block's bytes where it belongs, whatever the map says; None where the file ends before
        its end.
        """
        if self._map.size(place.shard) < place.end:
            return None
        try:
            return await self._patient_read(place.shard.name, place.start, place.bytes)
        except SourceError:
            return None

    async def read_in_slot(self, place: Place) -> Buffer | None:
        """A block's bytes in a slot; None where none has it."""
        if place.index not in self._slots:
            return None
        try:
            return await self._patient_read(SLOTS_FILE, self._slots.at(place.index), place.bytes)
        except SourceError:
            return None

    def found(self, index: int) -> None:
        """A block is in its shard, and good."""
        self._map.add([index])

    async def gather(self, ranges: Sequence[tuple[int, int]]) -> bytes:
        """Bytes [start, end) of the byte space, one after another, all stored."""
        pieces = [piece for start, end in ranges for piece in self._bytes(start, end)]
        return self._buffers.to_bytes(await _patiently(lambda: self._storage.gather(pieces)))

    async def keep(self, place: Place, data: Buffer) -> None:
        """Stores verified blocks that are neighbours in a shard, from `place` on.

        Raises StorageError where there is no room, or none within the budget.
        """
        await self.ready()
        if not self.fits:
            await self._keep_in_slots(place, data)
            return
        await self._storage.write(place.shard.name, place.start, data)
        end = place.start + self._buffers.length(data)
        whole = takewhile(lambda it: self._places[it].end <= end, self._blocks_from(place))
        indices = list(whole)
        self._map.add(indices)
        for index in indices:
            if index in self._slots:
                self._slots.drop(index)
        await self._map.save(soon=True)

    async def let_go(self, indices: Sequence[int]) -> None:
        """The files of blocks that were just kept: other tabs may want to read them."""
        names = {self._places[it].shard.name if it in self._map else SLOTS_FILE for it in indices}
        for name in names:
            if await self._storage.size(name) is not None:
                with suppress(StorageError):
                    await self._storage.flush(name)

    def discard(self, index: int) -> None:
        """What is stored of a block is not what it should be."""
        self._map.discard([index])
        if index in self._slots:
            self._slots.drop(index)

    async def finish(self, shard: Shard) -> None:
        """Puts a shard on the disk; a longer file is cut."""
        if (await self._storage.size(shard.name) or 0) > shard.bytes:
            await self._storage.truncate(shard.name, shard.bytes)
        await self._storage.flush(shard.name)

    async def save(self) -> None:
        """Puts what is known of blocks on the disk."""
        if self._loaded is not None:
            await self._map.save()
            if self._slots.blocks:
                await self._slots.save()

    async def drop_slots(self) -> None:
        """The model is whole in its shards, if all of it may be stored."""
        if self.fits and self._slots.bytes:
            await self._slots.remove()

    async def _patient_read(self, name: str, start: int, length: int) -> Buffer:
        return await _patiently(lambda: self._storage.read(name, start, length))

    def _blocks_from(self, place: Place) -> range:
        return range(place.index, self._places.of(place.shard).stop)

    def _pieces(self, indices: Sequence[int]) -> list[Piece]:
        """Where stored blocks lie, neighbours in one file together."""
        found = list[Piece]()
        for index in indices:
            place = self._places[index]
            name, at = self._where(place)
            if found and found[-1][0] == name and found[-1][1] + found[-1][2] == at:
                found[-1] = (name, found[-1][1], found[-1][2] + place.bytes)
            else:
                found.append((name, at, place.bytes))
        return found

    def _where(self, place: Place) -> tuple[str, int]:
        """The file of a stored block, and where in it that begins. It counts as used."""
        if place.index in self._map:
            self._uses.add(place.shard.name)
            return place.shard.name, place.start
        self._uses.add(place.index)
        return SLOTS_FILE, self._slots.at(place.index)

    def _bytes(self, start: int, end: int) -> Iterator[Piece]:
        size = self._places.manifest.block_size
        while start < end:
            index, within = divmod(start, size)
            name, at = self._where(self._places[index])
            count = min(end, (index + 1) * size) - start
            yield name, at + within, count
            start += count

    async def _keep_in_slots(self, place: Place, data: Buffer) -> None:
        """Each block into a slot; those that are stored stay where they are."""
        if not self.displaces(place.index) and not self.room:
            raise StorageError(f"{place} is not kept: something else has taken the room for it")
        await self._shrink()
        at = 0
        for index in self._blocks_from(place):
            if at >= self._buffers.length(data):
                break
            own = self._places[index]
            part = self._buffers.part(data, at, at + own.bytes)
            at += own.bytes
            if index in self._map:
                await self._storage.write(own.shard.name, own.start, part)
            else:
                await self._write_slot(index, part)
        await self._slots.save(soon=True)

    async def _write_slot(self, index: int, part: Buffer) -> None:
        at = await self._slot(index)
        try:
            await self._storage.write(SLOTS_FILE, at, part)
        except BaseException:  # storage is full, or nobody waits any more
            if index in self._slots:
                self._slots.drop(index)
            raise

    async def _shrink(self) -> None:
        """What was stored before, and is more than the budget, leaves."""
        budget = self.budget or 0
        while self._in_shards() + self._slots.bytes > budget and (shards := self._stored_shards()):
            await self._remove(min(shards, key=lambda it: self._uses.last(it.name)))
        if self._slots.bytes > budget and (cut := await self._slots.cut()):
            self.gone(cut)

    async def _slot(self, index: int) -> int:
        """Where a block may be written; what was used longest ago makes room."""
        while (at := self._slots.take(index, self._in_shards())) is None:
            oldest, shards = self._slots.oldest, self._stored_shards()
            shard = min(shards, key=lambda it: self._uses.last(it.name), default=None)
            if shard and (oldest is None or self._uses.last(shard.name) < self._uses.last(oldest)):
                await self._remove(shard)
            elif oldest is not None:
                self.let_leave(oldest)
            else:
                raise StorageError(
                    f"{self._places[index]} is not kept: {self.budget} bytes of "
                    f"{self._places.manifest.name} may be stored, and a block has "
                    f"{self._places.manifest.block_size}; allow more to have it sooner next time"
                )
        self._uses.add(index)
        return at

    def _stored_shards(self) -> list[Shard]:
        return [it for it in self._places.manifest.shards if self._map.size(it)]

    def _in_shards(self) -> int:
        return sum(map(self._map.size, self._places.manifest.shards))

    async def _remove(self, shard: Shard) -> None:
        held = [index for index in self._places.of(shard) if index in self._map]
        self._map.discard(held)
        self.gone(held)  # at once: who waits for the room may be cancelled
        await self._map.save()
        await self._storage.remove(shard.name)
        self._map.removed(shard)


async def _patiently(read: Callable[[], Awaitable[T]]) -> T:
    """What is read of files, which another tab may just be mending: that is waited for, a while."""
    since = _now()
    while True:
        try:
            return await read()
        except StorageError:
            if _now() - since > PATIENCE:
                raise
        await asyncio.sleep(LOOK_AGAIN)


def _now() -> float:
    return asyncio.get_running_loop().time()

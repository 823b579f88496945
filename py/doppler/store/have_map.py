"""Which blocks of a model are stored in its shards: a bitmap, kept beside them.

A download from peers brings blocks in any order: a shard has holes until it is whole, and its size
does not say which. Where there is no map (a model that was imported, or converted), sizes do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress

from doppler.errors import FormatError, SourceError, StorageError
from doppler.inputs.buffers import Buffers
from doppler.store.digest import blake3_hex
from doppler.store.pace import Pace
from doppler.store.places import Places
from doppler.store.sharded import Shard
from doppler.store.storage import Storage

HAVE_FILE = "have.map"
DIGEST = 16  # bytes at the file's start, which tell the cut that it is of
SAVE_SECONDS = 1.0  # between two writes of the file
TRY_SECONDS = 0.02  # another tab holds the file for a moment only
TRIES = 5
FIRST_TRIES = 150  # where nothing is known yet


class HaveMap:
    """One bit a block: bit 7 of byte 0 is block 0. It tells what is there, and no more: whoever
    reads a block hashes it.
    """

    def __init__(self, places: Places, storage: Storage, buffers: Buffers) -> None:
        self._places, self._storage, self._buffers = places, storage, buffers
        shards = (f"{it.name} {it.offset} {it.bytes}\n" for it in places.manifest.shards)
        self._cut = bytes.fromhex(blake3_hex("".join(shards).encode()))[:DIGEST]
        self._bits = bytearray(-(-len(places) // 8))
        self._added, self._gone = set[int](), set[int]()  # since the file was written
        self._sizes = dict[str, int]()  # of shards, as they were when the map was read
        self._is_loaded, self._is_written = False, False
        self._pace = Pace(SAVE_SECONDS, self._write)

    def __contains__(self, index: int) -> bool:
        return _bit(self._bits, index)

    @property
    def bits(self) -> bytes:
        """All of it, as many bytes as blocks need."""
        return bytes(self._bits)

    def size(self, shard: Shard) -> int:
        """Bytes of a shard's file, as `load` saw it, and with blocks that were added since; 0 where
        it is absent.
        """
        return self._sizes.get(shard.name, 0)

    def removed(self, shard: Shard) -> None:
        """A shard's file is no longer there."""
        self._sizes[shard.name] = 0

    async def load(self) -> None:
        """Reads what is stored now: other tabs may have changed it. Raises StorageError where
        another tab has the file open for so long that nothing can be known; where it was read
        before, that stays.
        """
        shards = self._places.manifest.shards
        sizes = {it.name: await self._storage.size(it.name) or 0 for it in shards}
        try:
            written = await self._read(TRIES if self._is_loaded else FIRST_TRIES)
        except StorageError:
            if self._is_loaded:
                return
            raise
        self._sizes, self._is_loaded = sizes, True
        self._is_written = written is not None
        self._bits = bytearray(len(self._bits))
        for shard in shards:
            size = self._sizes[shard.name]
            for index in self._places.of(shard):
                told = written is None or _bit(written, index)
                if told and self._places[index].end <= size:
                    _put(self._bits, index, True)
        for index in self._added:
            _put(self._bits, index, True)
        for index in self._gone:
            _put(self._bits, index, False)

    def add(self, indices: Iterable[int]) -> None:
        """These blocks are stored now."""
        for index in indices:
            if index not in self:
                place = self._places[index]
                self._sizes[place.shard.name] = max(self.size(place.shard), place.end)
                _put(self._bits, index, True)
                self._gone.discard(index)
                self._added.add(index)

    def discard(self, indices: Iterable[int]) -> None:
        """These are not, or no longer."""
        for index in indices:
            if index in self:
                _put(self._bits, index, False)
                self._added.discard(index)
                self._gone.add(index)

    async def save(self, *, soon: bool = False) -> None:
        """Writes what has changed; `soon`: at most once in SAVE_SECONDS (but a first map at once:
        sizes no longer tell). What another tab has written meanwhile stays. Where there is no room,
        or another tab is writing, it is left for the next time.
        """
        if soon and self._is_written:
            await self._pace.soon()
        else:
            await self._pace.now()

    async def _write(self) -> None:
        if not (self._added or self._gone):
            return
        with suppress(StorageError, SourceError):  # the latter: the model was deleted
            written = await self._read(TRIES)
            if written is None and self._is_written:
                await self.load()  # it is gone: the model was imported, say, and sizes tell again
            bits = bytearray(written or self._bits)
            added, gone = set(self._added), set(self._gone)
            for index in added:
                _put(bits, index, True)
            for index in gone:
                _put(bits, index, False)
            data = self._cut + bytes(bits)
            await self._storage.write(HAVE_FILE, 0, self._buffers.from_bytes(data))
            await self._storage.truncate(HAVE_FILE, len(data))
            await self._storage.flush(HAVE_FILE)
            self._is_written = True
            self._added -= added
            self._gone -= gone

    async def _read(self, tries: int) -> bytes | None:
        """The bits in the file; None where there is none, or it is another cut's. Raises
        StorageError where another tab has it open all the while.
        """
        length = DIGEST + len(self._bits)
        for left in reversed(range(tries)):
            try:
                if await self._storage.size(HAVE_FILE) != length:
                    return None
                data = self._buffers.to_bytes(await self._storage.read(HAVE_FILE, 0, length))
                await self._storage.flush(HAVE_FILE)  # lets other tabs write it
                return data[DIGEST:] if data[:DIGEST] == self._cut else None
            except (SourceError, FormatError):  # gone meanwhile, or no file at all
                return None
            except StorageError:
                if not left:
                    raise
                await asyncio.sleep(TRY_SECONDS)
        return None


def _bit(bits: bytes | bytearray, index: int) -> bool:
    return bool(bits[index >> 3] & (0x80 >> (index & 7)))


def _put(bits: bytearray, index: int, value: bool) -> None:
    mask = 0x80 >> (index & 7)
    bits[index >> 3] = bits[index >> 3] | mask if value else bits[index >> 3] & ~mask

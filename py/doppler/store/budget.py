"""Blocks of a model that is larger than what it may take of storage: a file of slots.

A slot has room for one block. Where none is free, what was used longest ago leaves: a block, or a
whole shard that was stored before there was a budget, since the middle of a file cannot be given
back. Only what came from others is kept this way, so that it can be had again.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from contextlib import suppress

from doppler.errors import FormatError, SourceError, StorageError
from doppler.inputs.buffers import Buffers
from doppler.inputs.fields import parse_json
from doppler.store.pace import Pace
from doppler.store.storage import Storage

SLOTS_FILE = "slots.bin"
SAVE_SECONDS = 1.0  # between two writes of the index
INDEX_FILE = "slots.json"  # the block in each slot; a wrong one is found when it is hashed


class Slots:
    """Blocks by slot, the one used longest ago first. `budget` None: none is added."""

    def __init__(
        self, storage: Storage, buffers: Buffers, block_size: int, budget: int | None
    ) -> None:
        self._storage, self._buffers, self.block_size = storage, buffers, block_size
        self.budget = budget
        self._slot_of: OrderedDict[int, int] = OrderedDict()
        self._free = list[int]()
        self._count = 0  # slots in the file
        self._written: list[int | None] | None = None  # to the index
        self._pace = Pace(SAVE_SECONDS, self._write)

    def __contains__(self, index: int) -> bool:
        return index in self._slot_of

    @property
    def blocks(self) -> list[int]:
        """Those that lie here."""
        return list(self._slot_of)

    @property
    def bytes(self) -> int:
        """Of the file."""
        return self._count * self.block_size

    def at(self, index: int) -> int:
        """Where in the file a block begins; it counts as used."""
        self._slot_of.move_to_end(index)
        return self._slot_of[index] * self.block_size

    async def load(self, count: int) -> None:
        """Reads which of a model's `count` blocks are here. Raises StorageError where another tab
        has the index open: all that is here would be taken for free.
        """
        size, listed = 0, list[int | None]()
        with suppress(FormatError):  # a folder of that name
            size, listed = await self._storage.size(SLOTS_FILE) or 0, await self._read_index()
        self._slot_of.clear()
        self._count = -(-size // self.block_size)
        for slot, index in enumerate(listed[: self._count]):
            if index is not None and 0 <= index < count and index not in self._slot_of:
                self._slot_of[index] = slot
        taken = set(self._slot_of.values())
        self._free = [slot for slot in range(self._count) if slot not in taken]

    def room(self, others: int) -> int:
        """Blocks that can be added, where that and `others` bytes are within the budget."""
        left = (self.budget or 0) - others - self.bytes
        return len(self._free) + left // self.block_size if left >= 0 else 0

    def take(self, index: int, others: int) -> int | None:
        """A place for a block, whose bytes the caller writes there: its own, a free one, or one
        more, where that and `others` bytes are within the budget. None: first something has to go.
        """
        if index in self._slot_of:
            return self.at(index)
        if not self._free and others + self.bytes + self.block_size <= (self.budget or 0):
            self._free.append(self._count)
            self._count += 1
        if not self._free:
            return None
        self._slot_of[index] = self._free.pop()
        return self.at(index)

    @property
    def oldest(self) -> int | None:
        """The block that was used longest ago."""
        return next(iter(self._slot_of), None)

    def drop(self, index: int) -> None:
        """A block is here no more."""
        self._free.append(self._slot_of.pop(index))

    async def cut(self) -> list[int]:
        """Shortens the file to the budget; the blocks that were behind it."""
        self._count = min(self._count, (self.budget or 0) // self.block_size)
        beyond = [index for index, slot in self._slot_of.items() if slot >= self._count]
        for index in beyond:
            del self._slot_of[index]
        self._free = [slot for slot in self._free if slot < self._count]
        await self.save()
        await self._storage.truncate(SLOTS_FILE, self.bytes)
        return beyond

    async def save(self, *, soon: bool = False) -> None:
        """Writes which blocks are here; `soon`: at most once in SAVE_SECONDS."""
        await (self._pace.soon() if soon else self._pace.now())

    async def _write(self) -> None:
        listed: list[int | None] = [None] * self._count
        for index, slot in self._slot_of.items():
            listed[slot] = index
        if listed == self._written:
            return
        with suppress(StorageError, SourceError):  # then what is here is not found again
            size = await self._storage.size(INDEX_FILE) or 0
            if not listed and not size:
                return
            # Over what is there, in one piece: a file that was cut short would tell of nothing.
            data = json.dumps({"blocks": listed}).encode().ljust(size)
            await self._storage.write(INDEX_FILE, 0, self._buffers.from_bytes(data))
            await self._storage.flush(INDEX_FILE)
            await self._storage.flush(SLOTS_FILE)
            self._written = listed

    async def remove(self) -> None:
        """Deletes all of it: the model is whole without it."""
        self._slot_of.clear()
        self._free.clear()
        self._count = 0
        self._written = None
        for name in (SLOTS_FILE, INDEX_FILE):
            await self._storage.remove(name)

    async def _read_index(self) -> list[int | None]:
        size = await self._storage.size(INDEX_FILE)
        if not size:
            return []
        with suppress(FormatError, SourceError):  # it is damaged, or gone meanwhile
            data = self._buffers.to_bytes(await self._storage.read(INDEX_FILE, 0, size))
            await self._storage.flush(INDEX_FILE)
            listed = parse_json(data, INDEX_FILE).get("blocks")
            if isinstance(listed, list):
                return [it if type(it) is int else None for it in listed]
        return []

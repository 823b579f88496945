"""Where the blocks of a model or an adapter lie: which file of its cut, and which bytes of it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from doppler.store.sharded import Shard, Sharded
from doppler.store.storage import Piece


@dataclass(frozen=True)
class Place:
    """Where block `index` lies: bytes [start, end) of `shard`."""

    index: int
    shard: Shard
    start: int
    end: int

    @property
    def bytes(self) -> int:
        """Of the block."""
        return self.end - self.start

    def __str__(self) -> str:
        return f"block {self.index} of {self.shard.name}"


class Places:
    """The places of all blocks. Shards are whole numbers of blocks, so that each lies in one."""

    def __init__(self, manifest: Sharded) -> None:
        self.manifest = manifest
        self._offsets = [shard.offset for shard in manifest.shards]

    def __len__(self) -> int:
        return len(self.manifest.blocks)

    def __getitem__(self, index: int) -> Place:
        assert 0 <= index < len(self), f"there is no block {index}"
        offset = index * self.manifest.block_size
        shard = self._shard_at(offset)
        start = offset - shard.offset
        return Place(index, shard, start, min(start + self.manifest.block_size, shard.bytes))

    def of(self, shard: Shard) -> range:
        """The blocks of a shard."""
        size = self.manifest.block_size
        return range(shard.offset // size, -(-(shard.offset + shard.bytes) // size))

    def within(self, start: int, end: int) -> range:
        """The blocks in which bytes start .. end of the byte space lie."""
        size = self.manifest.block_size
        return range(start // size, -(-end // size))

    def runs(self, indices: Sequence[int]) -> list[list[Place]]:
        """Those blocks in the same order, neighbours in one file together."""
        numbered = [(at, self[index]) for at, index in enumerate(indices)]
        groups = groupby(numbered, key=lambda it: (it[1].index - it[0], it[1].shard.name))
        return [[place for _, place in group] for _, group in groups]

    def pieces(self, start: int, end: int) -> Iterator[Piece]:
        """Where bytes start .. end of the byte space lie in shards."""
        while start < end:
            shard = self._shard_at(start)
            count = min(end, shard.offset + shard.bytes) - start
            yield shard.name, start - shard.offset, count
            start += count

    def _shard_at(self, offset: int) -> Shard:
        return self.manifest.shards[bisect_right(self._offsets, offset) - 1]

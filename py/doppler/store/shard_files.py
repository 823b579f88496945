"""Writing a byte space as shard files, with the hashes that a manifest has of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from doppler.inputs.buffers import Buffer, Buffers
from doppler.inputs.source import Progress
from doppler.store.byte_copies import Piece, fill
from doppler.store.manifest import Shard
from doppler.store.storage import Storage


@dataclass(frozen=True)
class Cut:
    """A byte space of `bytes`, in blocks and in files of so many."""

    bytes: int
    block_size: int
    shard_size: int


async def write_shards(
    cut: Cut,
    pieces: Sequence[Piece],
    storage: Storage,
    buffers: Buffers,
    progress: Progress | None = None,
) -> tuple[tuple[str, ...], tuple[Shard, ...]]:
    """Hashes of all blocks, and the files. Memory holds one of these at a time."""
    blocks: list[str] = []
    shards: list[Shard] = []
    for index, start in enumerate(range(0, cut.bytes, cut.shard_size)):
        length = min(cut.shard_size, cut.bytes - start)
        data = buffers.empty(length)
        await fill(data, start, start + length, tuple(pieces), buffers)
        for at in range(0, length, cut.block_size):
            end = min(at + cut.block_size, length)
            blocks.append(buffers.blake3(buffers.part(data, at, end)))
        file = f"shard-{index:05d}.bin"
        await replace_file(storage, file, data, length)
        hashes = buffers.blake3(data), await buffers.sha256(data)
        shards.append(Shard(file, start, length, *hashes))
        if progress:
            progress(start + length, cut.bytes)
    return tuple(blocks), tuple(shards)


async def remove_other_shards(shards: Sequence[Shard], storage: Storage) -> None:
    """Removes shards of an earlier cut, that are not among these."""
    for name in {*await storage.names()} - {shard.name for shard in shards}:
        if name.startswith("shard-"):
            await storage.remove(name)


async def replace_file(storage: Storage, name: str, data: Buffer, length: int) -> None:
    """Writes a whole file, whatever was there."""
    await storage.write(name, 0, data)
    await storage.truncate(name, length)

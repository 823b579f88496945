"""Writing a byte space as shard files, with the hashes that a manifest has of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from doppler.errors import DopplerError
from doppler.inputs.buffers import Buffer, Buffers
from doppler.inputs.source import Progress
from doppler.store.byte_copies import Piece, fill
from doppler.store.cut import SHARD_FILE
from doppler.store.sharded import Shard
from doppler.store.storage import Storage


async def write_shards(
    cut: Sequence[Shard],
    bytes_of: Callable[[Shard], Awaitable[Buffer]],
    storage: Storage,
    buffers: Buffers,
    progress: Progress | None = None,
) -> tuple[Shard, ...]:
    """Writes each file with what `bytes_of` gives for it; the shards with their hashes.

    Memory holds one of these at a time.
    """
    written = list[Shard]()
    for shard in cut:
        written.append(await _write(shard, bytes_of, storage, buffers))
        if progress:
            progress(shard.offset + shard.bytes, cut[-1].offset + cut[-1].bytes)
    return tuple(written)


async def _write(
    shard: Shard,
    bytes_of: Callable[[Shard], Awaitable[Buffer]],
    storage: Storage,
    buffers: Buffers,
) -> Shard:
    data = await bytes_of(shard)
    await replace_file(storage, shard.name, data, shard.bytes)
    return replace(shard, blake3=buffers.blake3(data), sha256=await buffers.sha256(data))


async def write_pieces(
    cut: Sequence[Shard],
    block_size: int,
    pieces: tuple[Piece, ...],
    storage: Storage,
    buffers: Buffers,
    progress: Progress | None = None,
) -> tuple[tuple[str, ...], tuple[Shard, ...]]:
    """Writes a byte space that nobody has hashed yet: the hashes of all blocks, and the shards."""
    blocks = list[str]()

    async def filled(shard: Shard) -> Buffer:
        data = await _bytes_of(pieces, shard.offset, shard.bytes, buffers)
        for start in range(0, shard.bytes, block_size):
            end = min(start + block_size, shard.bytes)
            blocks.append(buffers.blake3(buffers.part(data, start, end)))
        return data

    shards = await write_shards(cut, filled, storage, buffers, progress)
    return tuple(blocks), shards


async def _bytes_of(pieces: tuple[Piece, ...], start: int, length: int, buffers: Buffers) -> Buffer:
    data = buffers.empty(length)
    await fill(data, start, start + length, pieces, buffers)
    return data


async def hash_pieces(
    length: int,
    block_size: int,
    pieces: tuple[Piece, ...],
    buffers: Buffers,
    progress: Progress,
) -> tuple[str, ...]:
    """The hashes of all blocks alone, of a byte space of that length."""
    blocks = list[str]()
    for start in range(0, length, block_size):
        size = min(block_size, length - start)
        blocks.append(buffers.blake3(await _bytes_of(pieces, start, size, buffers)))
        progress(start + size, length)
    return tuple(blocks)


async def write_manifest(
    name: str, text: str, shards: Sequence[Shard], storage: Storage, buffers: Buffers
) -> None:
    """Writes what describes these shards, which are there; then removes those of an earlier cut."""
    data = text.encode()
    await replace_file(storage, name, buffers.from_bytes(data), len(data))
    for file in {*await storage.names()} - {shard.name for shard in shards}:
        if SHARD_FILE.fullmatch(file):
            await storage.remove(file)


async def replace_file(storage: Storage, name: str, data: Buffer, length: int) -> None:
    """Writes a whole file, whatever was there. Where it cannot be written there is none."""
    try:
        await storage.write(name, 0, data)
        await storage.truncate(name, length)
    except DopplerError:
        await storage.remove(name)
        raise

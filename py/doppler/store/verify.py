"""Hashes of a stored model's bytes against its manifest's."""

from __future__ import annotations

from doppler.errors import CorruptError, SourceError
from doppler.inputs.buffers import Buffer, Buffers
from doppler.inputs.source import Progress
from doppler.store.manifest import (
    TOKENIZER_FILE,
    Manifest,
    Shard,
    Sharded,
)
from doppler.store.storage import Storage


async def verify(
    storage: Storage, manifest: Manifest, buffers: Buffers, progress: Progress | None = None
) -> None:
    """Hashes every stored byte. CorruptError names shard and block; SourceError a missing shard."""
    await verify_shards(storage, manifest, buffers, progress)
    await _verify_tokenizer(storage, manifest, buffers)


async def verify_shards(
    storage: Storage,
    manifest: Sharded,
    buffers: Buffers,
    progress: Progress | None = None,
    mend: str = "fetch the model again",
) -> None:
    """The same of the shards alone. `mend` is what a person is told to do."""
    for shard in manifest.shards:
        size = await storage.size(shard.name)
        if size is None:
            raise SourceError(f"{manifest.name}: {shard.name} is missing; {mend}")
        if size != shard.bytes:
            raise CorruptError(
                f"{manifest.name}: {shard.name} has {size} bytes instead of {shard.bytes}; {mend}"
            )
        data = await storage.read(shard.name, 0, shard.bytes)
        _verify_blocks(manifest, shard, data, buffers, mend)
        if await buffers.sha256(data) != shard.sha256 or buffers.blake3(data) != shard.blake3:
            raise CorruptError(
                f"{manifest.name}: the blocks of {shard.name} are right and its own hashes in the "
                "manifest are not; fetch the manifest again"
            )
        if progress:
            progress(shard.offset + shard.bytes, manifest.bytes)


def _verify_blocks(
    manifest: Sharded, shard: Shard, data: Buffer, buffers: Buffers, mend: str
) -> None:
    for start in range(0, shard.bytes, manifest.block_size):
        index = (shard.offset + start) // manifest.block_size
        end = min(start + manifest.block_size, shard.bytes)
        if buffers.blake3(buffers.part(data, start, end)) != manifest.blocks[index]:
            raise CorruptError(
                f"{manifest.name}: block {index} (bytes {start} to {end} of {shard.name}) is "
                f"damaged: its BLAKE3 is not the manifest's; {mend}"
            )


async def _verify_tokenizer(storage: Storage, manifest: Manifest, buffers: Buffers) -> None:
    info = manifest.tokenizer
    if info is None:
        return
    size = await storage.size(TOKENIZER_FILE)
    if size is None:
        raise SourceError(f"{manifest.name}: {TOKENIZER_FILE} is missing; fetch the model again")
    data = await storage.read(TOKENIZER_FILE, 0, size)
    if buffers.blake3(data) != info.blake3:
        raise CorruptError(
            f"{manifest.name}: {TOKENIZER_FILE} is damaged: its BLAKE3 is not the manifest's; "
            "fetch the model again"
        )

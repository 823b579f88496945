"""Hashes of a stored model's bytes against its manifest's."""

from __future__ import annotations

from doppler.errors import CorruptError, SourceError
from doppler.inputs.buffers import Buffer, Buffers
from doppler.inputs.source import Progress
from doppler.store.manifest import (
    TOKENIZER_FILE,
    Manifest,
    Shard,
)
from doppler.store.storage import Storage


async def verify(
    storage: Storage, manifest: Manifest, buffers: Buffers, progress: Progress | None = None
) -> None:
    """Hashes every stored byte. CorruptError names shard and block; SourceError a missing shard."""
    for shard in manifest.shards:
        size = await storage.size(shard.name)
        if size is None:
            raise SourceError(f"{manifest.name}: {shard.name} is missing; fetch the model again")
        if size != shard.bytes:
            raise CorruptError(
                f"{manifest.name}: {shard.name} has {size} bytes instead of {shard.bytes}; "
                "fetch the model again"
            )
        data = await storage.read(shard.name, 0, shard.bytes)
        _verify_blocks(manifest, shard, data, buffers)
        if not await _is_as_hashed(shard, data, buffers):
            raise CorruptError(
                f"{manifest.name}: the blocks of {shard.name} are right and its own hashes in the "
                "manifest are not; fetch the manifest again"
            )
        if progress:
            progress(shard.offset + shard.bytes, manifest.bytes)
    await verified_tokenizer(storage, manifest, buffers)


async def _is_as_hashed(shard: Shard, data: Buffer, buffers: Buffers) -> bool:
    """Whether the file is what those of its hashes say that are known."""
    if shard.blake3 is not None and buffers.blake3(data) != shard.blake3:
        return False
    return shard.sha256 is None or await buffers.sha256(data) == shard.sha256


def _verify_blocks(manifest: Manifest, shard: Shard, data: Buffer, buffers: Buffers) -> None:
    for start in range(0, shard.bytes, manifest.block_size):
        index = (shard.offset + start) // manifest.block_size
        end = min(start + manifest.block_size, shard.bytes)
        if buffers.blake3(buffers.part(data, start, end)) != manifest.blocks[index]:
            raise CorruptError(
                f"{manifest.name}: block {index} (bytes {start} to {end} of {shard.name}) is "
                "damaged: its BLAKE3 is not the manifest's; fetch the model again"
            )


async def verified_tokenizer(
    storage: Storage, manifest: Manifest, buffers: Buffers
) -> Buffer | None:
    """The bytes of tokenizer.json; None where the model has none. Raises as `verify` does."""
    info = manifest.tokenizer
    if info is None:
        return None
    size = await storage.size(TOKENIZER_FILE)
    if size is None:
        raise SourceError(f"{manifest.name}: {TOKENIZER_FILE} is missing; fetch the model again")
    data = await storage.read(TOKENIZER_FILE, 0, size)
    if buffers.blake3(data) != info.blake3:
        raise CorruptError(
            f"{manifest.name}: {TOKENIZER_FILE} is damaged: its BLAKE3 is not the manifest's; "
            "fetch the model again"
        )
    return data

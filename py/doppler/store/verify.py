"""Hashes of a stored model's bytes against its manifest's."""

from __future__ import annotations

from doppler.errors import CorruptError, SourceError
from doppler.inputs.buffers import Buffer, Buffers
from doppler.inputs.source import Progress
from doppler.store.manifest import TOKENIZER_FILE, Manifest
from doppler.store.places import Place, Places
from doppler.store.sharded import Shard, Sharded
from doppler.store.storage import Storage

FETCH_AGAIN = "fetch the model again"


async def verify(
    storage: Storage,
    manifest: Manifest,
    buffers: Buffers,
    progress: Progress | None = None,
    where: str = "",
) -> None:
    """Hashes every stored byte. CorruptError names shard and block; SourceError a missing shard.

    `where` is what messages call the model: its name, if nothing else is given.
    """
    await verify_shards(storage, manifest, buffers, progress, where=where)
    await verified_tokenizer(storage, manifest, buffers, where)


async def verify_shards(
    storage: Storage,
    manifest: Sharded,
    buffers: Buffers,
    progress: Progress | None = None,
    mend: str = FETCH_AGAIN,
    where: str = "",
) -> None:
    """The same of the shards alone. `mend` is what a person is told to do."""
    places, where = Places(manifest), where or manifest.name
    for shard in manifest.shards:
        size = await storage.size(shard.name)
        if size is None:
            raise SourceError(f"{where}: {shard.name} is missing; {mend}")
        if size != shard.bytes:
            raise CorruptError(
                f"{where}: {shard.name} has {size} bytes instead of {shard.bytes}; {mend}"
            )
        data = await storage.read(shard.name, 0, shard.bytes)
        for index in places.of(shard):
            place = places[index]
            block = buffers.part(data, place.start, place.end)
            verify_block(manifest, place, block, buffers, mend, where)
        if not await _is_as_hashed(shard, data, buffers):
            raise CorruptError(
                f"{where}: the blocks of {shard.name} are right and its own hashes in the "
                "manifest are not; fetch the manifest again"
            )
        if progress:
            progress(shard.offset + shard.bytes, manifest.bytes)


def verify_block(
    manifest: Sharded,
    place: Place,
    block: Buffer,
    buffers: Buffers,
    mend: str = FETCH_AGAIN,
    where: str = "",
) -> None:
    """Raises CorruptError, which names the block, where it is not what the manifest says."""
    if buffers.blake3(block) != manifest.blocks[place.index]:
        raise CorruptError(
            f"{where or manifest.name}: {place} (bytes {place.start} to {place.end}) is damaged: "
            f"its BLAKE3 is not the manifest's; {mend}"
        )


async def _is_as_hashed(shard: Shard, data: Buffer, buffers: Buffers) -> bool:
    """Whether the file is what those of its hashes say that are known."""
    if shard.blake3 is not None and buffers.blake3(data) != shard.blake3:
        return False
    return shard.sha256 is None or await buffers.sha256(data) == shard.sha256


async def verified_tokenizer(
    storage: Storage, manifest: Manifest, buffers: Buffers, where: str = ""
) -> Buffer | None:
    """The bytes of tokenizer.json; None where the model has none. Raises as `verify` does."""
    info = manifest.tokenizer
    if info is None:
        return None
    where = where or manifest.name
    size = await storage.size(TOKENIZER_FILE)
    if size is None:
        raise SourceError(f"{where}: {TOKENIZER_FILE} is missing; {FETCH_AGAIN}")
    data = await storage.read(TOKENIZER_FILE, 0, size)
    if buffers.blake3(data) != info.blake3:
        raise CorruptError(
            f"{where}: {TOKENIZER_FILE} is damaged: its BLAKE3 is not the manifest's; {FETCH_AGAIN}"
        )
    return data

"""A stored model in another cut: the same bytes in other files, every block verified on the way."""

from __future__ import annotations

from dataclasses import replace

from doppler.errors import CorruptError, SourceError
from doppler.inputs.buffers import Buffer, Buffers
from doppler.inputs.source import Progress
from doppler.store.cut import recut
from doppler.store.manifest import MANIFEST_FILE, TOKENIZER_FILE, Manifest, Shard
from doppler.store.places import Places
from doppler.store.storage import Storage
from doppler.store.verify import verified_tokenizer


async def rewrite(
    source: Storage,
    target: Storage,
    manifest: Manifest,
    shard_bytes: int,
    buffers: Buffers,
    progress: Progress,
) -> Manifest:
    """Writes the model of `source` into `target`, in shards of that size; its new manifest.

    The manifest is written last, so that none describes shards that are not there yet. Raises
    CorruptError and SourceError, which name the file, where the model is damaged or not whole.
    """
    cut, places = recut(manifest, shard_bytes), Places(manifest)
    await target.remove(MANIFEST_FILE)
    shards = list[Shard]()
    for shard in cut.shards:
        data = await _gathered(source, places, shard, buffers)
        await _replace(target, shard.name, data, shard.bytes)
        sha256 = await buffers.sha256(data)
        shards.append(replace(shard, blake3=buffers.blake3(data), sha256=sha256))
        progress(shard.offset + shard.bytes, cut.bytes)
    tokenizer = await verified_tokenizer(source, manifest, buffers)
    if tokenizer is None:
        await target.remove(TOKENIZER_FILE)
    else:
        await _replace(target, TOKENIZER_FILE, tokenizer, buffers.length(tokenizer))
    cut = replace(cut, shards=tuple(shards))
    text = cut.to_json().encode()
    await _replace(target, MANIFEST_FILE, buffers.from_bytes(text), len(text))
    for name in set(await target.names()) - {shard.name for shard in cut.shards}:
        if name.startswith("shard-"):  # of an earlier cut
            await target.remove(name)
    return cut


async def _gathered(source: Storage, places: Places, shard: Shard, buffers: Buffers) -> Buffer:
    """The bytes of a shard of the new cut, from the files of the old one."""
    manifest, data = places.manifest, buffers.empty(shard.bytes)
    for index in places.of(shard):
        place = places[index]
        try:
            block = await source.read(place.shard.name, place.start, place.bytes)
        except SourceError as error:
            raise SourceError(f"{manifest.name}: {error}; fetch the model again") from error
        if buffers.blake3(block) != manifest.blocks[index]:
            raise CorruptError(
                f"{manifest.name}: {place} (bytes {place.start} to {place.end}) is damaged: its "
                "BLAKE3 is not the manifest's; fetch the model again"
            )
        buffers.put(data, index * manifest.block_size - shard.offset, block)
    return data


async def _replace(storage: Storage, name: str, data: Buffer, length: int) -> None:
    await storage.write(name, 0, data)
    await storage.truncate(name, length)

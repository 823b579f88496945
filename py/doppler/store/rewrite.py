"""A stored model in another cut: the same bytes in other files, every block verified on the way."""

from __future__ import annotations

from dataclasses import replace

from doppler.errors import SourceError
from doppler.inputs.buffers import Buffer, Buffers
from doppler.inputs.source import Progress
from doppler.store.cut import recut
from doppler.store.manifest import MANIFEST_FILE, TOKENIZER_FILE, Manifest
from doppler.store.places import Places
from doppler.store.shard_files import replace_file, write_manifest, write_shards
from doppler.store.sharded import Shard
from doppler.store.storage import Storage
from doppler.store.verify import FETCH_AGAIN, verified_tokenizer, verify_block


async def rewrite(
    source: Storage,
    target: Storage,
    manifest: Manifest,
    shard_bytes: int,
    buffers: Buffers,
    progress: Progress,
    where: str,
) -> Manifest:
    """Writes the model of `source` into `target`, in shards of that size; its new manifest. `where`
    is what messages call the model.

    The manifest is written last, so that none describes shards that are not there yet. Raises
    CorruptError and SourceError, which name the file, where the model is damaged or not whole.
    """
    cut, places = recut(manifest, shard_bytes), Places(manifest)
    await target.remove(MANIFEST_FILE)

    async def gathered(shard: Shard) -> Buffer:
        """The bytes of a shard of the new cut, from the files of the old one."""
        data = buffers.empty(shard.bytes)
        for index in places.of(shard):
            place = places[index]
            try:
                block = await source.read(place.shard.name, place.start, place.bytes)
            except SourceError as error:
                raise SourceError(f"{error}; {FETCH_AGAIN}") from error
            verify_block(manifest, place, block, buffers, where=where)
            buffers.put(data, index * manifest.block_size - shard.offset, block)
        return data

    shards = await write_shards(cut.shards, gathered, target, buffers, progress)
    tokenizer = await verified_tokenizer(source, manifest, buffers, where)
    if tokenizer is None:
        await target.remove(TOKENIZER_FILE)
    else:
        await replace_file(target, TOKENIZER_FILE, tokenizer, buffers.length(tokenizer))
    cut = replace(cut, shards=shards)
    await write_manifest(MANIFEST_FILE, cut.to_json(), shards, target, buffers)
    return cut

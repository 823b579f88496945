"""The cut of a model into shard files, which is no part of what it is."""

from __future__ import annotations

import re
from dataclasses import replace

from doppler.errors import RequestError
from doppler.store.manifest import Manifest
from doppler.store.sharded import Shard

SHARD_FILE = re.compile(r"shard-[0-9]{5,}\.bin")


def cut_of(length: int, block_size: int, shard_bytes: int) -> tuple[Shard, ...]:
    """A byte space of `length` in files of that many bytes, which nobody has hashed yet.

    The last may be shorter. Raises RequestError where shards would end within blocks.
    """
    if shard_bytes <= 0 or shard_bytes % block_size:
        raise RequestError(
            f"a shard size of {shard_bytes} is no multiple of the block size {block_size}: take "
            "one such as 4M, which is 4 × 1048576 bytes (4MB is 4 × 1000000)"
        )
    return tuple(
        Shard(f"shard-{index:05d}.bin", offset, min(shard_bytes, length - offset), None, None)
        for index, offset in enumerate(range(0, length, shard_bytes))
    )


def recut(manifest: Manifest, shard_bytes: int) -> Manifest:
    """The same model, of the same identity, in shards of that many bytes; the last may be shorter.

    The BLAKE3 of a file does not follow from those of its blocks, each of which is one of its own:
    a shard's hashes are known where the old cut has the same shard, and None else. Raises
    RequestError where shards would end within blocks.
    """
    cut = cut_of(manifest.bytes, manifest.block_size, shard_bytes)
    known = {(it.offset, it.bytes): it for it in manifest.shards}
    if [(it.offset, it.bytes) for it in cut] == list(known):
        return manifest
    shards = list[Shard]()
    for shard in cut:
        old = known.get((shard.offset, shard.bytes), shard)
        shards.append(replace(shard, blake3=old.blake3, sha256=old.sha256))
    return replace(manifest, shards=tuple(shards))


def cut_to_store(
    comes: Manifest, stored: Manifest | None, has_shards: bool, shard_bytes: int | None
) -> Manifest:
    """A model that comes from elsewhere, in the cut that it is to be stored in: what is asked for,
    else as it is stored, else as it comes.

    has_shards: whether something of it lies in shards already. They stay as they are: RequestError
    where another cut is asked for.
    """
    if shard_bytes is not None:
        wanted = recut(comes, shard_bytes)
        if stored is not None and has_shards and not is_same_cut(stored, wanted):
            raise RequestError(
                f"{comes.title} is stored in shards of {stored.shards[0].bytes} bytes, and "
                f"{shard_bytes} are asked for: leave shard_bytes out to go on with what is stored, "
                "or delete the model first"
            )
        return wanted
    return comes if stored is None or is_same_cut(stored, comes) else stored


def is_same_cut(one: Manifest, other: Manifest) -> bool:
    """Whether two manifests of a model have shards of the same names and ranges."""
    return _files(one) == _files(other)


def _files(manifest: Manifest) -> list[tuple[str, int, int]]:
    return [(it.name, it.offset, it.bytes) for it in manifest.shards]

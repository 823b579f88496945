"""Shard files that a person has: on a disk, on a stick. Their hashes say whether they are good."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncGenerator, Mapping, Sequence

from doppler.errors import SourceError
from doppler.inputs.buffers import Buffer
from doppler.inputs.source import Source
from doppler.store.manifest import Manifest
from doppler.store.places import Place, Places
from doppler.store.sources.source import Urgency

RUN_BYTES = 4 << 20  # of a file, read at once


class FileShards:
    """Files by name, which are taken for the shards of `cut`: the model's own cut or another."""

    at_once, in_order = 1, True

    def __init__(
        self, cut: Manifest, files: Mapping[str, Source], sizes: Mapping[str, int]
    ) -> None:
        self._places, self._files, self._sizes = Places(cut), files, sizes
        self._bad = defaultdict[str, set[int]](set)  # blocks that are not what they should be
        self._unread = dict[str, str]()  # files, and why

    @classmethod
    async def among(cls, files: Mapping[str, Source], cut: Manifest) -> FileShards:
        """Those of the files that are named as shards of the cut are."""
        named = {it.name: files[it.name] for it in cut.shards if it.name in files}
        return cls(cut, named, {name: await file.size() for name, file in named.items()})

    @property
    def names(self) -> list[str]:
        """The files that are taken for shards."""
        return list(self._files)

    def where(self, place: Place) -> str:
        return f"the file {self._places[place.index].shard.name} that was picked"

    def has(self, index: int) -> bool:
        own = self._places[index]
        name = own.shard.name
        is_there = name not in self._unread and own.end <= self._sizes.get(name, 0)
        return is_there and index not in self._bad[name]

    async def fetch(
        self, places: Sequence[Place], urgency: Urgency
    ) -> AsyncGenerator[tuple[int, Buffer], None]:
        """Blocks of about RUN_BYTES together at a time. Of a file that cannot be read, nothing more
        is given.
        """
        most = max(RUN_BYTES // self._places.manifest.block_size, 1)
        for run in self._places.runs([place.index for place in places]):
            name = run[0].shard.name
            for first in range(0, len(run), most):
                some = run[first : first + most]
                start, end = some[0].start, some[-1].end
                try:
                    data = await self._files[name].read(start, end - start)
                except SourceError as error:
                    self._unread[name] = str(error)
                    raise
                yield some[0].index, data

    def hurry(self, index: int, urgency: Urgency) -> None:
        """It comes in its turn."""

    def blame(self, index: int) -> bool:
        """Reading again would give the same."""
        self._bad[self._places[index].shard.name].add(index)
        return False

    def problems(self) -> dict[str, str]:
        """What is wrong with files, as far as they were read."""
        told = dict[str, str]()
        for shard in self._places.manifest.shards:
            size, bad = self._sizes.get(shard.name), self._bad[shard.name]
            if size is None:
                continue
            if shard.name in self._unread:
                told[shard.name] = self._unread[shard.name]
            elif bad:
                told[shard.name] = (
                    f"{len(bad)} of its {len(self._places.of(shard))} blocks are not the "
                    "manifest's: it is damaged, of another model, or of another cut, whose "
                    "manifest.json has to be picked with it"
                )
            elif size < shard.bytes:
                told[shard.name] = f"it is cut off: it has {size:,} bytes of {shard.bytes:,}"
            elif size > shard.bytes:
                told[shard.name] = f"it has {size:,} bytes, and the shard {shard.bytes:,}"
        return told

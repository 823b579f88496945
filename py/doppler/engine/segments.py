"""What is kept of a conversation's KV cache: a folder of segments, each of some ids in a row.

A segment has the rows of its own positions (planes.py), so that an answer adds one and rewrites
none. Its file is the rows, in chunks, and behind them what it is: JSON, its length, its BLAKE3.
That is written last: a file that was not written whole has none, and nothing is used whose BLAKE3
is another than was written down.
"""

from __future__ import annotations

import hashlib
import json
import re
from array import array
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import takewhile

from doppler.engine.planes import Plane
from doppler.errors import CorruptError, DopplerError, SourceError, StorageError
from doppler.inputs.buffers import Buffer, Buffers
from doppler.store.storage import Storage

CHUNK = 4 << 20  # bytes
TAIL = 4 + 32  # length and BLAKE3 of what a segment says of itself
MOST_ABOUT = 16 << 20  # bytes of that
NAME = re.compile(r"(\d{1,9})-(\d{1,9})")


@dataclass(frozen=True)
class Segment:
    """ids of positions start .. end, and of which of them each plane's rows are here."""

    layout: str  # of the cache that it was taken from
    before: str  # digest of the ids before
    start: int
    ids: list[int]
    firsts: list[int]  # the first position whose rows are here, by plane; the last is end - 1
    digests: list[str] = field(default_factory=list)  # BLAKE3 of each chunk

    @property
    def end(self) -> int:
        return self.start + len(self.ids)

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.start}-{self.end}"


@dataclass(frozen=True)
class Restorable:
    """Ids up to `end` can be restored of these segments; rows of planes from `lows` on."""

    segments: list[Segment]
    end: int
    lows: list[int]


def digest_of(ids: Sequence[int]) -> str:
    """Of ids that come before a segment."""
    return hashlib.sha256(array("I", ids).tobytes()).hexdigest()


def shared(some: Sequence[int], others: Sequence[int]) -> int:
    """How many ids both begin with."""
    pairs = zip(some, others, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def restorable(
    chain: Sequence[Segment], planes: Sequence[Plane], ids: Sequence[int], only_ends: bool
) -> Restorable | None:
    """The most of `ids` that these segments have, such that every token behind finds what it sees.

    only_ends: of a model with a state, which is kept after the last id of each segment.
    """
    most = shared([token for it in chain for token in it.ids], ids)
    ends = {it.end for it in chain if it.end <= most}
    for end in sorted(ends if only_ends else ends | {most}, reverse=True):
        used = [it for it in chain if it.start < end]
        lows = [_low(plane, used, at, end) for at, plane in enumerate(planes)]
        seen = [max(end - plane.window + 1, 0) if plane.window else 0 for plane in planes]
        if end and all(low <= first for low, first in zip(lows, seen, strict=True)):
            return Restorable(used, end, lows)
    return None


def _low(plane: Plane, segments: Sequence[Segment], at: int, end: int) -> int:
    """From where on a plane's rows are there, without a gap, and have room in its ring."""
    low = end
    for segment in reversed(segments):
        low = min(low, segment.firsts[at])
        if segment.firsts[at] > segment.start:
            break
    return max(low, end - plane.capacity)


class SegmentFolder:
    """The segments of one conversation with one model, in a folder of its own."""

    def __init__(self, storage: Storage, buffers: Buffers) -> None:
        self._storage, self._buffers = storage, buffers

    async def chain(self, layout: str) -> list[Segment]:
        """Segments from the first id on, each behind the one before it. Others are of no use, and
        are removed: what was not written whole, or was taken of another layout of the cache. What
        another tab is writing, or one that was just closed, ends the chain, and stays.
        """
        found: list[Segment] = []
        ids: list[int] = []
        names = {name: NAME.fullmatch(name) for name in await self._storage.names()}
        for name in sorted(names, key=lambda name: (_start(name), name)):
            try:
                segment = await self._read(name) if names[name] else None
            except StorageError:
                break
            if segment and (segment.layout, segment.before) == (layout, digest_of(ids)):
                found.append(segment)
                ids += segment.ids
            else:
                await self.remove(name)
        return found

    async def chunk(self, segment: Segment, index: int, size: int) -> Buffer:
        """One of its chunks, which have `size` bytes together.

        Raises CorruptError where it is not as it was written.
        """
        at = index * CHUNK
        data = await self._storage.read(segment.name, at, min(CHUNK, size - at))
        if self._buffers.blake3(data) != segment.digests[index]:
            raise CorruptError(
                f"kept keys and values {segment.name}, chunk {index}: their BLAKE3 is another one; "
                "they are computed again"
            )
        return data

    async def size(self) -> int:
        """Bytes of all."""
        sizes = [await self._storage.size(name) for name in await self._storage.names()]
        return sum(size or 0 for size in sizes)

    async def begin(self, segment: Segment) -> None:
        """Its file is made, and empty."""
        await self._storage.truncate(segment.name, 0)

    async def write(self, segment: Segment, at: int, data: Buffer) -> None:
        """Adds a chunk. Raises StorageError where there is no room."""
        segment.digests.append(self._buffers.blake3(data))
        await self._storage.write(segment.name, at, data)

    async def end(self, segment: Segment, size: int) -> None:
        """After all chunks, `size` bytes: now it counts."""
        about = json.dumps(asdict(segment)).encode()
        tail = len(about).to_bytes(4, "little") + bytes.fromhex(self._digest(about))
        await self._storage.write(segment.name, size, self._buffers.from_bytes(about + tail))
        await self._storage.flush(segment.name)

    async def remove(self, name: str) -> None:
        """Removes a file, unless another tab is writing it."""
        with suppress(DopplerError):
            await self._storage.remove(name)

    async def _read(self, name: str) -> Segment | None:
        """What a file says of itself; None where that is not as it was written."""
        size = await self._storage.size(name) or 0
        try:
            tail = await self._bytes(name, size - TAIL, TAIL)
            length = int.from_bytes(tail[:4], "little")
            if not 0 < length <= min(MOST_ABOUT, size - TAIL):
                return None
            about = await self._bytes(name, size - TAIL - length, length)
        except (SourceError, ValueError):  # shorter than that
            return None
        if bytes.fromhex(self._digest(about)) != tail[4:]:
            return None
        try:
            segment = Segment(**json.loads(about))
        except TypeError:  # of another version of this program
            return None
        return segment if segment.name == name else None

    async def _bytes(self, name: str, at: int, length: int) -> bytes:
        if at < 0:
            raise ValueError
        return self._buffers.to_bytes(await self._storage.read(name, at, length))

    def _digest(self, data: bytes) -> str:
        return self._buffers.blake3(self._buffers.from_bytes(data))


def _start(name: str) -> int:
    """By what files are sorted; others than segments come first."""
    found = NAME.fullmatch(name)
    return int(found[1]) if found else -1

"""Saves what one engine's KV cache holds, and restores it: bytes of the GPU <-> segments.py.

They never enter Python's memory. What is saved was run: nothing of it is changed by what is queued
behind it, and a request that begins meanwhile ends the saving.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile

from doppler.engine.layout_code import code_digest
from doppler.engine.planes import in_chunks, moves_of, planes_of
from doppler.engine.prefix_cache import PrefixCache
from doppler.engine.segments import (
    CHUNK,
    Restorable,
    Segment,
    SegmentFolder,
    digest_of,
    restorable,
    shared,
)
from doppler.errors import CorruptError, SourceError
from doppler.gpu.binder import Binder
from doppler.plan.bindings import RecurrentState
from doppler.plan.layer import PlannedModel

LEAST = 256  # ids that are worth a file: fewer are computed as soon as they are read
LEAST_MORE = 32  # by which what is kept, or what is restored, must be longer than what is there


class KeptCache:
    """Of an engine's one KV cache. Calls must not overlap, nor `restore` with a generation."""

    def __init__(self, binder: Binder, model: PlannedModel, cache: PrefixCache) -> None:
        self._binder, self._model, self._cache = binder, model, cache
        self._layout = model.layout
        self._planes = planes_of(model.layout)

    def layout_name(self) -> str:
        """Changes with whatever changes the bytes of a position, also with the kernels and with the
        code that says what lies where; it does not with room for more positions, unless these are
        rotated otherwise then.
        """
        layout, config = self._layout, self._layout.config
        frequencies = [
            rope.inverse_frequencies(config.rope_dim(index), layout.context)
            for index, rope in enumerate(config.ropes)
        ]
        about = {
            "planes": [(it.layer, it.kind, it.heads, it.row) for it in self._planes],
            "states": [(index, it.whole.size) for index, it in layout.recurrent.items()],
            "kept as": layout.kv,
            "computed in": "f16" if self._model.adapter.half else "f32",
            "frequencies": frequencies,
            "kernels": self._binder.device.kernels.digest(),
            "code": code_digest(),
            "chunk": CHUNK,
        }
        return hashlib.sha256(json.dumps(about).encode()).hexdigest()

    @property
    def has_enough(self) -> bool:
        """Whether so much is cached that it is worth to be kept."""
        return self._cache.savable >= LEAST

    async def save(self, folder: SegmentFolder, most: int, asked: int = 0) -> bool:
        """Adds what is not kept yet; whether that was worth it. The folder has `most` bytes then.

        asked: ids of the prompt. They get a segment of their own: what follows it may be another
        answer, or the same one without what was thought before it.

        It ends, and leaves no half, when the cache changes. Raises StorageError, too.
        """
        self._cache.settle()
        if not self.has_enough:
            return False
        ids = list(self._cache.ids[: self._cache.savable])
        unchanged = self._unchanged()
        chain, kept = await self._kept(folder, ids)
        begun = kept
        for end in (min(asked, len(ids)), len(ids)):
            if end - kept < LEAST_MORE or not unchanged():
                continue
            segment = self._segment(ids[:end], kept)
            if self._is_of_use([*chain, segment]):
                if not await self._write(folder, segment, most, unchanged):
                    break
                chain.append(segment)
                kept = end
        return kept > begun

    def _is_of_use(self, chain: Sequence[Segment]) -> bool:
        """Whether a prompt could go on where it ends: rings may have lost rows that are seen from
        there, and a state is that of all ids.
        """
        ids, is_recurrent = [token for it in chain for token in it.ids], self._cache.is_recurrent
        if is_recurrent and len(ids) < self._cache.savable:
            return False
        found = restorable(chain, self._planes, ids, is_recurrent)
        return found is not None and found.end == len(ids)

    async def _write(
        self, folder: SegmentFolder, segment: Segment, most: int, unchanged: Callable[[], bool]
    ) -> bool:
        """Whether it was written; all of it is, or nothing."""
        firsts, end = segment.firsts, segment.end
        moves, size = moves_of(self._planes, firsts, end, firsts, end, self._state())
        if size > most - await folder.size():
            return False
        try:
            await folder.begin(segment)
            for index, chunk in in_chunks(moves, CHUNK).items():
                if not unchanged():
                    await folder.remove(segment.name)
                    return False
                data = await self._binder.start_gather([move.view for move in chunk])
                await folder.write(segment, index * CHUNK, data)
            await folder.end(segment, size)
        except BaseException:
            await folder.remove(segment.name)
            raise
        return True

    async def restore(
        self, folder: SegmentFolder, ids: Sequence[int], stopped: Callable[[], bool]
    ) -> None:
        """Puts as much of a prompt's beginning into the cache as is kept, where that is more than
        what is there. What is damaged is removed, and not used.

        stopped: whether nobody wants it any more.
        """
        name, damaged = self.layout_name(), set[str]()
        while True:
            chain = await folder.chain(name)
            chain = [*takewhile(lambda it: it.name not in damaged, chain)]
            found = restorable(chain, self._planes, ids[:-1], self._cache.is_recurrent)
            least = max(LEAST, self._cache.reusable(ids) + LEAST_MORE)
            if found is None or found.end < least or found.end >= self._layout.context:
                return
            segment = await self._hold(folder, found, ids, stopped)
            if segment is None:
                return
            await folder.remove(segment.name)
            damaged.add(segment.name)  # which another tab may be reading: then it stays

    async def _kept(self, folder: SegmentFolder, ids: list[int]) -> tuple[list[Segment], int]:
        """The segments of the ids, and how many of these they have; those of another course are
        removed.
        """
        at, chain = 0, await folder.chain(self.layout_name())
        for index, segment in enumerate(chain):
            same = shared(segment.ids, ids[at:])
            if at + same == len(ids):
                return chain[: index + 1], len(ids)
            if same < len(segment.ids):
                for other in chain[index:]:
                    await folder.remove(other.name)
                return chain[:index], at
            at = segment.end
        return chain, at

    def _segment(self, ids: list[int], start: int) -> Segment:
        """That of the ids from `start` on, with what rings have not overwritten of their rows."""
        first = [self._cache.first(it.window, it.capacity) for it in self._planes]
        firsts = [min(max(start, position), len(ids)) for position in first]
        return Segment(self.layout_name(), digest_of(ids[:start]), start, ids[start:], firsts)

    def _state(self) -> Mapping[int, RecurrentState]:
        """The last checkpoint of the state, where there is one."""
        slot = self._cache.checkpoint
        return {} if slot is None else self._layout.checkpoints[slot]

    async def _hold(
        self,
        folder: SegmentFolder,
        found: Restorable,
        ids: Sequence[int],
        stopped: Callable[[], bool],
    ) -> Segment | None:
        """Fills the cache; it is empty where that fails. -> the segment that is damaged."""
        pairs = zip(self._planes, found.lows, strict=True)
        lows = {plane.window: low for plane, low in sorted(pairs, key=lambda pair: pair[1])}
        self._cache.hold(ids[: found.end], lows)
        is_whole = False
        try:
            for segment in found.segments:
                try:
                    if not await self._upload(folder, segment, found, stopped):
                        return None
                except (CorruptError, SourceError):
                    return segment
            is_whole = True
            return None
        finally:
            if not is_whole:
                self._cache.cut(0)

    async def _upload(
        self,
        folder: SegmentFolder,
        segment: Segment,
        found: Restorable,
        stopped: Callable[[], bool],
    ) -> bool:
        """Writes what is wanted of a segment; False where it was stopped on the way."""
        moves, size = moves_of(
            self._planes, segment.firsts, segment.end, found.lows, found.end, self._state()
        )
        for index, chunk in in_chunks(moves, CHUNK).items():
            if stopped():
                return False
            data = await folder.chunk(segment, index, size)
            for move in chunk:
                self._binder.upload(move.view, data, move.at - index * CHUNK)
        return True

    def _unchanged(self) -> Callable[[], bool]:
        """Whether the cache is as it is now."""
        changes = self._cache.changes
        return lambda: self._cache.changes == changes

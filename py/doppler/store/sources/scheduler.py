"""Which source is asked for which blocks, and when. What leaves here is verified.

Blocks that a token waits for go first, then those that a load or the next layer waits for, then
what is only to be stored. Neighbours are asked for together, up to a whole shard, of several
sources side by side. Who is late, fails or sends a wrong block is overtaken by the others: a block
is given up only when nobody can give it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing

from doppler.errors import SourceError, StorageError
from doppler.inputs.buffers import Buffer, Buffers
from doppler.store.places import Place, Places
from doppler.store.sources.book import Book
from doppler.store.sources.source import URGENCIES, Keep, ShardSource, Took, Urgency
from doppler.store.sources.standing import Standing, wrong
from doppler.store.sources.wanted import Batch, Run, Wanted

# Seconds without a block after which a request's blocks are asked of others, too.
LATE: Mapping[Urgency, float] = {"now": 2.0, "soon": 5.0, "idle": 15.0}
PATIENCE = 30.0  # seconds for which somebody waits for a block that no source has now


class Scheduler:
    """Sources of one model's blocks. `took` hears of every verified block that came."""

    def __init__(self, places: Places, buffers: Buffers, keep: Keep) -> None:
        self._places, self._buffers, self._keep = places, buffers, keep
        self._book = Book(places)
        self.took: Took = lambda source, indices, stored: None

    @property
    def sources(self) -> list[ShardSource]:
        """All of them."""
        return list(self._book.standings)

    @property
    def is_busy(self) -> bool:
        """Whether somebody waits for a block."""
        return bool(self._book.wanted)

    def wants(self, index: int) -> bool:
        """Whether somebody waits for this one."""
        return index in self._book.wanted

    def add(self, source: ShardSource) -> None:
        """One more source."""
        self._book.standings.setdefault(source, Standing())
        self.look()

    def drop(self, source: ShardSource) -> None:
        """One source less: what it was asked for is asked of others."""
        if self._book.standings.pop(source, None) is None:
            return
        error = SourceError("the peers that this model came from are not connected any more")
        for run in [run for run in self._book.runs if run.source is source]:
            self._end(run, error)
            run.end()
        for index in list(self._book.wanted):
            self._settle(index, error)
        self.look()

    def forgive(self) -> None:
        """A person tries again: what was wrong with a source may have been mended."""
        for standing in self._book.standings.values():
            standing.forgive()

    async def get(self, indices: Sequence[int], urgency: Urgency) -> dict[int, Buffer]:
        """Those blocks, verified; they are stored too if there is room.

        Raises CorruptError where all that is sent is wrong, SourceError where nobody can give one.
        """
        batch = Batch(indices, urgency)
        await self._await(batch, PATIENCE)
        return batch.found

    async def store(self, indices: Sequence[int], told: Callable[[int], None]) -> None:
        """Gets blocks into storage, which takes as long as it takes; `told` is called with the
        bytes of each. Raises what `get` does, and StorageError where there is no room.
        """
        await self._await(Batch(indices, "idle", told), None)

    async def offer(self, source: ShardSource, index: int, data: Buffer) -> Exception | None:
        """A block that a source sends, or several in a row, asked for or not. What kept good ones
        from being stored, if something did.
        """
        wanted = self._book.wanted.get(index)
        for run in wanted.runs if wanted is not None else []:
            if run.source is source:
                self._watch(run, LATE[run.urgency])
        return await self._arrived(source, index, data)

    def look(self) -> None:
        """Asks sources for what is wanted: call it where what they have has changed."""
        now = _now()
        for urgency in URGENCIES:
            for source in self._book.ranked(now):
                while run := self._book.pick(source, urgency, now):
                    self._start(run)

    async def _await(self, batch: Batch, patience: float | None) -> None:
        if not batch.left:
            return
        for index in sorted(batch.left):
            self._want(index, batch)
        self.look()
        try:
            while not (await asyncio.wait({batch.done}, timeout=patience))[0]:
                self._give_up(batch)
            batch.done.result()
        finally:
            self._leave(batch)

    def _want(self, index: int, batch: Batch) -> None:
        wanted = self._book.wanted.get(index)
        if wanted is None:
            wanted = self._book.wanted[index] = Wanted(self._places[index], batch.urgency, [batch])
            self._settle(index, None)
            return
        wanted.batches.append(batch)
        if URGENCIES.index(batch.urgency) < URGENCIES.index(wanted.urgency):
            wanted.urgency = batch.urgency
            if not wanted.runs or index in self._book.waiting:
                self._book.waiting.add(wanted)
            for run in list(wanted.runs):
                self._hurry(run, wanted)

    def _hurry(self, run: Run, wanted: Wanted) -> None:
        """A block is needed sooner than the request that it is in the midst of gets to it: what is
        behind it there is asked for anew.
        """
        index = wanted.place.index
        if not run.source.in_order:
            run.source.hurry(index, wanted.urgency)
        elif index > min(run.left):
            for other in sorted(it for it in run.left if it >= index):
                run.left.discard(other)
                self._book.wanted[other].runs.remove(run)
                self._settle(other, None)
            return
        self._watch(run, LATE[wanted.urgency])

    def _leave(self, batch: Batch) -> None:
        """Nobody waits for what is left of it."""
        for index in batch.left:
            wanted = self._book.wanted.get(index)
            if wanted is None or batch not in wanted.batches:
                continue
            wanted.batches.remove(batch)
            if not wanted.batches:
                self._forget(wanted)
        self.look()

    def _forget(self, wanted: Wanted) -> None:
        index = wanted.place.index
        del self._book.wanted[index]
        self._book.waiting.remove(index)
        for run in wanted.runs:
            run.left.discard(index)
            if not run.left and run.task is not asyncio.current_task():
                run.end()

    def _give_up(self, batch: Batch) -> None:
        """Ends a wait for what no source has."""
        lost = next((it for it in sorted(batch.left) if self._book.is_nowhere(it)), None)
        if lost is not None:
            batch.fail(
                SourceError(
                    f"{self._places[lost]} is with none of the peers that are connected, and there "
                    "is no address to get it from: wait for a peer that has it, and try again"
                )
            )

    def _start(self, run: Run) -> None:
        for index in run.left:
            self._book.waiting.remove(index)
            self._book.wanted[index].runs.append(run)
        self._book.runs.append(run)
        run.task = asyncio.ensure_future(self._fetch(run))
        self._watch(run, LATE[run.urgency])

    async def _fetch(self, run: Run) -> None:
        error: Exception | None = None
        try:
            async with aclosing(run.source.fetch(run.places, run.urgency)) as pieces:
                async for first, data in pieces:
                    self._watch(run, LATE[run.urgency])
                    await self._arrived(run.source, first, data)
                    if not run.left:
                        return
            error = SourceError(f"{run.places[0]} from {_where(run)}: nothing came; try again")
        except Exception as failure:  # whoever waits is told, of our own mistakes too
            error = failure
        finally:
            self._end(run, error)
            self.look()

    def _end(self, run: Run, error: Exception | None) -> None:
        """What a request has not brought is asked of others."""
        if run not in self._book.runs:
            return
        self._book.runs.remove(run)
        if run.timer is not None:
            run.timer.cancel()
        standing = self._book.standings.get(run.source)
        if error is not None and run.left and standing is not None:
            standing.failed(_now())
        for index in sorted(run.left):
            wanted = self._book.wanted[index]
            wanted.runs.remove(run)
            if error is not None:
                wanted.failed[run.source] = error
            self._settle(index, error)
        run.left.clear()

    def _settle(self, index: int, error: Exception | None) -> None:
        """A block that nobody is fetching waits to be, or is given up where nobody can."""
        wanted = self._book.wanted[index]
        if wanted.runs:
            return
        if self._book.has_hope(wanted):
            self._book.waiting.add(wanted)
            return
        for batch in wanted.batches:
            told = self._book.blamed(index) or error
            batch.fail(told or SourceError(f"{wanted.place} is not stored, and nobody has it"))
        self._forget(wanted)

    def _watch(self, run: Run, seconds: float) -> None:
        """Begins to wait for the next block of a request."""
        if run.timer is not None:
            run.timer.cancel()
        if run in self._book.runs:
            run.timer = asyncio.get_running_loop().call_later(seconds, self._late, run)

    def _late(self, run: Run) -> None:
        """Others are asked too; who comes first has done it."""
        run.timer = None
        now, others = _now(), list[Wanted]()
        for index in run.left:
            if any(self._book.may(it, index, now) for it in self.sources):
                others.append(self._book.wanted[index])
        if others and not run.is_late:
            run.is_late = True
            self._book.standings[run.source].late += 1
        for wanted in sorted(others, key=lambda it: it.place.index):
            self._book.waiting.add(wanted)
        self.look()
        self._watch(run, LATE[run.urgency])

    async def _arrived(self, source: ShardSource, first: int, data: Buffer) -> Exception | None:
        """Verifies blocks, stores them, hands them out; what kept one from being stored."""
        good, begin, at = list[tuple[Place, Buffer]](), 0, 0
        unkept: Exception | None = None
        length = self._buffers.length(data)
        for place in map(self._places.__getitem__, range(first, len(self._places))):
            if at == length:
                break
            end = min(at + place.bytes, length)
            block = self._buffers.part(data, at, end)
            if self._buffers.blake3(block) == self._places.manifest.blocks[place.index]:
                good.append((place, block))
            else:
                self._blame(source, place)
                part = self._buffers.part(data, begin, at)
                unkept = await self._hand_out(source, good, part) or unkept
                good, begin = [], end
            at = end
        part = self._buffers.part(data, begin, at)
        return await self._hand_out(source, good, part) or unkept

    async def _hand_out(
        self, source: ShardSource, good: list[tuple[Place, Buffer]], data: Buffer
    ) -> Exception | None:
        """Verified neighbours, one by one and as one piece: to storage, and to whoever waits. What
        kept them from being stored.
        """
        if not good:
            return None
        unkept: Exception | None = None
        try:
            await self._keep(good[0][0], data)
        except StorageError as error:
            unkept = error
        if (standing := self._book.standings.get(source)) is not None:
            standing.came(len(good))
        self.took(source, [place.index for place, _ in good], unkept is None)
        for place, block in good:
            if (wanted := self._book.wanted.get(place.index)) is not None:
                for batch in wanted.batches:
                    batch.came(place, block, unkept)
                self._forget(wanted)
        return unkept

    def _blame(self, source: ShardSource, place: Place) -> None:
        """What came as this block is not it."""
        again, index = source.blame(place.index), place.index
        standing, wanted = self._book.standings.get(source), self._book.wanted.get(index)
        if standing is None:
            return
        standing.blame(place.bytes)
        if again:
            return
        error = standing.bad[index] = wrong(place, source.where(place))
        if wanted is not None:
            for run in [it for it in wanted.runs if it.source is source]:
                run.left.discard(index)
                wanted.runs.remove(run)
            self._settle(index, error)


def _where(run: Run) -> str:
    return run.source.where(run.places[0])


def _now() -> float:
    return asyncio.get_running_loop().time()

"""What is wanted, what is being fetched, and who may be asked for it."""

from __future__ import annotations

from doppler.errors import CorruptError
from doppler.store.places import Places
from doppler.store.sources.source import ShardSource, Urgency
from doppler.store.sources.standing import Standing
from doppler.store.sources.wanted import Run, Waiting, Wanted


class Book:
    """Sources with their standings, wanted blocks by index, those of them that wait to be asked
    for, and what was asked for.
    """

    def __init__(self, places: Places) -> None:
        self._places = places
        self.standings: dict[ShardSource, Standing] = {}
        self.wanted: dict[int, Wanted] = {}
        self.waiting = Waiting()
        self.runs = list[Run]()

    def ranked(self, now: float) -> list[ShardSource]:
        """All sources, the one to be asked first at the beginning."""
        return sorted(self.standings, key=lambda it: self.standings[it].rank(now))

    def has_hope(self, wanted: Wanted) -> bool:
        """Whether some source may give a block, now or later."""
        return any(
            source not in wanted.failed and wanted.place.index not in standing.bad
            for source, standing in self.standings.items()
        )

    def is_nowhere(self, index: int) -> bool:
        """Whether no source has a wanted block now."""
        return index in self.wanted and not any(it.has(index) for it in self.standings)

    def blamed(self, index: int) -> CorruptError | None:
        """What a source has sent for a block that was not it."""
        return next((it.bad[index] for it in self.standings.values() if index in it.bad), None)

    def pick(self, source: ShardSource, urgency: Urgency, now: float) -> Run | None:
        """The first blocks that this source is to be asked for, in one request, if it can take one
        more: what is idle leaves room for what is not.
        """
        if not self._is_free(source, urgency):
            return None
        waiting = self.waiting[urgency]
        first = next((it for it in waiting if self.may(source, it, now)), None)
        if first is None:
            return None
        places = [self._places[first]]
        for index in range(first + 1, self._places.of(places[0].shard).stop):
            if index not in waiting or not self.may(source, index, now):
                break
            places.append(self._places[index])
        return Run(source, places, urgency, {it.index for it in places})

    def may(self, source: ShardSource, index: int, now: float) -> bool:
        """Whether it is the one to ask: of those that failed lately only where no other can."""
        if not self.can(source, index):
            return False
        return now >= self.standings[source].until or not any(
            other is not source and now >= self.standings[other].until and self.can(other, index)
            for other in self.standings
        )

    def can(self, source: ShardSource, index: int) -> bool:
        """Whether it has a block, is not being asked for it, and has not failed to give it."""
        wanted = self.wanted[index]
        return (
            source not in wanted.failed
            and index not in self.standings[source].bad
            and not wanted.is_asked_of(source)
            and source.has(index)
        )

    def _is_free(self, source: ShardSource, urgency: Urgency) -> bool:
        is_idle = urgency == "idle"
        taken = (it.source is source and (it.urgency == "idle") == is_idle for it in self.runs)
        return sum(taken) < source.at_once

"""What is wanted, what is being fetched, and who may be asked for it."""

from __future__ import annotations

from collections.abc import Iterator

from doppler.errors import CorruptError
from doppler.store.places import Places
from doppler.store.sources.source import ShardSource, Urgency
from doppler.store.sources.standing import Standing
from doppler.store.sources.wanted import Run, Waiting, Wanted

TRIES = 3  # times that a source fails to give a block, with pauses, before it counts as not there


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
            not wanted.has_failed(source) and wanted.place.index not in standing.bad
            for source, standing in self.standings.items()
        )

    def is_nowhere(self, index: int) -> bool:
        """Whether no source can give a wanted block now, but for those that were not asked again
        often enough after they failed.
        """
        wanted = self.wanted.get(index)
        return wanted is not None and not any(
            index not in standing.bad and not wanted.has_failed(it, TRIES) and it.has(index)
            for it, standing in self.standings.items()
        )

    def blamed(self, index: int) -> CorruptError | None:
        """What a source has sent for a block that was not it."""
        return next((it.bad[index] for it in self.standings.values() if index in it.bad), None)

    def trouble(self, index: int) -> Exception | None:
        """What is wrong with a source that has a wanted block and did not give it."""
        failures = self.wanted[index].failures
        failed = (failures[it].error for it in self.standings if it in failures)
        return self.blamed(index) or next(failed, None)

    def forgive(self, source: ShardSource) -> None:
        """It may be asked again for what it failed to give."""
        for wanted in self.wanted.values():
            if (failure := wanted.failures.get(source)) is not None:
                failure.is_past = True

    def requests(self, source: ShardSource, urgency: Urgency, now: float) -> Iterator[Run]:
        """What this source is to be asked for, until it can take no more: neighbours in one
        request. What is idle leaves room for what is not. Each is to be begun before the next is
        looked for.
        """
        waiting, room = self.waiting[urgency], self._room(source, urgency)
        if room <= 0 or not waiting:
            return
        lacks = self.standings[source].lacks
        for first in [index for index in waiting if index not in lacks]:
            if not source.has(first):
                lacks.add(first)
                continue
            if first not in waiting or not self.may(source, first, now):
                continue
            places = [self._places[first]]
            for index in range(first + 1, self._places.of(places[0].shard).stop):
                if index not in waiting or not self.may(source, index, now):
                    break
                places.append(self._places[index])
            yield Run(source, places, urgency, {it.index for it in places})
            room -= 1
            if room <= 0:
                return

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
            not wanted.has_failed(source)
            and index not in self.standings[source].bad
            and not wanted.is_asked_of(source)
            and source.has(index)
        )

    def _room(self, source: ShardSource, urgency: Urgency) -> int:
        """Requests that it can take, besides those that it has."""
        is_idle = urgency == "idle"
        taken = (it.source is source and (it.urgency == "idle") == is_idle for it in self.runs)
        return source.at_once - sum(taken)

"""What is wanted of sources, who waits for it, and who was asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from doppler.inputs.buffers import Buffer
from doppler.store.places import Place
from doppler.store.sources.source import URGENCIES, ShardSource, Urgency


class Batch:
    """Blocks that one caller waits for. `told`: called with the bytes of each that was stored; the
    bytes themselves are then not held.
    """

    def __init__(
        self, indices: Iterable[int], urgency: Urgency, told: Callable[[int], None] | None = None
    ) -> None:
        self.left, self.urgency, self.told = set(indices), urgency, told
        self.found = dict[int, Buffer]()
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.done.add_done_callback(_heard)

    def came(self, place: Place, data: Buffer, unkept: Exception | None) -> None:
        """A verified block. unkept: why it is not stored."""
        if place.index not in self.left or self.done.done():
            return
        self.left.discard(place.index)
        if self.told is None:
            self.found[place.index] = data
        elif unkept is not None:
            self.fail(unkept)
            return
        else:
            self.told(place.bytes)
        if not self.left:
            self.done.set_result(None)

    def fail(self, error: Exception) -> None:
        """Nobody can give one of them, or it cannot be stored."""
        if not self.done.done():
            self.done.set_exception(error)


def _heard(done: asyncio.Future[None]) -> None:
    """Takes note of an error: who waited may have been cancelled."""
    if not done.cancelled():
        done.exception()


@dataclass(eq=False)
class Run:
    """Neighbouring blocks that are fetched from one source. `left`: those still to come."""

    source: ShardSource
    places: list[Place]
    urgency: Urgency
    left: set[int]
    task: asyncio.Task[Exception | None] | None = None
    timer: asyncio.TimerHandle | None = None
    is_late: bool = False

    def end(self) -> None:
        """Stops it: nothing of it is wanted any more."""
        if self.task is not None:
            self.task.cancel()


@dataclass
class Failure:
    """Of a source, to give a block."""

    error: Exception
    times: int = 1
    is_past: bool = False  # it may be asked again


@dataclass(eq=False)
class Wanted:
    """A block, who waits for it, who is fetching it, and who could not."""

    place: Place
    urgency: Urgency
    batches: list[Batch] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    failures: dict[ShardSource, Failure] = field(default_factory=dict)

    def is_asked_of(self, source: ShardSource) -> bool:
        return any(run.source is source for run in self.runs)

    def failed(self, source: ShardSource, error: Exception) -> None:
        """It is not asked again before its failure is past."""
        before = self.failures.get(source)
        self.failures[source] = Failure(error, 1 if before is None else before.times + 1)

    def has_failed(self, source: ShardSource, times: int = 1) -> bool:
        """Whether it is not to be asked now, since it failed; so often, at least."""
        failure = self.failures.get(source)
        return failure is not None and not failure.is_past and failure.times >= times


class Waiting:
    """Blocks to be asked for, by urgency and then in the order in which they were wanted."""

    def __init__(self) -> None:
        self._of: dict[Urgency, dict[int, None]] = {urgency: {} for urgency in URGENCIES}

    def __contains__(self, index: int) -> bool:
        return any(index in indices for indices in self._of.values())

    def __getitem__(self, urgency: Urgency) -> dict[int, None]:
        return self._of[urgency]

    def add(self, wanted: Wanted) -> None:
        """It is to be asked for; where it waits already, with its urgency of now."""
        self.remove(wanted.place.index)
        self._of[wanted.urgency][wanted.place.index] = None

    def remove(self, index: int) -> None:
        for indices in self._of.values():
            indices.pop(index, None)

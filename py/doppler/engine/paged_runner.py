"""A runner of a mixture whose experts are not all on the GPU: it brings them when they are missed.

Work is queued as if everything were there. A lookup that misses an expert halts the plan, and what
is queued behind it does nothing; once that is read, the experts are brought, the batch goes on from
that layer's router, and all that was queued behind it is queued again.

A token's experts always have room together. Those of a prefill batch may not: then they are run in
passes, some experts at a time, so that each is brought once.
"""

from __future__ import annotations

from array import array
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from operator import add
from time import perf_counter
from typing import TypeAlias

from doppler.engine.memory import Demand, EngineMemory, Halt, Watch
from doppler.engine.plans import Key, Plan
from doppler.engine.protocol import Chunk
from doppler.engine.runner import GpuRunner
from doppler.errors import CorruptError, SourceError
from doppler.gpu.binder import Binder
from doppler.plan.layer import PlannedModel
from doppler.plan.segments import Part, Place
from doppler.residency.tiers import Tier
from doppler.sampling import Sampling
from doppler.weights.expert_pools import ExpertPools
from doppler.weights.host_rows import HostRows

UNLIKELY = 2  # of what is expected, one part in so many is likely enough to be brought ahead


@dataclass(frozen=True)
class Steps:
    """Decode steps that were queued after `first` tokens had been sampled."""

    first: int
    steps: int
    end: int
    mask: bytes | None


@dataclass(frozen=True)
class Kept:
    """A copy of the recurrent state that was queued, into a checkpoint."""

    slot: int


class PagedReading:
    """What was sampled, once nothing that was queued before it is halted."""

    def __init__(self, now: Watch, settle: Callable[[PagedReading], Awaitable[None]]) -> None:
        self.now = now  # of what was queued last
        self._settle = settle

    async def tokens(self, known: int) -> list[int]:
        """As a `Reading` has them."""
        await self._settle(self)
        return await self.now.tokens(known)


@dataclass(frozen=True)
class Paging:
    """What was brought to the GPU since a model was loaded.

    pairs: of a token and an expert that it used. misses: experts that were brought for one; ahead:
    that were expected to be. replays: of a batch from a router on, since it missed some; halted_ms:
    from when that was known until it was queued again, what was waited for included. Bytes, and
    milliseconds that were waited for them, are by tier. layers: whose matrices are streamed.
    kv_layers: whose keys and values lie in host memory; bytes of these that were brought to the
    GPU, and read back from it.
    """

    pairs: int
    misses: int
    ahead: int
    replays: int
    halted_ms: float
    bytes: Mapping[Tier, int]
    waited_ms: Mapping[Tier, float]
    slots: int
    experts: int
    host_bytes: int
    layers: int = 0
    kv_layers: int = 0
    kv_brought: int = 0
    kv_read: int = 0


@dataclass(frozen=True)
class ExpertUse:
    """Of one layer: how often each expert was used, and which have a slot now."""

    uses: Sequence[int]
    resident: Sequence[int]


Work: TypeAlias = Steps | Kept | PagedReading


class PagedRunner(GpuRunner):
    """A GpuRunner with `pools` of slots."""

    def __init__(
        self,
        binder: Binder,
        memory: EngineMemory,
        model: PlannedModel,
        rows: Sequence[HostRows],
        pools: ExpertPools,
    ) -> None:
        super().__init__(binder, memory, model, rows)
        self._pools = pools
        self._queue: list[Work] = []  # that was queued since a chunk of prefill, and may be halted
        self._sampled = 0  # tokens, once all of it has run

    async def paging(self) -> Paging:
        """What was brought so far."""
        pairs = await self._memory.read_pairs()
        pairs += sum(map(sum, self._pools.counts.passed.values()))
        slots = self._model.layout.slots
        experts = sum(len(self._model.config.expert_numbers(layer)) for layer in slots)
        tier, traffic = self._pools.tier, self._pools.tier.traffic
        return Paging(
            pairs=pairs,
            misses=self._pools.counts.misses,
            ahead=self._pools.counts.ahead,
            replays=self._pools.counts.replays,
            halted_ms=self._pools.counts.halted_ms,
            bytes=dict(traffic.bytes),
            waited_ms=dict(traffic.waited_ms),
            slots=sum(slots.values()),
            experts=experts,
            host_bytes=tier.bytes,
        )

    async def experts(self) -> dict[int, ExpertUse]:
        """By layer with slots."""
        found, passed = await self._memory.read_uses(), self._pools.counts.passed
        uses = {layer: [*map(add, found[layer], passed[layer])] for layer in found}
        return {it: ExpertUse(uses[it], self._pools.resident(it)) for it in uses}

    @property
    def most_ahead(self) -> int:
        """One: what is queued behind a token that is halted takes its time for nothing."""
        return 1

    def begin(self, ids: Sequence[int], sampling: Sampling) -> None:
        self._queue.clear()
        super().begin(ids, sampling)

    async def prefill(self, chunk: Chunk) -> None:
        self._queue.clear()
        await super().prefill(chunk)
        self._sampled = chunk.step
        while halt := await (watch := self._memory.start_watch()).halt():
            demand = await self._missed(watch, halt)
            if len(demand.wanted) <= self._pools.slots(halt.layer):
                self._pools.counts.misses += await self._pools.bring(halt.layer, demand.wanted)
                self.resume_prefill(Place(Part.ROUTER, halt.layer), chunk)
            else:
                self._memory.end_halt(len(chunk.ids))
                await self._run_passes(halt.layer, demand, self._body(chunk))

    def sample(self, size: int, mask: bytes | None = None) -> None:
        super().sample(size, mask)
        self._sampled += 1

    def keep(self, slot: int) -> None:
        super().keep(slot)
        self._queue.append(Kept(slot))

    async def decode(self, steps: int, end: int, mask: bytes | None = None) -> None:
        await super().decode(steps, end, mask)
        self._queue.append(Steps(self._sampled, steps, end, mask))
        self._sampled += steps

    def start_read(self) -> PagedReading:
        reading = PagedReading(self._memory.start_watch(), self._settle)
        self._queue.append(reading)
        return reading

    async def _missed(self, watch: Watch, halt: Halt) -> Demand:
        """What the layer that halted the plan wants."""
        self._pools.counts.replays += 1
        demand = await watch.demand(halt.layer)
        for layer, (last, counts) in demand.uses.items():
            self._pools.note(layer, last, counts)
        return demand

    async def _run_passes(self, layer: int, demand: Demand, body: list[Key]) -> None:
        """The layer's experts for a batch that wants more of them than have room, and what follows
        of its `body`. Its router has run.
        """
        before, sum_ = Place(Part.EXPERTS, layer), Place(Part.FFN, layer)
        self._run(body, start=Place(Part.BESIDE, layer), stop=before)
        key = Key(Plan.PASS, body[0].size)
        for experts in self._pools.passes(layer, demand.wanted):
            self._pools.counts.misses += await self._pools.bring(layer, experts)
            self._memory.write_pass_table(self._pools.pass_table(layer, experts))
            self._kernels.run(self._recordings.of(key, before))
        self._run(body, start=sum_)

    async def _settle(self, reading: PagedReading) -> None:
        """Brings what is missed until all has run that was queued before the reading.

        What was queued behind it waits: a list that is halted once more takes its time for nothing.
        """
        end, was_halted = self._queue.index(reading) + 1, False
        while halt := await reading.now.halt():
            was_halted, began = True, perf_counter()
            await self._resume(halt, await self._missed(reading.now, halt), end)
            self._pools.counts.halted_ms += 1000 * (perf_counter() - began)
        del self._queue[:end]
        if was_halted:
            self._again(self._queue)

    async def _resume(self, halt: Halt, demand: Demand, end: int) -> None:
        """Brings what the halted layer lacks, goes on from its router, and queues what had been
        queued behind it, up to work number `end`.
        """
        index = next(i for i, work in enumerate(self._queue) if _holds(work, halt.sampled))
        halted = self._queue[index]
        assert isinstance(halted, Steps)
        done = halt.sampled - halted.first
        rest = replace(halted, first=halt.sampled, steps=halted.steps - done)
        self._queue[index] = rest
        self._memory.end_halt(1)
        expecting = self._start_ahead(halt.layer)  # read while the experts come
        self._pools.counts.misses += await self._pools.bring(halt.layer, demand.wanted)
        keys, place = self._keys(rest.end, rest.mask), Place(Part.ROUTER, halt.layer)
        if expecting is not None:
            place = await self._bring_ahead(keys, place, array("I", await expecting))
        self._run(keys, start=place)
        self._run(keys, rest.steps - 1)
        self._again(self._queue[index + 1 : end])

    def _start_ahead(self, layer: int) -> Awaitable[bytes] | None:
        """Queues what the layer behind is expected to use, where that can be told."""
        key, place = Key(Plan.AHEAD), Place(Part.AHEAD, layer)
        if place not in self._recordings.places([key]):
            return None
        self._kernels.run(self._recordings.of(key, place))
        return self._memory.start_read_expected()

    async def _bring_ahead(self, keys: list[Key], place: Place, expected: Sequence[int]) -> Place:
        """Runs a layer from its router, `place`, on, while what the next one is likely to lack
        comes; -> from where it goes on.
        """
        following = Place(Part.ROUTER, place.layer + 1)
        likely = expected[: len(expected) // UNLIKELY]
        if not self._pools.missing(following.layer, likely):
            return place
        self._run(keys, start=place, stop=following)
        with suppress(CorruptError, SourceError):  # it may never be used
            self._pools.counts.ahead += await self._pools.bring(following.layer, likely, expected)
        return following

    def _again(self, works: Iterable[Work]) -> None:
        """Queues what did nothing when it was queued."""
        for work in works:
            match work:
                case Steps():
                    self._run(self._keys(work.end, work.mask), work.steps)
                case Kept():
                    super().keep(work.slot)
                case PagedReading():
                    work.now = self._memory.start_watch()


def _holds(work: Work, sampled: int) -> bool:
    """Whether it is the steps of which one follows so many sampled tokens."""
    return isinstance(work, Steps) and work.first <= sampled < work.first + work.steps

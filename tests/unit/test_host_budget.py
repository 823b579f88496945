"""What the host has of a mixture's experts, and of layers that are streamed: never more than its
budget, what is on its way to the GPU counted.
"""

from __future__ import annotations

import asyncio
import gc
from types import SimpleNamespace
from typing import Any, cast
from weakref import finalize

import pytest

from doppler.engine.paged_runner import PagedRunner
from doppler.errors import CorruptError, DeviceError, DopplerError, SourceError, StorageError
from doppler.inputs.buffers import Buffer, MemoryBuffers
from doppler.plan.segments import Part, Place
from doppler.store.manifest import BLOCK_SIZE, Manifest
from doppler.store.sources.source import Urgency
from doppler.weights.coming import Coming, fill
from doppler.weights.expert_pools import ExpertPools
from doppler.weights.host_tier import HostTier, Span
from paper_engine import ranged
from virtual_time import run

MANIFEST = ranged("gpt-oss-20b")
SLOTS = 8  # of layer 0, which has 32 experts
SECOND = 1.0  # that a read takes, and a copy to the GPU
SPANS = {(0, number): Span(number * BLOCK_SIZE, BLOCK_SIZE) for number in range(32)}


class Bytes(bytearray):
    """Whose end is noticed."""


class SlowStore:
    """Gives blocks in a second each time; `there`: those that are read, or that somebody has."""

    def __init__(self, manifest: Manifest = MANIFEST) -> None:
        self.manifest, self.buffers = manifest, MemoryBuffers()
        self.there = self.most = self.reading = self.most_reading = self.reads = 0

    async def verified(self, first: int, count: int, urgency: Urgency) -> tuple[Buffer, bool]:
        self.there += count
        self.most = max(self.most, self.there)
        self.reads += 1
        self.reading += 1
        self.most_reading = max(self.most_reading, self.reading)
        try:
            await asyncio.sleep(SECOND)
        except asyncio.CancelledError:
            self.there -= count
            raise
        finally:
            self.reading -= 1
        data = Bytes(count * BLOCK_SIZE)
        finalize(data, self._gone, count)
        return data, False

    def _gone(self, count: int) -> None:
        self.there -= count


def tier_of(store: SlowStore, blocks: float, passing: int = 0) -> HostTier:
    return HostTier(cast("Any", store), int(blocks * BLOCK_SIZE), SPANS, passing=passing)


class Pools(ExpertPools):
    """Slots of layer 0, on paper: experts are copied there in a second each."""

    def __init__(self, tier: HostTier) -> None:
        binder = SimpleNamespace(device=SimpleNamespace(kernels=None))
        super().__init__(cast("Any", binder), cast("Any", None), {}, tier)
        self.reset({0: SLOTS})

    async def _move(self, layer: int, slot: int, expert: int, data: Buffer) -> None:
        assert self.tier.buffers.length(data) == BLOCK_SIZE
        await asyncio.sleep(SECOND)
        self._held[layer][slot] = expert

    def _write_table(self, layer: int) -> None:
        pass


async def bring_all(pools: Pools) -> float:
    """Experts 8 to 31, four at a time, twice; -> the seconds that it took."""
    began = asyncio.get_running_loop().time()
    for _ in range(2):
        for first in range(SLOTS, 32, 4):
            pools.reset({0: SLOTS})
            assert await pools.bring(0, range(first, first + 4)) == 4
            assert pools.tier.bytes <= pools.tier.budget
    return asyncio.get_running_loop().time() - began


@pytest.mark.parametrize("blocks", [0, 0.5, 1, 2, 3.5, 12, 40])
def test_experts_on_their_way_are_within_the_budget(blocks: float) -> None:
    """Of less than an expert one passes through at a time, which is not counted."""
    store = SlowStore()
    pools = Pools(tier := tier_of(store, blocks))
    run(bring_all(pools))
    gc.collect()
    assert store.most <= max(blocks, 1)
    assert tier.peak == min(int(blocks), 24) * BLOCK_SIZE
    assert store.there * BLOCK_SIZE == tier.bytes == tier.peak  # all that is there is kept
    assert store.most_reading == max(min(int(blocks), 4), 1)
    assert pools.tier.traffic.units["storage"] == store.reads


def test_where_there_is_room_nothing_waits_for_it() -> None:
    """Four are read at once, while others are copied; and nothing is read twice."""
    store = SlowStore()
    seconds = run(bring_all(Pools(tier_of(store, 40))))
    assert store.reads == 24
    assert seconds == pytest.approx(2 * 24 * SECOND + 6 * SECOND)


def test_filling_takes_no_more_and_makes_way() -> None:
    """An expert that is missed waits for none of those that are read for no token."""
    store = SlowStore()
    pools = Pools(tier := tier_of(store, 6))

    async def work() -> float:
        filling = asyncio.ensure_future(pools.fill())
        await asyncio.sleep(1.5 * SECOND)  # some are there, and others on their way
        assert tier.bytes == 6 * BLOCK_SIZE
        filling.cancel()
        began = asyncio.get_running_loop().time()
        await pools.bring(0, range(28, 32))
        seconds = asyncio.get_running_loop().time() - began
        await pools.fill()
        return seconds

    assert run(work()) == pytest.approx(5 * SECOND)
    gc.collect()
    assert store.most == 6
    assert tier.peak == tier.bytes == 6 * BLOCK_SIZE


def test_a_smaller_budget_counts_once_what_is_used_has_gone() -> None:
    store = SlowStore()
    pools = Pools(tier := tier_of(store, 12))

    async def work() -> None:
        bringing = asyncio.ensure_future(pools.bring(0, range(24, 32)))
        await asyncio.sleep(2.5 * SECOND)
        tier.resize(2 * BLOCK_SIZE)
        assert await bringing == 8
        assert tier.bytes == 2 * BLOCK_SIZE
        tier.resize(0)
        assert tier.bytes == 0
        bringing = asyncio.ensure_future(pools.bring(0, [8, 9]))
        await asyncio.sleep(SECOND / 2)
        bringing.cancel()
        await asyncio.gather(bringing, return_exceptions=True)
        assert await pools.bring(0, [8, 9]) == 2

    run(work())
    gc.collect()
    assert (store.there, store.reading) == (0, 0)


@pytest.mark.parametrize(("blocks", "stay"), [(0, 0), (2, 0), (5, 2), (8, 5), (32, 32)])
def test_parts_that_are_used_in_turn(blocks: int, stay: int) -> None:
    """Those that came first stay, and three have room beside them."""
    store = SlowStore()
    tier = tier_of(store, blocks, passing=3)
    order = [*SPANS] * 2

    async def work() -> None:
        reads = Coming(tier)
        for place in range(len(SPANS) + 8):
            await reads.get(order[place : place + 3])
            assert tier.bytes <= tier.budget
        await reads.aclose()
        assert tier.bytes == stay * BLOCK_SIZE
        tier.release()
        await fill(tier)

    run(work())
    gc.collect()
    assert [unit for unit in SPANS if tier.holds(unit)] == list(SPANS)[:stay]
    assert store.most <= max(blocks, 1)
    assert tier.peak == blocks * BLOCK_SIZE
    assert store.there == stay


def test_what_was_read_ahead_in_vain_is_read_again() -> None:
    """Its error is not told while it may be mended; what is used next has the room of the rest."""
    store, errors = SlowStore(), [StorageError("another tab has the file")]
    good = store.verified

    async def verified(first: int, count: int, urgency: Urgency) -> tuple[Buffer, bool]:
        found = await good(first, count, urgency)
        if first == 1 and errors:
            raise errors.pop()
        return found

    store.verified = verified  # type: ignore[method-assign]
    tier = tier_of(store, 3)

    async def work() -> None:
        reads = Coming(tier)
        await reads.get([(0, 0), (0, 1), (0, 2)])
        await asyncio.sleep(2 * SECOND)
        await reads.get([(0, 1), (0, 2), (0, 3)])
        await reads.get([(0, 9), (0, 2), (0, 3)])
        await reads.aclose()

    run(work())
    assert tier.bytes == 3 * BLOCK_SIZE


FAULTS = [
    CorruptError("damaged"),
    SourceError("no peer has it"),
    StorageError("another tab has the file"),
]


class Failing:
    """Pools that lack experts and cannot have them."""

    def __init__(self, error: DopplerError) -> None:
        self.error, self.counts = error, SimpleNamespace(ahead=0)

    def missing(self, layer: int, wanted: Any) -> list[int]:
        return list(wanted)

    async def bring(self, layer: int, wanted: Any, keep: Any) -> int:
        raise self.error


class Runner(PagedRunner):
    """Of nothing but pools; what is run is noted."""

    def __init__(self, pools: Failing) -> None:
        self._pools = cast("Any", pools)
        self.ran: list[Any] = []

    def _run(self, keys: Any, times: int = 1, start: Any = None, stop: Any = None) -> None:
        self.ran.append((start, stop))


@pytest.mark.parametrize("error", FAULTS, ids=lambda error: type(error).__name__)
def test_an_expert_that_may_never_be_used_ends_no_answer(error: DopplerError) -> None:
    runner, router = Runner(Failing(error)), Place(Part.ROUTER, 0)
    following = Place(Part.ROUTER, 1)
    assert run(runner._bring_ahead([], router, [4, 5, 6, 7])) == following
    assert runner.ran == [(router, following)]


def test_a_device_that_is_lost_does() -> None:
    runner = Runner(Failing(DeviceError("the device was lost")))
    with pytest.raises(DeviceError):
        run(runner._bring_ahead([], Place(Part.ROUTER, 0), [4, 5, 6, 7]))

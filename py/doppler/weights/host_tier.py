"""Weights in the host's memory, between storage and the GPU: verified bytes, within a budget.

What comes from storage waits for it and is hashed; what lies here is a copy away from the GPU. The
bytes are JavaScript's, outside the wasm heap.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import NamedTuple, TypeAlias

from doppler.inputs.buffers import Buffer, Buffers
from doppler.residency.tiers import TIERS, Tier
from doppler.store.manifest import ExpertRange, Manifest
from doppler.store.shards import ShardStore
from doppler.store.sources.source import Urgency
from doppler.weights.read_ahead import ReadAhead

Unit: TypeAlias = tuple[int, int]  # layer, and number of an expert or of another part of it


class Span(NamedTuple):
    """Bytes of the byte space, from `offset` on."""

    offset: int
    bytes: int


@dataclass
class Traffic:
    """What was brought to the GPU, and what waited for it, by the tier that it came from."""

    units: dict[Tier, int] = field(default_factory=lambda: dict.fromkeys(TIERS, 0))
    bytes: dict[Tier, int] = field(default_factory=lambda: dict.fromkeys(TIERS, 0))
    waited_ms: dict[Tier, float] = field(default_factory=lambda: dict.fromkeys(TIERS, 0.0))

    def note(self, tier: Tier, size: int) -> None:
        """A unit of `size` bytes came from there."""
        self.units[tier] += 1
        self.bytes[tier] += size

    def waited(self, tiers: Collection[Tier], ms: float) -> None:
        """For units that came from there side by side: the furthest is what was waited for."""
        self.waited_ms[max(tiers, key=TIERS.index)] += ms


class HostTier:
    """Units of one model that were read last, up to `budget` bytes of them.

    Those that are `periodic`, used one after another and then again, would all have left when their
    turn comes: of these the ones that came first stay.
    """

    def __init__(
        self,
        store: ShardStore,
        budget: int,
        spans: Mapping[Unit, Span],
        *,
        periodic: bool = False,
    ) -> None:
        self._store, self._spans, self._periodic = store, spans, periodic
        self._held: OrderedDict[Unit, Buffer] = OrderedDict()  # the one used longest ago first
        self.budget, self.bytes, self.peak = budget, 0, 0
        self.traffic = Traffic()

    @property
    def manifest(self) -> Manifest:
        """The model's."""
        return self._store.manifest

    @property
    def buffers(self) -> Buffers:
        """How its bytes are handled."""
        return self._store.buffers

    def range(self, unit: Unit) -> Span:
        """Where a unit's bytes are in the byte space."""
        return self._spans[unit]

    def holds(self, unit: Unit) -> bool:
        """Whether `get` has it at once."""
        return unit in self._held

    async def get(self, unit: Unit) -> tuple[Buffer, Tier]:
        """The bytes of a unit's range, verified, and where they were. Raises CorruptError or
        SourceError.
        """
        data, tier = self._held.get(unit), TIERS[0]
        if data is None:
            data, tier = await self._read(unit, "now")
            self._keep(unit, data)
        else:
            self._held.move_to_end(unit)
        self.traffic.note(tier, self._spans[unit].bytes)
        return data, tier

    async def fill(self, is_late: Callable[[Unit], bool] = lambda unit: False) -> None:
        """Reads units until the budget is full, or all are there; those that are late come last.
        Cancel it at any time.
        """
        units = [unit for unit in sorted(self._spans, key=is_late) if unit not in self._held]
        ends = accumulate((self._spans[unit].bytes for unit in units), initial=self.bytes)
        fitting = sum(end <= self.budget for end in ends) - 1  # so is what is on its way
        reads = ReadAhead(lambda number: self._read(units[number], "idle"), fitting)
        try:
            for number, unit in enumerate(units[: max(fitting, 0)]):
                data, _ = await reads.get(number)
                if self.bytes + self._spans[unit].bytes <= self.budget:  # others may have come
                    self._keep(unit, data)
        finally:
            await reads.aclose()

    def resize(self, budget: int) -> None:
        """Another budget from now on; what is beyond it leaves."""
        self.budget = budget
        self._make_room(0)

    def release(self) -> None:
        """Lets all of it go."""
        self._held.clear()
        self.bytes = 0

    async def _read(self, unit: Unit, urgency: Urgency) -> tuple[Buffer, Tier]:
        where, size = self._spans[unit], self._store.manifest.block_size
        first, end = where.offset // size, -(-(where.offset + where.bytes) // size)
        data, fetched = await self._store.verified(first, end - first, urgency)
        if self.buffers.length(data) > where.bytes:
            start = where.offset - first * size
            data = self.buffers.part(data, start, start + where.bytes)
        return data, "remote" if fetched else "storage"

    def _keep(self, unit: Unit, data: Buffer) -> None:
        where, block = self._spans[unit], self._store.manifest.block_size
        if unit in self._held or not self._has_room(where.bytes):
            return
        if where.offset % block or where.bytes % block:  # it is a part of more, which is let go
            data, part = self.buffers.empty(where.bytes), data
            self.buffers.put(data, 0, part)
        self._make_room(where.bytes)
        self._held[unit] = data
        self.bytes += where.bytes
        self.peak = max(self.peak, self.bytes)

    def _has_room(self, size: int) -> bool:
        return size + (self.bytes if self._periodic else 0) <= self.budget

    def _make_room(self, size: int) -> None:
        while self._held and self.bytes + size > self.budget:
            unit, _ = self._held.popitem(last=False)
            self.bytes -= self._spans[unit].bytes


def expert_spans(ranges: Iterable[ExpertRange]) -> Mapping[Unit, Span]:
    """Those of a manifest by layer and number."""
    return {(it.layer, it.expert): Span(it.offset, it.bytes) for it in ranges}

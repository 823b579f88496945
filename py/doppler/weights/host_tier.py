"""Weights in the host's memory, between storage and the GPU: verified bytes, within a budget.

What comes from storage waits for it and is hashed; what lies here is a copy away from the GPU. The
bytes are JavaScript's, outside the wasm heap.
"""

from __future__ import annotations

import asyncio
import builtins
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from doppler.inputs.buffers import Buffer, Buffers
from doppler.residency.tiers import TIERS, Tier
from doppler.store.manifest import ExpertRange, Manifest
from doppler.store.shards import ShardStore
from doppler.store.sources.source import Urgency

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


@dataclass(eq=False)
class Claim:
    """Room for a unit that somebody is about to use. bytes: that are counted for it here, until it
    is kept; none where it passes through. is_kept: it is among what is kept, and stays there.
    """

    unit: Unit
    bytes: int = 0
    is_kept: bool = False


class HostTier:
    """Units of one model that are on their way to the GPU, and those that were last.

    Both count in `bytes` and in `peak`, each unit once, and have room within `budget`: what is kept
    leaves for what is on its way, but nothing leaves that somebody has claimed. A unit that is
    larger than the budget passes through, one at a time, and is not counted.

    Units that are used one after another and then again would all have left when their turn comes:
    of these the ones that came first stay. passing: how many of them are on their way at once,
    which have room beside those that stay; 0: units are not used in turn.
    """

    def __init__(
        self, store: ShardStore, budget: int, spans: Mapping[Unit, Span], *, passing: int = 0
    ) -> None:
        self._store, self._spans = store, spans
        self._all = sum(span.bytes for span in spans.values())
        self._passing = passing * max(map(self._read_bytes, spans))  # bytes
        self._held: OrderedDict[Unit, Buffer] = OrderedDict()  # the one used longest ago first
        self._claimed: Counter[Unit] = Counter()  # of those that are held
        self._held_bytes = self._coming_bytes = 0
        self._freed = asyncio.Event()
        self.budget, self.peak = budget, 0
        self.traffic = Traffic()

    @property
    def manifest(self) -> Manifest:
        """The model's."""
        return self._store.manifest

    @property
    def buffers(self) -> Buffers:
        """How its bytes are handled."""
        return self._store.buffers

    @property
    def bytes(self) -> int:
        """That are here: kept, or on their way."""
        return self._held_bytes + self._coming_bytes

    def range(self, unit: Unit) -> Span:
        """Where a unit's bytes are in the byte space."""
        return self._spans[unit]

    def holds(self, unit: Unit) -> bool:
        """Whether it is kept."""
        return unit in self._held

    def lacking(self) -> list[Unit]:
        """Those that are not kept, in order."""
        return [unit for unit in self._spans if unit not in self._held]

    def claim(self, unit: Unit, *, is_filling: bool = False) -> Claim | None:
        """Room for a unit until `let_go`; None where there is none now.

        is_filling: nobody needs it yet, so that nothing leaves for it.
        """
        if unit in self._held:
            self._held.move_to_end(unit)
            self._claimed[unit] += 1
            return Claim(unit, is_kept=True)
        size = self._read_bytes(unit)
        fixed = sum(self._spans[it].bytes for it in self._claimed if it in self._held)
        if is_filling:
            has_room = self.bytes + size <= self._for_keeping()
        else:
            has_room = fixed + self._coming_bytes + size <= self.budget
        if not has_room:
            return None
        self._make_room(size)
        self._coming_bytes += size
        self.peak = max(self.peak, self.bytes)
        return Claim(unit, size)

    async def claim_now(self, unit: Unit) -> Claim:
        """The same for one that is needed next: waits until others have let go of theirs. Whoever
        calls it must not hold claims meanwhile.
        """
        while (claim := self.claim(unit)) is None:
            if self._read_bytes(unit) > self.budget:
                return Claim(unit)
            self._freed.clear()
            await self._freed.wait()
        return claim

    async def read(self, claim: Claim, urgency: Urgency) -> tuple[Buffer, Tier]:
        """The bytes of a unit's range, verified, and where they were. Raises CorruptError,
        SourceError or StorageError.
        """
        if (held := self._held.get(claim.unit)) is not None:
            return held, TIERS[0]
        data, tier = await self._read(claim.unit, urgency)
        return self._keep(claim, data), tier

    def let_go(self, claim: Claim) -> None:
        """Its unit is not used any more; it stays while there is room. Call it once."""
        self._coming_bytes -= claim.bytes
        if claim.is_kept:
            self._claimed[claim.unit] -= 1
            if not self._claimed[claim.unit]:
                del self._claimed[claim.unit]
        self._make_room(0)
        self._freed.set()

    def resize(self, budget: int) -> None:
        """Another budget from now on; what is beyond it leaves, once nobody uses it."""
        self.budget = budget
        self._make_room(0)
        self._freed.set()

    def release(self) -> None:
        """Lets all go that is kept."""
        self._held.clear()
        self._held_bytes = 0

    async def _read(self, unit: Unit, urgency: Urgency) -> tuple[Buffer, Tier]:
        where, blocks = self._spans[unit], self._blocks(unit)
        data, fetched = await self._store.verified(blocks.start, len(blocks), urgency)
        if self.buffers.length(data) > where.bytes:
            start = where.offset - blocks.start * self._store.manifest.block_size
            data = self.buffers.part(data, start, start + where.bytes)
        return data, "remote" if fetched else "storage"

    def _keep(self, claim: Claim, data: Buffer) -> Buffer:
        """Keeps what has come, if there is room for it; -> its bytes."""
        where, block = self._spans[claim.unit], self._store.manifest.block_size
        others = self._held_bytes if self._passing else 0
        has_room = others + where.bytes <= self._for_keeping()
        if not claim.bytes or claim.unit in self._held or not has_room:
            return data
        if where.offset % block or where.bytes % block:  # it is a part of more, which is let go
            data, part = self.buffers.empty(where.bytes), data
            self.buffers.put(data, 0, part)
        self._coming_bytes -= claim.bytes
        claim.bytes, claim.is_kept = 0, True
        self._held[claim.unit] = data
        self._claimed[claim.unit] += 1
        self._held_bytes += where.bytes
        return data

    def _for_keeping(self) -> int:
        """What of the budget is for units that stay, where not all do: others pass beside them."""
        return self.budget if self._all <= self.budget else max(self.budget - self._passing, 0)

    def _make_room(self, size: int) -> None:
        """For so many bytes more: the units that were used longest ago leave."""
        excess = self.bytes + size - self.budget
        leaving = list[Unit]()
        for unit in self._held:
            if excess <= 0:
                break
            if unit not in self._claimed:
                leaving.append(unit)
                excess -= self._spans[unit].bytes
        for unit in leaving:
            del self._held[unit]
            self._held_bytes -= self._spans[unit].bytes

    def _read_bytes(self, unit: Unit) -> int:
        """Of the blocks that are read for it."""
        return len(self._blocks(unit)) * self._store.manifest.block_size

    def _blocks(self, unit: Unit) -> builtins.range:
        """In which a unit lies."""
        where, size = self._spans[unit], self._store.manifest.block_size
        return builtins.range(where.offset // size, -(-(where.offset + where.bytes) // size))


def expert_spans(ranges: Iterable[ExpertRange]) -> Mapping[Unit, Span]:
    """Those of a manifest by layer and number."""
    return {(it.layer, it.expert): Span(it.offset, it.bytes) for it in ranges}

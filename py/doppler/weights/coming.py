"""Units of a tier that are used one after another: while one is used, the next ones are read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

from doppler.inputs.buffers import Buffer
from doppler.residency.tiers import Tier
from doppler.store.sources.source import Urgency
from doppler.weights.host_tier import Claim, HostTier, Unit
from doppler.weights.read_ahead import AHEAD

Read: TypeAlias = asyncio.Task[tuple[Buffer, Tier]]


class _Coming(NamedTuple):
    claim: Claim
    read: Read


class Coming:
    """What one reader has of a tier now: the unit that it uses, and those on their way to it.

    is_filling: they are only to be kept, and come when nobody needs others.
    """

    def __init__(self, tier: HostTier, *, is_filling: bool = False) -> None:
        self._tier, self._is_filling = tier, is_filling
        self._units: dict[Unit, _Coming] = {}

    async def get(self, units: Sequence[Unit]) -> tuple[Buffer, Tier]:
        """The first of these units, with the errors of `HostTier.read`. The others are on their way
        from then on, as many of them as have room; all else is let go.
        """
        if not self.start(units):
            self.let_go()  # what is ahead may have the room that it needs
            self._begin(await self._tier.claim_now(units[0]))
            self.start(units)
        return await self._units[units[0]].read

    def start(self, units: Sequence[Unit]) -> bool:
        """Begins to read these units, as far as they have room, and lets others go; whether the
        first is among them.
        """
        for unit in self._units.keys() - set(units):
            self._drop(unit)
        for unit in units:
            if unit in self._units and _has_failed(self._units[unit].read):
                self._drop(unit)
            if unit not in self._units:
                claim = self._tier.claim(unit, is_filling=self._is_filling)
                if claim is None:
                    break
                self._begin(claim)
        return units[0] in self._units

    def let_go(self) -> None:
        """Nothing of it is used any more."""
        for unit in list(self._units):
            self._drop(unit)

    async def aclose(self) -> None:
        """The same; what was being read has ended then."""
        reads = [coming.read for coming in self._units.values()]
        self.let_go()
        await asyncio.gather(*reads, return_exceptions=True)

    def _begin(self, claim: Claim) -> None:
        urgency: Urgency = "idle" if self._is_filling else "now"
        read = asyncio.ensure_future(self._tier.read(claim, urgency))
        read.add_done_callback(_heard)
        self._units[claim.unit] = _Coming(claim, read)

    def _drop(self, unit: Unit) -> None:
        claim, read = self._units.pop(unit)
        if read.done():
            self._tier.let_go(claim)
        else:  # it takes its room until it has ended
            read.cancel()
            read.add_done_callback(lambda _: self._tier.let_go(claim))


async def fill(tier: HostTier, is_late: Callable[[Unit], bool] = lambda unit: False) -> None:
    """Reads units until a tier is full, or all are there; those that are late come last. Cancel it
    at any time.
    """
    units, coming = sorted(tier.lacking(), key=is_late), Coming(tier, is_filling=True)
    try:
        for number in range(len(units)):
            wanted = units[number : number + 1 + AHEAD]
            if not coming.start(wanted):
                return
            await coming.get(wanted)
    finally:
        await coming.aclose()


def _has_failed(read: Read) -> bool:
    return read.done() and (read.cancelled() or read.exception() is not None)


def _heard(read: Read) -> None:
    """Takes note of an error: nobody may come to wait for what was read ahead."""
    if not read.cancelled():
        read.exception()

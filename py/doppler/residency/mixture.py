"""What paging needs to know of a mixture: its layers, experts and their bytes; and its slots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from doppler.errors import RequestError


@dataclass(frozen=True)
class Mixture:
    """`units`: the bytes of an expert in each layer, 0 in a layer that has none.

    A token uses `used` of `experts` experts in every layer that has some.
    """

    experts: int
    used: int
    units: tuple[int, ...]

    @property
    def layers(self) -> int:
        """All layers, those without experts too."""
        return len(self.units)

    @property
    def size(self) -> int:
        """Bytes of all experts."""
        return self.experts * sum(self.units)

    @property
    def least(self) -> int:
        """Bytes of the smallest slots that run it: those of one token's experts in every layer."""
        return self.used * sum(self.units)


def slots(mixture: Mixture, budget: int) -> tuple[int, ...]:
    """How many experts of each layer `budget` bytes hold: as many in each, the first one more.

    Raises RequestError where they do not hold what one token uses.
    """
    if budget < mixture.least:
        raise RequestError(
            f"a budget of {budget:,} bytes for experts is too small: the {mixture.used} that a "
            f"token uses in each layer take {mixture.least:,}; give at least that"
        )
    each = min(budget // max(sum(mixture.units), 1), mixture.experts)
    left = budget - each * sum(mixture.units)
    counts = []
    for unit in mixture.units:
        more = unit and unit <= left and each < mixture.experts
        left -= unit if more else 0
        counts.append((each + bool(more)) if unit else 0)
    return tuple(counts)


def need_slots(mixture: Mixture, counts: Sequence[int]) -> None:
    """Raises RequestError unless there is a number for each layer, enough for one token."""
    if len(counts) != mixture.layers:
        raise RequestError(f"slots are given for {len(counts)} layers of {mixture.layers}")
    for layer, (count, unit) in enumerate(zip(counts, mixture.units, strict=True)):
        if unit and count < mixture.used:
            raise RequestError(
                f"layer {layer} has {count} slots; a token uses {mixture.used} of its experts: "
                "give it at least as many"
            )

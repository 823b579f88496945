"""Which experts leave a layer's slots when others are brought: policies behind one interface.

The experts of a layer are units of one size, and each layer has slots of its own for them. A policy
hears what routers choose and what they are predicted to choose, and says who leaves. It knows
neither bytes nor buffers. All calls cost a few microseconds: one is made for each layer of a token.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from heapq import nsmallest
from math import inf, log2
from typing import Protocol

from doppler.errors import RequestError

HALF_LIFE = 16  # steps in which a use loses half of its weight


class Policy(Protocol):
    """What decides who leaves. `step` counts tokens (or batches), and never goes back.

    At a layer's turn `used` is called first, once for a token however often it is replayed, and
    `victims` then with what was used as `keep`. Before the turn `expected` may be called, and
    `victims` for what is brought ahead. Layers need not come in order, and may be heard of late:
    where choices stay on the GPU, sightings.py tells of them when a layer halts.
    """

    def used(self, layer: int, experts: Sequence[int], step: int) -> None:
        """What the router of `layer` chose: for a token, or for those of a batch in order."""

    def expected(self, layer: int, experts: Sequence[int], step: int) -> None:
        """What the router of `layer` is predicted to choose at its turn in `step`."""

    def victims(
        self, layer: int, resident: Collection[int], count: int, keep: Collection[int]
    ) -> list[int]:
        """Up to `count` of `resident`, first those that leave first, and never one of `keep`.

        They are fewer where all others are to be kept. Those given are taken to have left.
        """


class _Ordered:
    """Experts by a number each: those with the smallest leave first, and of equals the lowest."""

    def __init__(self, layers: int, experts: int) -> None:
        self._worth = [[-inf] * experts for _ in range(layers)]

    def expected(self, layer: int, experts: Sequence[int], step: int) -> None:
        """Nothing: what is predicted does not count here."""

    def victims(
        self, layer: int, resident: Collection[int], count: int, keep: Collection[int]
    ) -> list[int]:
        """Those of the smallest numbers."""
        kept = frozenset(keep)
        free = sorted(expert for expert in resident if expert not in kept)
        return nsmallest(count, free, key=self._worth[layer].__getitem__)


class LRU(_Ordered):
    """The expert that was not used for the longest time leaves first."""

    def __init__(self, layers: int, experts: int) -> None:
        super().__init__(layers, experts)
        self._clock = 0

    def used(self, layer: int, experts: Sequence[int], step: int) -> None:
        """Experts of one call are as recent as their order says."""
        worth = self._worth[layer]
        for expert in experts:
            self._clock += 1
            worth[expert] = self._clock


class LFU(_Ordered):
    """The expert used least often leaves first; a use counts half after `half_life` steps.

    This is LRFU (Lee et al., 2001). Without ageing, experts of an earlier subject would stay.
    """

    def __init__(self, layers: int, experts: int, half_life: float = HALF_LIFE) -> None:
        super().__init__(layers, experts)
        self._half_life = half_life

    def used(self, layer: int, experts: Sequence[int], step: int) -> None:
        """Kept is log2 of the sum of 2^(step / half_life): nothing is decayed, or overflows."""
        worth, now = self._worth[layer], step / self._half_life
        for expert in experts:
            more, less = max(now, worth[expert]), min(now, worth[expert])
            worth[expert] = more + log2(1 + 2.0 ** (less - more))


class LeastStale(_Ordered):
    """Stale experts leave first, by the order in which they came; those of this pass stay longest.

    After SpecMD (arXiv 2602.03921), whose abstract and summaries are what it is built from: stale
    is an expert that the current forward pass has neither used nor is expected to use. There, one
    cache holds the experts of all layers, and the policy keeps a pass from evicting what it needs
    in the layers to come. Slots of a layer's own do so under any policy; what is left of it here is
    first in, first out, with what was brought ahead kept.
    """

    def __init__(self, layers: int, experts: int) -> None:
        super().__init__(layers, experts)
        self._fresh = [[-1] * experts for _ in range(layers)]  # the step that last wanted it
        self._clock, self._step = 0, -1

    def used(self, layer: int, experts: Sequence[int], step: int) -> None:
        """Experts that are new here come after all that are."""
        self._step = max(self._step, step)
        worth, fresh = self._worth[layer], self._fresh[layer]
        for expert in experts:
            fresh[expert] = step
            if worth[expert] == -inf:
                self._clock += 1
                worth[expert] = self._clock

    def expected(self, layer: int, experts: Sequence[int], step: int) -> None:
        """They are brought ahead, and wanted by this pass."""
        self.used(layer, experts, step)

    def victims(
        self, layer: int, resident: Collection[int], count: int, keep: Collection[int]
    ) -> list[int]:
        """The stale ones in their order, then the others in theirs."""
        fresh, worth = self._fresh[layer], self._worth[layer]
        wanted = [expert for expert in resident if fresh[expert] == self._step]
        left = _spared(super().victims, layer, resident, count, keep, wanted)
        for expert in left:
            worth[expert] = -inf
        return left


class Predicted:
    """Experts that the next router was predicted to choose stay; others leave by `fallback`.

    A prediction stands until the layer's next one: a wrong one tells of an expert that was nearly
    chosen, which the next token often is.
    """

    def __init__(self, layers: int, experts: int, fallback: Policy | None = None) -> None:
        self._fallback = fallback or LFU(layers, experts)
        self._expected: list[Collection[int]] = [()] * layers

    def used(self, layer: int, experts: Sequence[int], step: int) -> None:
        """The fallback counts it."""
        self._fallback.used(layer, experts, step)

    def expected(self, layer: int, experts: Sequence[int], step: int) -> None:
        """In place of the layer's last prediction."""
        self._expected[layer] = experts
        self._fallback.expected(layer, experts, step)

    def victims(
        self, layer: int, resident: Collection[int], count: int, keep: Collection[int]
    ) -> list[int]:
        """Those not predicted by the fallback's order, then the others by it."""
        wanted = self._expected[layer]
        return _spared(self._fallback.victims, layer, resident, count, keep, wanted)


def _spared(
    victims: Callable[[int, Collection[int], int, Collection[int]], list[int]],
    layer: int,
    resident: Collection[int],
    count: int,
    keep: Collection[int],
    wanted: Collection[int],
) -> list[int]:
    """The victims that are not wanted, and wanted ones only where these do not suffice."""
    first = victims(layer, resident, count, {*keep, *wanted}) if wanted else []
    if len(first) == count:
        return first
    return first + victims(layer, resident, count - len(first), {*keep, *first})


POLICIES: Mapping[str, Callable[[int, int], Policy]] = {
    "lru": LRU,
    "lfu": LFU,
    "least-stale": LeastStale,
    "predicted": Predicted,
}
DEFAULT = "lfu"  # docs/paging.md has the simulator's figures


def policy(name: str, layers: int, experts: int) -> Policy:
    """A policy by its name, for a model of that many layers and experts a layer.

    Raises RequestError for a name that is none of POLICIES.
    """
    if name not in POLICIES:
        raise RequestError(f"policy {name!r} is not one of {', '.join(POLICIES)}")
    return POLICIES[name](layers, experts)

"""Replays a trace: what a policy with so many slots hits and misses, and how many bytes that moves.

A token's layers come one after another. What is predicted of a layer is brought ahead of it; then
its router chooses, and what lacks is missed: one halt, for all that lacks, and one replay. Slots
begin empty, and what happens in the first `warm` tokens is not counted.

Behind the GPU's slots there may be host memory of a budget: an LRU of its own for each layer, which
is asked for what the GPU lacks, and what it lacks comes from storage. An expert on the GPU may lie
in host memory too. Without such a budget host memory holds everything.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from doppler.errors import RequestError
from doppler.residency.cost import Demand
from doppler.residency.mixture import Mixture, need_slots
from doppler.residency.policy import LRU, Policy
from doppler.residency.sightings import Sightings
from doppler.residency.tiers import Tier
from doppler.residency.trace import Trace


@dataclass
class Replay:
    """Counts of the tokens that were counted. A use is one expert of one token in one layer."""

    tokens: int = 0
    uses: int = 0
    misses: int = 0
    halts: int = 0
    ahead: int = 0  # experts that were brought by prediction
    missed_bytes: dict[Tier, int] = field(default_factory=dict)
    ahead_bytes: dict[Tier, int] = field(default_factory=dict)

    @property
    def hit_rate(self) -> float:
        """Share of uses whose expert was there when its router had chosen."""
        return 1 - self.misses / max(self.uses, 1)

    @property
    def demand(self) -> Demand:
        """The same for one token, as `cost.token_time` takes it."""
        tokens = max(self.tokens, 1)
        return Demand(
            halts=self.halts / tokens,
            missed={tier: size / tokens for tier, size in self.missed_bytes.items()},
            ahead={tier: size / tokens for tier, size in self.ahead_bytes.items()},
        )


class Pool:
    """The slots of every layer, and who is in them."""

    def __init__(self, slots: Sequence[int], policy: Policy) -> None:
        self._slots, self._policy = slots, policy
        self._resident: list[set[int]] = [set() for _ in slots]

    def lacking(self, layer: int, experts: Collection[int]) -> list[int]:
        """Those that have no slot."""
        resident = self._resident[layer]
        return [expert for expert in experts if expert not in resident]

    def bring(self, layer: int, experts: Sequence[int], keep: Collection[int]) -> list[int]:
        """Gives slots to experts that lack, and says which got one: all that find room."""
        resident = self._resident[layer]
        free = self._slots[layer] - len(resident)
        if len(experts) > free:
            leaving = self._policy.victims(layer, resident, len(experts) - free, keep)
            resident.difference_update(leaving)
            experts = experts[: free + len(leaving)]
        resident.update(experts)
        return list(experts)


class _Ears:
    """What the policy hears: all uses as they come, or those since it was told of a layer last."""

    def __init__(self, trace: Trace, policy: Policy, *, at_halts: bool) -> None:
        self._policy = policy
        self._sightings = Sightings(policy, trace.layers, trace.experts) if at_halts else None
        self._last = [[0] * trace.experts for _ in range(trace.layers)]
        self._counts = [[0] * trace.experts for _ in range(trace.layers)]

    def hear(self, layer: int, used: Sequence[int], step: int) -> None:
        """Of one token."""
        if self._sightings is None:
            self._policy.used(layer, used, step)
            return
        for expert in used:
            self._last[layer][expert] = step
            self._counts[layer][expert] += 1

    def tell(self, layer: int) -> None:
        """Something is to be brought to the layer."""
        if self._sightings is not None:
            self._sightings.note(layer, self._last[layer], self._counts[layer])


class _Host:
    """What of the experts lies in host memory: everything, or what slots of its own hold."""

    def __init__(self, mixture: Mixture, slots: Sequence[int]) -> None:
        self._policy = LRU(mixture.layers, mixture.experts)
        self._pool = Pool(slots, self._policy) if slots else None

    def tiers(self, layer: int, experts: Sequence[int], step: int) -> list[Tier]:
        """Where each of them is found; those of storage come into host memory."""
        if self._pool is None:
            return ["host"] * len(experts)
        lacking = self._pool.lacking(layer, experts)
        self._policy.used(layer, experts, step)
        self._pool.bring(layer, lacking, experts)
        return ["storage" if expert in lacking else "host" for expert in experts]


def replay(
    trace: Trace,
    mixture: Mixture,
    policy: Policy,
    slots: Sequence[int],
    *,
    host_slots: Sequence[int] = (),
    warm: int = 0,
    at_halts: bool = False,
) -> Replay:
    """Replays a trace in slots a layer, by a policy that was made for it.

    What the trace predicts is brought ahead. With `at_halts` the policy hears of a layer's uses
    when something is brought to it, as where they stay on the GPU (sightings.py). Raises
    RequestError for slots that do not run it, and for a trace of another model.
    """
    _need_alike(trace, mixture)
    need_slots(mixture, slots)
    pool, host, result = Pool(slots, policy), _Host(mixture, host_slots), Replay()
    ears = _Ears(trace, policy, at_halts=at_halts)
    for step, token in enumerate(trace.tokens):
        counted = result if step >= warm else Replay()
        counted.tokens += 1
        predicted = trace.predicted[step] if trace.predicted else ()
        for layer, used in enumerate(token):
            unit = mixture.units[layer]
            if predicted and predicted[layer]:
                wanted = predicted[layer][: slots[layer]]
                policy.expected(layer, wanted, step)
                lacking = pool.lacking(layer, wanted)
                if lacking:
                    ears.tell(layer)
                got = pool.bring(layer, lacking, wanted)
                counted.ahead += len(got)
                _count(counted.ahead_bytes, host.tiers(layer, got, step), unit)
            if not used:
                continue
            lacking = pool.lacking(layer, used)
            ears.hear(layer, used, step)
            counted.uses += len(used)
            if lacking:
                counted.misses += len(lacking)
                counted.halts += 1
                ears.tell(layer)
                pool.bring(layer, lacking, used)
                _count(counted.missed_bytes, host.tiers(layer, lacking, step), unit)
    return result


def _count(sizes: dict[Tier, int], tiers: Sequence[Tier], unit: int) -> None:
    for tier in tiers:
        sizes[tier] = sizes.get(tier, 0) + unit


def _need_alike(trace: Trace, mixture: Mixture) -> None:
    here = (mixture.layers, mixture.experts, mixture.used)
    there = (trace.layers, trace.experts, trace.used)
    if here != there:
        raise RequestError(
            f"the trace of {trace.model!r} has {there[0]} layers, {there[1]} experts and "
            f"{there[2]} used; the mixture has {here[0]}, {here[1]} and {here[2]}"
        )

"""What paging a mixture would give, before it is imported: the simulator on a synthetic trace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from doppler.residency.cost import DEFAULT_RATES, Demand, Rates, TokenTime, token_time
from doppler.residency.mixture import Mixture, slots
from doppler.residency.policy import DEFAULT, policy
from doppler.residency.simulate import Replay, replay
from doppler.residency.synthetic import PROFILES, synthesize

LAYERS, TOKENS, WARM = 4, 160, 32  # of the trace: enough for two digits
FEW = 16  # experts of a layer, up to which they are used evenly, as Mixtral's are


@dataclass(frozen=True)
class Foresight:
    """What a budget for experts would give: how much is resident, and what a token takes."""

    slots: tuple[int, ...]
    hit_rate: float
    demand: Demand
    time: TokenTime


def foresee(
    mixture: Mixture,
    budget: int,
    resident_speed: float,
    *,
    host_budget: int | None = None,
    profile: str = "",
    rates: Rates = DEFAULT_RATES,
) -> Foresight:
    """What `budget` bytes of slots would give a model that makes `resident_speed` when it fits.

    Beside them, `host_budget` bytes of host memory hold experts; without one it holds them all. A
    few layers stand for all. The profile is one of PROFILES: by itself the most careful one. Raises
    RequestError where the budget does not hold one token's experts.
    """
    counts = slots(mixture, budget)
    if budget >= mixture.size:
        return Foresight(counts, 1.0, Demand(), token_time(resident_speed, Demand(), rates))
    behind = () if host_budget is None else slots(mixture, min(host_budget, mixture.size))
    result, scale = _sampled(mixture, counts, behind, profile)
    sampled = result.demand
    demand = Demand(
        halts=sampled.halts * scale,
        missed={tier: size * scale for tier, size in sampled.missed.items()},
    )
    return Foresight(counts, result.hit_rate, demand, token_time(resident_speed, demand, rates))


def _sampled(
    mixture: Mixture, counts: Sequence[int], behind: Sequence[int], profile: str
) -> tuple[Replay, float]:
    """A replay of a few layers, and how many there are for each of them."""
    mixed = [layer for layer, unit in enumerate(mixture.units) if unit]
    chosen = mixed[:: max(len(mixed) // LAYERS, 1)][:LAYERS]
    part = Mixture(mixture.experts, mixture.used, tuple(mixture.units[it] for it in chosen))
    kind = profile or ("mixtral" if mixture.experts <= FEW else "flat")
    trace = synthesize(
        kind,
        part.layers,
        part.experts,
        part.used,
        profile=PROFILES[kind],
        tokens=TOKENS,
    )
    result = replay(
        trace,
        part,
        policy(DEFAULT, part.layers, part.experts),
        [counts[it] for it in chosen],
        host_slots=[behind[it] for it in chosen] if behind else (),
        warm=WARM,
        at_halts=True,
    )
    return result, len(mixed) / len(chosen)

"""The simulator against a naive one, the model of cost against hand-computed times, foresight."""

from __future__ import annotations

import pytest

from doppler.errors import RequestError
from doppler.residency.cost import Demand, Rates, token_time
from doppler.residency.foresight import foresee
from doppler.residency.mixture import Mixture, slots
from doppler.residency.policy import LRU
from doppler.residency.simulate import replay
from doppler.residency.synthetic import PROFILES, synthesize
from doppler.residency.trace import Trace

RATES = Rates(upload=1000, storage=100, remote=10, round_trip=0.5, overlap=0.5)


def test_a_token_that_lacks_nothing_takes_its_resident_time() -> None:
    time = token_time(4, Demand(), RATES)
    assert (time.total, time.tokens_a_second) == (0.25, 4)


def test_a_token_waits_for_its_halts_and_bytes() -> None:
    demand = Demand(halts=3, missed={"host": 200, "storage": 50, "remote": 10})
    time = token_time(4, demand, RATES)
    assert demand.moved == 260
    assert time.halts == 1.5
    assert time.waiting == pytest.approx({"host": 0.2, "storage": 0.55, "remote": 1.01})
    assert time.total == pytest.approx(0.25 + 1.5 + 0.2 + 0.55 + 1.01)


def test_what_comes_ahead_is_hidden_as_far_as_the_token_computes() -> None:
    for size, waited in ((100, 0.0), (125, 0.0), (200, 0.075)):
        time = token_time(4, Demand(ahead={"host": size}), RATES)
        assert time.total == pytest.approx(0.25 + waited)


def test_rates_and_speeds_are_positive() -> None:
    for wrong in ({"upload": 0}, {"storage": -1}, {"round_trip": -0.1}, {"overlap": 1.5}):
        with pytest.raises(RequestError):
            Rates(**wrong)
    with pytest.raises(RequestError, match="resident speed of 0"):
        token_time(0, Demand())


def test_slots_share_a_budget() -> None:
    mixture = Mixture(4, 2, (10, 0, 20, 10))
    assert (mixture.size, mixture.least, mixture.layers) == (160, 80, 4)
    assert slots(mixture, 80) == (2, 0, 2, 2)
    assert slots(mixture, 119) == (3, 0, 3, 2)  # 39 more: one of 10, one of 20, and no third
    assert slots(mixture, 120) == (3, 0, 3, 3)
    assert slots(mixture, 10**6) == (4, 0, 4, 4)
    with pytest.raises(RequestError, match=r"a budget of 79 bytes .* take 80; give at least"):
        slots(mixture, 79)


def naive(trace: Trace, counts: list[int], warm: int) -> tuple[int, int, int]:
    """Uses, misses and halts of LRU, by lists in the order of use."""
    held: list[list[int]] = [[] for _ in counts]
    uses = misses = halts = 0
    for step, token in enumerate(trace.tokens):
        for layer, used in enumerate(token):
            lacking = [expert for expert in used if expert not in held[layer]]
            order = [expert for expert in held[layer] if expert not in used]
            room = counts[layer] - len(used)
            held[layer] = (order[-room:] if room else []) + list(used)
            if step >= warm:
                uses += len(used)
                misses += len(lacking)
                halts += bool(lacking)
    return uses, misses, halts


@pytest.mark.parametrize("counts", [[2, 2, 2], [2, 5, 3], [8, 8, 8]])
def test_counts_are_those_of_a_naive_model(counts: list[int]) -> None:
    trace = synthesize("m", 3, 8, 2, profile=PROFILES["flat"], tokens=120, seed=2)
    mixture = Mixture(8, 2, (100, 10, 1))
    result = replay(trace, mixture, LRU(3, 8), counts, warm=20)
    assert (result.uses, result.misses, result.halts) == naive(trace, counts, 20)
    assert result.tokens == 100
    assert result.hit_rate == 1 - result.misses / result.uses
    assert result.demand.halts == result.halts / 100


def test_bytes_are_those_of_each_layer_and_tier() -> None:
    """Layer 0 has room for all, layer 1 for one token's: by hand, with host memory of two."""
    tokens = (((0,), (0,)), ((1,), (1,)), ((0,), (0,)), ((0,), (2,)), ((1,), (0,)))
    trace = Trace("m", 2, 3, 1, tokens)
    mixture = Mixture(3, 1, (100, 7))
    everything = replay(trace, mixture, LRU(2, 3), [3, 1])
    assert (everything.misses, everything.halts) == (7, 7)
    assert everything.missed_bytes == {"host": 2 * 100 + 5 * 7}
    # In layer 1 host memory holds 0 and 1, has 0, takes 2 for 1, and has 0 again.
    behind = replay(trace, mixture, LRU(2, 3), [3, 1], host_slots=[2, 2])
    assert behind.missed_bytes == {"storage": 2 * 100 + 3 * 7, "host": 2 * 7}
    assert behind.demand.missed == {"storage": 221 / 5, "host": 14 / 5}


def test_what_does_not_run_is_refused() -> None:
    trace = synthesize("m", 2, 8, 2, profile=PROFILES["flat"], tokens=2)
    with pytest.raises(RequestError, match="layer 1 has 1 slots; a token uses 2"):
        replay(trace, Mixture(8, 2, (1, 1)), LRU(2, 8), [2, 1])
    with pytest.raises(RequestError, match="slots are given for 1 layers of 2"):
        replay(trace, Mixture(8, 2, (1, 1)), LRU(2, 8), [2])
    with pytest.raises(RequestError, match="the trace of 'm' has 2 layers, 8 experts and 2 used"):
        replay(trace, Mixture(8, 3, (1, 1)), LRU(2, 8), [3, 3])


def test_foresight_is_what_the_simulator_and_the_model_of_cost_say() -> None:
    mixture = Mixture(32, 4, (0, *[1000] * 12))  # a first layer without a mixture
    all_of_it = foresee(mixture, mixture.size, 100)
    assert (all_of_it.hit_rate, all_of_it.time.tokens_a_second) == (1, 100)
    speeds = []
    for share in (0.125, 0.25, 0.5, 0.75):
        seen = foresee(mixture, int(mixture.size * share), 100, rates=RATES)
        assert seen.slots == (0, *[int(32 * share)] * 12)
        missed = 12 * 4 * (1 - seen.hit_rate) * 1000  # all layers, though four were replayed
        assert seen.demand.missed == pytest.approx({"host": missed})
        assert seen.time == token_time(100, seen.demand, RATES)
        assert 12 * 0.9 * (share < 0.2) < seen.demand.halts <= 12  # of the layers that have some
        speeds.append(seen.time.tokens_a_second)
    assert speeds == sorted(speeds)
    assert speeds[0] < speeds[-1] / 2
    careful = foresee(mixture, mixture.least, 100)
    local = foresee(mixture, mixture.least, 100, profile="local")
    stored = foresee(mixture, mixture.least, 100, host_budget=mixture.least)
    assert stored.time.total > careful.time.total > local.time.total
    with pytest.raises(RequestError, match="too small"):
        foresee(mixture, mixture.least - 1, 100)

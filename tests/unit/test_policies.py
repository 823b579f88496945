"""Policies of residency: who leaves, on uses so few that it can be told by hand."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest

from doppler.errors import RequestError
from doppler.residency.belady import Belady
from doppler.residency.mixture import Mixture
from doppler.residency.policy import DEFAULT, LFU, LRU, POLICIES, LeastStale, Predicted, policy
from doppler.residency.sightings import WRAP, Sightings
from doppler.residency.simulate import replay
from doppler.residency.synthetic import PROFILES, foretell, synthesize
from doppler.residency.trace import Trace

LAYERS, EXPERTS = 3, 8


def test_lru_lets_go_of_the_longest_unused() -> None:
    lru = LRU(LAYERS, EXPERTS)
    for step, used in enumerate([(0, 1), (2, 3), (1, 2)]):
        lru.used(0, used, step)
    assert lru.victims(0, {0, 1, 2, 3}, 4, ()) == [0, 3, 1, 2]
    assert lru.victims(0, {0, 1, 2, 3}, 2, (0, 3)) == [1, 2]


def test_experts_of_a_batch_are_as_recent_as_their_tokens() -> None:
    lru = LRU(LAYERS, EXPERTS)
    lru.used(1, [5, 4, 5, 6, 4], 0)  # tokens of one expert each: the last of 5 came before 6 and 4
    assert lru.victims(1, [4, 5, 6], 3, ()) == [5, 6, 4]


def test_what_nobody_used_leaves_first_by_every_policy() -> None:
    for name in POLICIES:
        chosen = policy(name, LAYERS, EXPERTS)
        chosen.used(2, (6, 3), 0)
        assert chosen.victims(2, [7, 3, 6, 5], 2, ()) == [5, 7], name


def test_layers_know_nothing_of_one_another() -> None:
    for name in POLICIES:
        chosen = policy(name, LAYERS, EXPERTS)
        for step, used in enumerate([(0,), (1,), (2,)]):
            chosen.used(1, used, step)
        chosen.used(0, (2,), 3)
        chosen.used(0, (0,), 4)
        assert chosen.victims(1, {0, 1, 2}, 1, ()) == [0], name


def test_lfu_counts_uses_and_lru_does_not() -> None:
    lfu, lru = LFU(LAYERS, EXPERTS), LRU(LAYERS, EXPERTS)
    for step, used in enumerate([(0,), (0,), (0,), (1,), (2,), (2,)]):
        lfu.used(0, used, step)
        lru.used(0, used, step)
    assert lfu.victims(0, {0, 1, 2}, 2, ()) == [1, 2]
    assert lru.victims(0, {0, 1, 2}, 2, ()) == [0, 1]


def test_lfu_forgets_by_half_lives() -> None:
    """Three uses weigh 1.06 after one and a half half-lives, and 0.92 after 1.7."""
    for late, leaves in ((15, 1), (17, 0)):
        lfu = LFU(LAYERS, EXPERTS, half_life=10)
        lfu.used(0, (0, 0), 0)
        lfu.used(0, (0,), 0)
        lfu.used(0, (1,), late)
        assert lfu.victims(0, {0, 1}, 1, ()) == [leaves]


def test_lfu_stays_finite_however_far_steps_go() -> None:
    lfu = LFU(1, EXPERTS, half_life=1)
    lfu.used(0, (0,), 0)
    lfu.used(0, (0, 1), 10**7)
    lfu.used(0, (2,), 0)  # an owner that begins anew at 0 spoils the order, not the run
    lfu.used(0, (1,), 1)
    assert lfu.victims(0, {0, 1, 2}, 1, ()) == [2]


def test_least_stale_is_first_in_first_out() -> None:
    stale = LeastStale(LAYERS, EXPERTS)
    for step, used in enumerate([(0, 1), (2, 0), (0, 1)]):
        stale.used(0, used, step)
    stale.used(1, (0,), 3)  # the pass goes on to step 3, in which layer 0 has used nothing yet
    assert stale.victims(0, {0, 1, 2}, 2, ()) == [0, 1]
    stale.used(0, (0,), 4)  # which left: it comes anew, after 2
    stale.used(1, (0,), 5)
    assert stale.victims(0, {0, 2}, 2, ()) == [2, 0]


def test_least_stale_keeps_what_this_pass_has_brought() -> None:
    stale = LeastStale(LAYERS, EXPERTS)
    stale.used(0, (3, 4, 5), 0)
    stale.expected(0, (3, 6), 1)
    assert stale.victims(0, {3, 4, 5, 6}, 3, ()) == [4, 5, 3]


def test_predicted_experts_stay_until_the_next_prediction() -> None:
    chosen = Predicted(LAYERS, EXPERTS, LRU(LAYERS, EXPERTS))
    for step, used in enumerate([(0,), (1,), (2,)]):
        chosen.used(0, used, step)
    chosen.expected(0, (0, 1), 3)
    assert chosen.victims(0, {0, 1, 2}, 1, ()) == [2]
    assert chosen.victims(0, {0, 1, 2}, 3, ()) == [2, 0, 1]
    chosen.used(0, (4,), 3)
    assert chosen.victims(0, {0, 1, 2}, 1, ()) == [2]
    chosen.expected(0, (2,), 4)
    assert chosen.victims(0, {0, 1, 2}, 1, ()) == [0]


def test_predictions_have_no_say_where_uses_alone_count() -> None:
    for kind in (LRU, LFU):
        chosen = kind(LAYERS, EXPERTS)
        chosen.used(0, (0,), 0)
        chosen.used(0, (1,), 1)
        chosen.expected(0, (0,), 2)
        assert chosen.victims(0, {0, 1}, 1, ()) == [0]


@pytest.mark.parametrize("name", POLICIES)
def test_victims_are_never_kept_ones_nor_more_than_asked(name: str) -> None:
    rng = Random(3)
    chosen = policy(name, 1, EXPERTS)
    for step in range(300):
        resident = set(rng.sample(range(EXPERTS), rng.randrange(EXPERTS + 1)))
        keep = rng.sample(range(EXPERTS), rng.randrange(EXPERTS + 1))
        count = rng.randrange(EXPERTS + 1)
        if rng.random() < 0.5:
            chosen.expected(0, rng.sample(range(EXPERTS), 3), step)
        chosen.used(0, rng.choices(range(EXPERTS), k=rng.randrange(5)), step)
        left = chosen.victims(0, resident, count, keep)
        assert len(set(left)) == len(left) == min(count, len(resident - set(keep)))
        assert set(left) <= resident - set(keep)


@pytest.mark.parametrize("name", POLICIES)
def test_a_batch_that_wants_more_than_the_slots_hold(name: str) -> None:
    """Passes bring it part by part: what came before leaves, and what is wanted now never does."""
    chosen = policy(name, 1, EXPERTS)
    wanted, resident = list(range(EXPERTS)), {0, 1, 2}
    chosen.expected(0, wanted, 0)
    chosen.used(0, wanted, 0)
    for part in ([0, 1, 2], [3, 4, 5], [6, 7]):
        lacking = [expert for expert in part if expert not in resident]
        left = chosen.victims(0, resident, len(lacking), part)
        assert len(left) == len(lacking)
        resident = resident - set(left) | set(lacking)
        assert set(part) <= resident
        assert len(resident) == 3
    assert chosen.victims(0, resident, 3, wanted) == []


def test_a_policy_has_a_name() -> None:
    assert DEFAULT in POLICIES
    with pytest.raises(RequestError, match="'mru' is not one of lru, lfu, least-stale, predicted"):
        policy("mru", 1, 1)


def farthest(uses: list[tuple[int, ...]], slots: int) -> int:
    """The fewest misses there can be, by trying every way."""
    states = {frozenset[int](): 0}
    for used in uses:
        following: dict[frozenset[int], int] = {}
        for state, misses in states.items():
            lacking = set(used) - state
            for kept in _subsets(state - set(used), slots - len(used)):
                after = frozenset(kept | set(used))
                cost = misses + len(lacking)
                following[after] = min(following.get(after, cost), cost)
        states = following
    return min(states.values())


def _subsets(items: frozenset[int], most: int) -> list[set[int]]:
    found: list[set[int]] = [set()]
    for item in items:
        found += [subset | {item} for subset in found]
    return [subset for subset in found if len(subset) <= most]


def test_nothing_misses_less_than_beladys_bound() -> None:
    rng = Random(5)
    for _ in range(20):
        uses = [tuple(rng.sample(range(6), 2)) for _ in range(14)]
        trace = Trace("m", 1, 6, 2, tuple((used,) for used in uses))
        assert replay(trace, Mixture(6, 2, (1,)), Belady(trace), [4]).misses == farthest(uses, 4)


@pytest.mark.parametrize("slots", [2, 3, 5])
def test_no_policy_beats_beladys_bound(slots: int) -> None:
    mixture = Mixture(EXPERTS, 2, (1, 0, 1))
    for kind in PROFILES.values():
        plain = synthesize("m", 3, EXPERTS, 2, profile=kind, tokens=150, seed=slots)
        # The second layer has no mixture.
        trace = Trace("m", 3, EXPERTS, 2, tuple((a, (), c) for a, _, c in plain.tokens))
        held = [slots, 0, slots]
        bound = replay(trace, mixture, Belady(trace), held)
        for name in POLICIES:
            result = replay(trace, mixture, policy(name, 3, EXPERTS), held)
            assert result.uses == bound.uses == 600
            assert result.misses >= bound.misses
            assert result.misses > bound.misses or slots == 2


@pytest.mark.parametrize("late", [False, True])
def test_predictions_bring_ahead_what_would_be_missed(late: bool) -> None:
    trace = foretell(
        synthesize("m", 2, 32, 4, profile=PROFILES["flat"], tokens=200), recall=1, precision=1
    )
    mixture = Mixture(32, 4, (10, 10))
    blind = replay(Trace("m", 2, 32, 4, trace.tokens), mixture, LFU(2, 32), [8, 8])
    told = replay(trace, mixture, Predicted(2, 32), [8, 8], at_halts=late)
    assert blind.misses > 0
    assert (told.misses, told.halts) == (0, 0)
    assert told.ahead == pytest.approx(blind.misses, rel=0.02 if late else 0)
    assert told.ahead_bytes == {"host": 10 * told.ahead}


class Heard(LRU):
    """What it was told, in order."""

    def __init__(self) -> None:
        super().__init__(2, 4)
        self.told: list[tuple[int, list[int], int]] = []

    def used(self, layer: int, experts: Sequence[int], step: int) -> None:
        self.told.append((layer, list(experts), step))


def test_sightings_tell_what_was_used_since_a_layer_halted_last() -> None:
    heard = Heard()
    sightings = Sightings(heard, 2, 4, ticks=10)
    sightings.note(1, [30, 0, 12, 30], [1, 0, 3, 1])
    assert heard.told == [(1, [2, 2, 2], 1), (1, [0, 3], 3)]
    sightings.note(1, [30, 0, 12, 30], [1, 0, 3, 1])
    assert len(heard.told) == 2
    sightings.note(1, [30, 55, 41, 30], [1, 1, 4, 1])
    assert heard.told[2:] == [(1, [2], 4), (1, [1], 5)]
    sightings.note(0, [9, 0, 0, 0], [1, 0, 0, 0])
    assert heard.told[4:] == [(0, [0], 0)]


def test_sightings_of_what_is_run_in_passes() -> None:
    """It counts as used when a layer was last heard of, and what comes later as later."""
    heard = Heard()
    sightings = Sightings(heard, 2, 4, ticks=10)
    sightings.passed(0, {3: 2})
    sightings.note(1, [30, 0, 52, 30], [1, 0, 3, 1])
    sightings.passed(0, {1: 1, 2: 2})
    assert [heard.told[0], heard.told[-1]] == [(0, [3, 3], 0), (0, [1, 2, 2], 5)]
    sightings.note(0, [0, 60, 0, 0], [0, 1, 0, 0])
    assert heard.told[-1] == (0, [1], 6)


def test_sightings_survive_counts_that_begin_anew() -> None:
    heard = Heard()
    sightings = Sightings(heard, 2, 4)
    sightings.note(0, [1, 0, 0, 0], [1, 0, 0, 0])
    sightings._seen[0][0] = WRAP  # after four billion uses
    sightings.note(0, [5, 0, 0, 0], [1, 0, 0, 0])
    assert heard.told[-1] == (0, [0, 0], 5)


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_told_at_halts_does_as_well(name: str) -> None:
    trace = synthesize("m", 3, 64, 4, profile=PROFILES["local"], tokens=300)
    mixture = Mixture(64, 4, (1,) * 3)
    hits = [
        replay(trace, mixture, policy(name, 3, 64), [24] * 3, warm=32, at_halts=at_halts).hit_rate
        for at_halts in (False, True)
    ]
    assert hits[0] == pytest.approx(hits[1], abs=0.01)
    assert 0.5 < hits[0] < 1

"""The simulation of churn: small swarms, where it is known what must come out."""

from __future__ import annotations

from dataclasses import replace

from doppler.swarm.churn import Scenario, simulate

SMALL = Scenario(copies=3, lifetime=1.0, peers=10, shards=8, wanted=2, room=6, hours=12.0)
SEEDS = range(4)


def test_a_run_is_the_same_again() -> None:
    assert simulate(SMALL, 1) == simulate(SMALL, 1)


def test_without_volunteers_what_few_want_is_lost() -> None:
    runs = [simulate(replace(SMALL, copies=0), seed) for seed in SEEDS]
    assert all(run.lost_after is not None and run.volunteered == 0 for run in runs)


def test_copies_keep_it() -> None:
    kept = [simulate(replace(SMALL, copies=6, lifetime=4.0), seed) for seed in SEEDS]
    few = [simulate(replace(SMALL, copies=1), seed) for seed in SEEDS]
    assert all(run.lost_after is None for run in kept)
    assert sum(run.lost_after is not None for run in few) >= 2
    assert min(run.rarest for run in kept) > max(run.rarest for run in few)


def test_nobody_leaves_where_all_stay() -> None:
    """With endless lives the rarest shard comes to R copies and stays there."""
    run = simulate(replace(SMALL, lifetime=1e9, copies=4), 0)
    assert run.lost_after is None
    assert 3.5 < run.rarest <= 10


def test_what_cannot_be_uploaded_cannot_be_kept() -> None:
    """The seed cannot leave while nobody has a byte from it, and nothing is lost then."""
    run = simulate(replace(SMALL, upload=0), 0)
    assert (run.lost_after, run.rarest, run.volunteered) == (None, 0, 0)

"""Simulates swarms whose peers come and go: does a model survive, by the copies that are kept?

    .venv/bin/python scripts/simulate_churn.py [--runs 40] [--plot docs/swarm.svg]

docs/swarm.md says what the model is. Forty runs take some minutes.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median

from doppler.command.bench.plot import Bar, Panel, picture
from doppler.swarm.churn import Outcome, Scenario, simulate

COPIES = (0, 2, 4, 8)
LIFETIMES = (0.5, 1.0, 2.0)  # hours


@dataclass(frozen=True)
class Row:
    """All runs of one R and one lifetime."""

    copies: int
    lifetime: float
    outcomes: Sequence[Outcome]

    @property
    def survived(self) -> float:
        """Share of the runs in which no shard was lost."""
        return mean(outcome.lost_after is None for outcome in self.outcomes)

    @property
    def rarest(self) -> float:
        """Copies of the rarest shard, on average."""
        return mean(outcome.rarest for outcome in self.outcomes)

    @property
    def volunteered(self) -> float:
        """Shards moved for others' sake, by peer and hour."""
        return mean(outcome.volunteered for outcome in self.outcomes)

    @property
    def lost_after(self) -> str:
        """Hours to the loss, the median of those runs that had one."""
        hours = [it.lost_after for it in self.outcomes if it.lost_after is not None]
        return f"{median(hours):.1f}" if hours else "–"


def rows(runs: int) -> Iterator[Row]:
    """Every R at every lifetime."""
    for lifetime in LIFETIMES:
        for copies in COPIES:
            scenario = Scenario(copies, lifetime)
            yield Row(copies, lifetime, [simulate(scenario, seed) for seed in range(runs)])


def panels(found: Sequence[Row]) -> list[Panel]:
    """What survived, and how many copies there were."""
    survived, rarest = [], []
    for row in found:
        label = f"R = {row.copies}, stays {row.lifetime:g} h"
        survived.append(Bar(label, 0, 100 * row.survived, f"{row.survived:.0%}"))
        rarest.append(Bar(label, 0, row.rarest, f"{row.rarest:.1f}"))
    return [
        Panel("Runs in which no shard was lost in 12 hours, %", survived),
        Panel("Copies of the rarest shard, mean", rarest),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=40, help="of each R and lifetime (40)")
    parser.add_argument("--plot", type=Path, help="an SVG of the table")
    args = parser.parse_args()
    print("| peers stay, h | R | survived | lost after, h | rarest | volunteered a peer and hour |")
    print("|---|---|---|---|---|---|")
    found = []
    for row in rows(args.runs):
        print(
            f"| {row.lifetime:g} | {row.copies} | {row.survived:.0%} | {row.lost_after} | "
            f"{row.rarest:.1f} | {row.volunteered:.1f} |",
            flush=True,
        )
        found.append(row)
    if args.plot:
        below = f"{args.runs} runs each, simulated by scripts/simulate_churn.py; not measured"
        text = picture("Churn: what copies are worth", below, panels(found))
        args.plot.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

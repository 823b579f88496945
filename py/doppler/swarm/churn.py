"""What becomes of a model whose peers come and go, by the copies of each shard that they keep.

A simulation in steps, on CPython. A swarm has a mean number of peers; each stays for a time that is
exponentially distributed, and then is gone without a word. A peer wants some of the shards for
itself, popular ones rather than others, and has room for some more: with those it volunteers for
shards of which fewer than R copies are seen. What it sees is what there was a step ago. The one
peer that has everything leaves once each shard lies somewhere else, too. A shard of which the last
copy is gone is lost, for nobody comes back.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Scenario:
    """Rates are shards a step and peer: 16 MiB in a minute are 2.2 Mbit/s."""

    copies: int  # R: a shard with fewer is volunteered for; 0: nobody volunteers
    lifetime: float  # hours that a peer stays on average
    peers: int = 24  # on average
    shards: int = 32
    wanted: int = 8  # that a peer wants for itself
    room: int = 8  # that it has room for besides
    skew: float = 1.0  # of their popularity: the n-th is wanted as 1 / n ** skew
    upload: int = 2
    download: int = 6
    step: float = 1 / 60  # hours: as often as peers tell each other what they have
    hours: float = 12.0

    @property
    def steps(self) -> int:
        """Steps of a run."""
        return round(self.hours / self.step)


@dataclass(frozen=True)
class Outcome:
    """One run. lost_after: hours from the seed's leaving until a shard was lost, None if none was.
    rarest: copies of the rarest shard, the mean over the time from that leaving to the end or the
    loss. volunteered: shards that were moved for others' sake, by peer and hour.
    """

    lost_after: float | None
    rarest: float
    volunteered: float


class _Swarm:
    """Who has what: a row for each peer, a column for each shard."""

    def __init__(self, scenario: Scenario, chance: np.random.Generator) -> None:
        self._scenario, self._chance = scenario, chance
        popularity = 1 / np.arange(1, scenario.shards + 1) ** scenario.skew
        self._popularity = popularity / popularity.sum()
        none = np.zeros((0, scenario.shards), dtype=bool)
        self.has, self.wants = none, none
        self.volunteered = 0
        self._seeing = np.zeros(scenario.shards, dtype=int)
        self._draws = np.zeros(0)
        self._add(np.ones(scenario.shards, dtype=bool))
        for _ in range(scenario.peers):
            self._add(np.zeros(scenario.shards, dtype=bool))

    def copies(self, first: int = 0) -> NDArray[np.int_]:
        """Copies of each shard, at peers from the `first` on."""
        counted: NDArray[np.int_] = self.has[first:].sum(axis=0)
        return counted

    def drop(self, rows: Flags) -> None:
        """Peers that are gone."""
        self.has, self.wants = self.has[~rows], self.wants[~rows]

    def churn(self, first: int) -> None:
        """Peers leave, from the `first` on, and others come."""
        scenario, chance = self._scenario, self._chance
        leaves = chance.random(len(self.has)) < scenario.step / scenario.lifetime
        leaves[:first] = False
        self.drop(leaves)
        mean = scenario.peers * scenario.step / scenario.lifetime
        for _ in range(chance.poisson(mean)):
            self._add(np.zeros(scenario.shards, dtype=bool))

    def exchange(self) -> None:
        """One step of it: everybody gets what it wants, then what too few have, rarest first."""
        before, uploads = self.has.copy(), np.full(len(self.has), self._scenario.upload)
        self._draws = self._chance.random(len(self.has))
        for peer in self._chance.permutation(len(self.has)):
            left = self._scenario.download
            for shard in self._missing(peer):
                if not left:
                    break
                sources = np.flatnonzero(before[:, shard] & (uploads > 0))
                if not len(sources) or not self._make_room(peer, shard):
                    continue
                uploads[self._chance.choice(sources)] -= 1
                self.has[peer, shard] = True
                self.volunteered += not self.wants[peer, shard]
                left -= 1
        self._seeing = before.sum(axis=0)

    def _add(self, has: Flags) -> None:
        scenario = self._scenario
        wanted = self._chance.choice(
            scenario.shards, scenario.wanted, replace=False, p=self._popularity
        )
        wants = np.zeros(scenario.shards, dtype=bool)
        wants[wanted] = True
        self.has, self.wants = np.vstack((self.has, has)), np.vstack((self.wants, wants))

    def _missing(self, peer: int) -> list[int]:
        """What a peer asks for: its own, then what it volunteers for; the rarest first."""
        rarity = self._seeing + self._chance.random(self._scenario.shards)  # ties by chance
        lacks = ~self.has[peer]
        own = np.flatnonzero(lacks & self.wants[peer])
        rare = np.flatnonzero(lacks & ~self.wants[peer] & (self._seeing < self._scenario.copies))
        return [*own[np.argsort(rarity[own])], *rare[np.argsort(rarity[rare])]]

    def _make_room(self, peer: int, shard: int) -> bool:
        """Whether there is room. For that a volunteer gives up, once a step, what more than R have:
        with a chance that leaves R of them, since the others may do the same now.
        """
        if self.wants[peer, shard]:
            return True
        beside = np.flatnonzero(self.has[peer] & ~self.wants[peer])
        if len(beside) < self._scenario.room:
            return True
        most = beside[np.argmax(self._seeing[beside])]
        seen = int(self._seeing[most])
        if self._draws[peer] * seen >= seen - self._scenario.copies:
            return False
        self._draws[peer] = 1  # not again in this step
        self.has[peer, most] = False
        return True


def simulate(scenario: Scenario, seed: int) -> Outcome:
    """One run, the same for the same seed."""
    swarm = _Swarm(scenario, np.random.default_rng(seed))
    seeds = 1  # the first row, until it leaves
    left_at, rarest, peers = 0, 0, 0
    for step in range(scenario.steps):
        if seeds and swarm.copies(1).min() > 0:
            gone = np.zeros(len(swarm.has), dtype=bool)
            gone[0] = True
            swarm.drop(gone)
            seeds, left_at = 0, step
        swarm.churn(seeds)
        peers += len(swarm.has)
        if not seeds:
            least = int(swarm.copies().min())
            if least == 0:
                hours = (step - left_at) * scenario.step
                return _outcome(scenario, swarm, hours, rarest / max(1, step - left_at), peers)
            rarest += least
        swarm.exchange()
    return _outcome(scenario, swarm, None, rarest / max(1, scenario.steps - left_at), peers)


def _outcome(
    scenario: Scenario, swarm: _Swarm, lost_after: float | None, rarest: float, peers: int
) -> Outcome:
    return Outcome(lost_after, rarest, swarm.volunteered / (peers * scenario.step))

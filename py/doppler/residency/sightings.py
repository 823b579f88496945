"""What a policy hears where routers' choices stay on the GPU.

Nothing is read back of a layer that lacks nothing. The GPU keeps two numbers of each expert: when
it was used last, and how often so far. When a layer halts both are read, and its policy hears of
all that was used since: each use counts, at the time of the expert's last one. Where experts are
brought ahead and nothing halts any more, they have to be read then, or the policy hears nothing.
What a batch uses that is run in passes is not counted there, and told by the host.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby

from doppler.residency.policy import Policy

WRAP = 0xFFFFFFFF  # counts on the GPU are u32


class Sightings:
    """Tells `policy` what is read. `ticks` is how far the GPU's clock goes in a token."""

    def __init__(self, policy: Policy, layers: int, experts: int, ticks: int = 1) -> None:
        self._policy, self._ticks = policy, ticks
        self._seen = [[0] * experts for _ in range(layers)]
        self._now = 0  # the latest time that was read

    def note(self, layer: int, last: Sequence[int], counts: Sequence[int]) -> None:
        """`last`: the time of each expert's last use; `counts`: its uses since the beginning."""
        seen = self._seen[layer]
        if list(counts) == seen:
            return
        news = sorted(
            (last[expert], expert, (count - seen[expert]) & WRAP)
            for expert, count in enumerate(counts)
            if count != seen[expert]
        )
        for time, uses in groupby(news, key=lambda it: it[0]):
            experts = [expert for _, expert, times in uses for _ in range(times)]
            self._policy.used(layer, experts, time // self._ticks)
        self._seen[layer] = list(counts)
        self._now = max(self._now, news[-1][0])

    def passed(self, layer: int, wanted: Mapping[int, int]) -> None:
        """A batch that is run in passes uses these experts, each by so many tokens. It counts as
        one with what was read last.
        """
        experts = [expert for expert, pairs in wanted.items() for _ in range(pairs)]
        self._policy.used(layer, experts, self._now // self._ticks)

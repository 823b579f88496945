"""A synthetic router: traces of a set popularity of experts and a set likeness of tokens.

Each layer has its own order of its experts, and expert r of that order (from 1) the weight
(r + head)^-skew, after Zipf and Mandelbrot: `head`, a share of all experts, is how wide those in
front are alike. A token keeps each expert of the token before with the probability `likeness`, and
draws the others by weight, none twice. So few numbers, so that what follows from them can be told;
what real routers do beside that (tokens that always go one way, layers that agree) is not in it.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from random import Random

from doppler.errors import RequestError
from doppler.residency.trace import Layers, Trace


@dataclass(frozen=True)
class Profile:
    """How a router chooses. `likeness` is given at points evenly spread over the layers."""

    skew: float
    likeness: tuple[float, ...]
    head: float = 0.0

    def __post_init__(self) -> None:
        alike = self.likeness and all(0 <= it < 1 for it in self.likeness)
        if not alike or min(self.skew, self.head) < 0:
            raise RequestError(
                f"a router's likeness is 0 or more and below 1, its skew and head 0 or more: {self}"
            )

    def likeness_at(self, layer: int, layers: int) -> float:
        """Of one layer: between the points next to it, in a straight line."""
        last = len(self.likeness) - 1
        place = layer * last / max(layers - 1, 1)
        low = min(int(place), max(last - 1, 0))
        high = min(low + 1, last)
        return self.likeness[low] + (self.likeness[high] - self.likeness[low]) * (place - low)


# Fitted to published figures, which docs/paging.md lists; scripts/replay_traces.py --fit prints
# them beside those of the traces. `local` is a text of Qwen3-30B-A3B, `flat` one of
# Qwen3.8-Flash-Next, and `mixtral` the likeness of consecutive tokens in Mixtral's paper.
PROFILES: dict[str, Profile] = {
    "local": Profile(skew=3.0, likeness=(0.2,), head=1 / 8),
    "flat": Profile(skew=0.8, likeness=(0.0,)),
    "mixtral": Profile(skew=0.0, likeness=(0.01, 0.16, 0.04)),
}


class _Router:
    """One layer's: its experts by weight, and those of the token before."""

    def __init__(
        self, experts: int, used: int, profile: Profile, likeness: float, rng: Random
    ) -> None:
        self._used, self._likeness, self._rng = used, likeness, rng
        self._order = rng.sample(range(experts), experts)
        first = 1 + profile.head * experts
        weights = ((first + rank) ** -profile.skew for rank in range(experts))
        self._sums = list(accumulate(weights))
        self._before: list[int] = []

    def choose(self) -> tuple[int, ...]:
        """The experts of the next token."""
        rng, sums = self._rng, self._sums
        chosen = dict.fromkeys(it for it in self._before if rng.random() < self._likeness)
        while len(chosen) < self._used:
            chosen[self._order[bisect(sums, rng.random() * sums[-1])]] = None
        self._before = list(chosen)
        return tuple(chosen)


def synthesize(
    name: str, layers: int, experts: int, used: int, *, profile: Profile, tokens: int, seed: int = 0
) -> Trace:
    """A trace of that many tokens of a model; the same for the same seed.

    Raises RequestError for a token that uses more experts than there are.
    """
    if not 1 <= used <= experts:
        raise RequestError(f"a token cannot use {used} of {experts} experts")
    rng = Random(seed)
    routers = [
        _Router(experts, used, profile, profile.likeness_at(layer, layers), rng)
        for layer in range(layers)
    ]
    chosen = tuple(tuple(router.choose() for router in routers) for _ in range(tokens))
    return Trace(name, layers, experts, used, chosen)


def joined(traces: Sequence[Trace]) -> Trace:
    """Texts of one model on end, as a conversation that changes its subject."""
    first = traces[0]
    tokens = tuple(token for trace in traces for token in trace.tokens)
    return Trace(first.model, first.layers, first.experts, first.used, tokens)


def foretell(trace: Trace, recall: float, precision: float, seed: int = 0) -> Trace:
    """The same trace with predictions: `recall` of what is used, and `precision` of them right.

    Which are found, and which are named wrongly, is drawn evenly: real routers more often miss the
    experts that lack.
    """
    if not (0 <= recall <= 1 and 0 < precision <= 1):
        raise RequestError(f"recall {recall} and precision {precision} are not shares")
    rng = Random(seed)

    def of_layer(used: Sequence[int]) -> tuple[int, ...]:
        found = [expert for expert in used if rng.random() < recall]
        others = trace.experts - len(used)
        wrong = min(_rounded(len(found) * (1 / precision - 1), rng), others)
        named = dict.fromkeys(found)
        while len(named) < len(found) + wrong:
            expert = rng.randrange(trace.experts)
            if expert not in used:
                named[expert] = None
        return tuple(named)

    def of_token(token: Layers) -> Layers:
        return tuple(of_layer(used) for used in token)

    predicted = tuple(of_token(token) for token in trace.tokens)
    return Trace(trace.model, trace.layers, trace.experts, trace.used, trace.tokens, predicted)


def _rounded(value: float, rng: Random) -> int:
    """Up or down, so that the mean is the value."""
    return int(value) + (rng.random() < value % 1)

"""How local a trace is, in the words of those who published such figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from doppler.residency.trace import Trace


def of_layer(trace: Trace, layer: int) -> list[tuple[int, ...]]:
    """What one layer used, token by token."""
    return [token[layer] for token in trace.tokens]


def repeated_within(uses: Sequence[Sequence[int]], tokens: int) -> float:
    """Share of uses whose expert one of the `tokens` tokens before had used too."""
    found = total = 0
    for at in range(tokens, len(uses)):
        before = set().union(*uses[at - tokens : at])
        found += sum(expert in before for expert in uses[at])
        total += len(uses[at])
    return found / max(total, 1)


def any_repeated(uses: Sequence[Sequence[int]]) -> float:
    """Share of tokens of which at least one expert is one of the token before."""
    pairs = list(pairwise(uses))
    return sum(not set(a).isdisjoint(b) for a, b in pairs) / max(len(pairs), 1)


def share_of_busiest(uses: Sequence[Sequence[int]], experts: int) -> float:
    """Share of all uses that the `experts` most used ones have."""
    counts = Counter(expert for chosen in uses for expert in chosen)
    return sum(count for _, count in counts.most_common(experts)) / max(counts.total(), 1)

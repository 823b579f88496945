"""Into which chunks a prompt is cut: as large as they can be without the page waiting too long."""

from __future__ import annotations

import math

FIRST = 64  # tokens, until the adapter's speed is known
LEAST = 16  # which are not too many for any adapter
MOST_MS = 500.0  # a chunk should take no longer, so that it can be cancelled
PROMISING_MS = 350.0  # that the next larger size be tried


class ChunkSizes:
    """Sizes of chunks up to `most` tokens, chosen by the time that others took.

    Twice the tokens take less than twice the time, the more so where each expert of a mixture has
    few of them. So the next larger size is tried even where so many times the time would be too
    long, and left again if it is. Where weights are brought for every chunk (`are_few`), that is
    most of its time, and chunks are as large as they can be.
    """

    def __init__(self, most: int, *, are_few: bool = False) -> None:
        self._are_few = are_few
        self._sizes = sorted(
            {size for size in (1, 16, 64, 256, 512, 1024) if size <= most} | {most}
        )
        self._ms: dict[int, float] = {}  # of whole chunks, measured

    def size(self, left: int) -> int:
        """The smallest size that holds `left` tokens, or the largest that is quick."""
        quick = [size for size in self._sizes if self._is_quick(size)] or self._sizes[:1]
        return next((size for size in quick if size >= left), quick[-1])

    def note(self, size: int, tokens: int, ms: float) -> None:
        """A chunk of that size, with so many real tokens, took so long."""
        self._ms[size] = ms * size / tokens

    def _is_quick(self, size: int) -> bool:
        if self._are_few:
            return True
        if size <= LEAST or not self._ms:
            return size <= FIRST
        smaller = max((other for other in self._ms if other < size), default=None)
        if smaller is None:
            return self._ms.get(size, 0.0) <= MOST_MS
        before = self._ms[smaller]
        most = min(self._ms.get(size, math.inf), before * size / smaller)
        is_next = size not in self._ms and not any(smaller < s < size for s in self._sizes)
        return most <= MOST_MS or (is_next and before <= PROMISING_MS)

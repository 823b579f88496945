"""Which ids' keys and values are in the KV cache, and how much of a prompt need not be run again.

A layer with a window keeps its latest positions only (`capacity_of`). A prompt can go
on from where it differs from what was run before, unless some of what is seen from there was
overwritten meanwhile: then all of it is run anew.
"""

from __future__ import annotations

from collections.abc import Sequence

from doppler.config.layer import Layer


class PrefixCache:
    """The ids in the cache of layers with these capacities, in positions, and what was written."""

    def __init__(self, layers: Sequence[Layer], capacities: Sequence[int], context: int) -> None:
        self._context = context
        self._rings = {
            (layer.window, capacity)
            for layer, capacity in zip(layers, capacities, strict=True)
            if capacity < context
        }
        self._ids: list[int] = []
        self._end = 0  # of the positions that may have been written since the first one was

    def rewind(self, ids: Sequence[int]) -> int:
        """Number of leading ids already cached; the last id is always computed again.

        What the cache holds beyond them is forgotten.
        """
        shared = 0
        for cached, wanted in zip(self._ids, ids[:-1], strict=False):
            if cached != wanted:
                break
            shared += 1
        self.cut(shared if self._is_whole_before(shared) else 0)
        return len(self._ids)

    def cut(self, length: int) -> None:
        """Forgets all ids but the first `length`."""
        del self._ids[length:]
        if not self._ids:
            self._end = 0

    def extend(self, ids: Sequence[int]) -> None:
        """These follow: they are run, or queued to be."""
        self._ids += ids
        self.mark(len(self._ids))

    def mark(self, end: int) -> None:
        """Positions below `end` may be written, with whatever ids."""
        self._end = max(self._end, min(end, self._context))

    def _is_whole_before(self, position: int) -> bool:
        """Whether nothing was overwritten that tokens from `position` on see."""
        return all(
            max(position - window + 1, 0) >= self._end - capacity
            for window, capacity in self._rings
        )

"""Which ids' keys and values are in the KV cache, and how much of a prompt need not be run again.

A layer with a window keeps its latest positions only (`capacity_of`). A prompt can go
on from where it differs from what was run before, unless some of what is seen from there was
overwritten meanwhile: then all of it is run anew. Where layers have a recurrent state, it goes on
from the last checkpoint before that place (checkpoints.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from doppler.config.layer import Layer
from doppler.engine.checkpoints import Checkpoints


class PrefixCache:
    """The ids in the cache of layers with these capacities, in positions, and what was written.

    slots: checkpoints that there can be; 0 of a model without a recurrent state.
    """

    def __init__(
        self, layers: Sequence[Layer], capacities: Sequence[int], context: int, slots: int = 0
    ) -> None:
        self._context = context
        self._checkpoints = Checkpoints(slots)
        self._windows = {
            (layer.window, capacity)
            for layer, capacity in zip(layers, capacities, strict=True)
            if layer.attends and layer.window
        }
        self._lows: Mapping[int, int] = {}  # by window, where rows begin that were restored
        self._ids: list[int] = []
        self._end = 0  # of the positions that may have been written since the first one was
        self.changes = 0  # how often something of it was

    def rewind(self, ids: Sequence[int]) -> int:
        """Number of leading ids already cached; the last id is always computed again.

        What the cache holds beyond them is forgotten. The recurrent state, where there is one, has
        to be that of `checkpoint` then.
        """
        self.cut(self.reusable(ids))
        return len(self._ids)

    def reusable(self, ids: Sequence[int]) -> int:
        """What `rewind` would leave; nothing is forgotten."""
        shared = 0
        for cached, wanted in zip(self._ids, ids[:-1], strict=False):
            if cached != wanted:
                break
            shared += 1
        if self.is_recurrent:
            shared = self._checkpoints.last_until(shared)
        return shared if self._is_whole_before(shared) else 0

    @property
    def ids(self) -> Sequence[int]:
        """Those that were run, or are queued to be."""
        return self._ids

    def settle(self) -> None:
        """Nothing is queued any more: a state of what was queued behind an answer's end is of ids
        that nobody knows.
        """
        self._checkpoints.cut(len(self._ids))

    @property
    def savable(self) -> int:
        """After how many ids all is there that a prompt goes on from."""
        return self._checkpoints.last[0] if self.is_recurrent else len(self._ids)

    def first(self, window: int, capacity: int) -> int:
        """The first position of which layers with such a cache have what was run."""
        overwritten = self._end - capacity if capacity < self._context else 0
        return max(overwritten, self._lows.get(window, 0))

    def hold(self, ids: Sequence[int], lows: Mapping[int, int]) -> None:
        """The cache gets what was kept of these ids: in layers with a window (the keys of `lows`)
        from some position on, and the state after them in the slot that is the last then.
        """
        self.cut(0)
        self.extend(ids)
        self._lows = lows
        if self.is_recurrent:
            self._checkpoints.hold(len(ids))

    @property
    def is_recurrent(self) -> bool:
        """Whether there is a state that tokens change, and that cannot be cut back."""
        return bool(self._checkpoints)

    @property
    def checkpoint(self) -> int | None:
        """The slot of the last checkpoint; None where there is none."""
        return self._checkpoints.last[1]

    def stop(self, end: int) -> int:
        """Up to which position to run a prompt of `end` ids before its state is to be kept."""
        return self._checkpoints.stop(len(self._ids), end)

    def keep(self, end: int) -> int | None:
        """The slot that the state is to be copied to, as it is after all ids; None: to none.

        They are of a prompt of `end` ids.
        """
        return self._checkpoints.keep(len(self._ids), end)

    def keep_of_answer(self, at: int, steps: int) -> int | None:
        """The same after `at` ids, the last `steps` of which are queued at once, and not known."""
        return self._checkpoints.keep_of_answer(at, steps)

    def cut(self, length: int) -> None:
        """Forgets all ids but the first `length`, and the checkpoints behind them."""
        del self._ids[length:]
        self.changes += 1
        self._checkpoints.cut(length)
        if not self._ids:
            self._end, self._lows = 0, {}

    def extend(self, ids: Sequence[int]) -> None:
        """These follow: they are run, or queued to be."""
        self._ids += ids
        self.mark(len(self._ids))

    def mark(self, end: int) -> None:
        """Positions below `end` may be written, with whatever ids."""
        self._end = max(self._end, min(end, self._context))
        self.changes += 1

    def _is_whole_before(self, position: int) -> bool:
        """Whether nothing was overwritten that tokens from `position` on see."""
        return all(
            max(position - window + 1, 0) >= self.first(window, capacity)
            for window, capacity in self._windows
        )

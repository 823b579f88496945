"""What may be reused of a KV cache whose layers overwrite what is beyond their windows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from doppler.config.layer import Layer
from doppler.engine.prefix_cache import PrefixCache
from doppler.plan.bindings import MOST_AHEAD, capacity_of

CONTEXT = 600


class Rings:
    """The caches themselves, with ids instead of keys; checks what each token would see."""

    def __init__(self, windows: Sequence[int], batch: int) -> None:
        self.layers = [Layer(window) for window in windows]
        self.capacities = [capacity_of(window, CONTEXT, batch) for window in windows]
        self._slots: list[dict[int, tuple[int, int]]] = [{} for _ in windows]
        self._batch = batch

    def run(self, ids: Sequence[int], start: int) -> None:
        """Writes ids from `start` on, a batch at a time, and looks at what each batch sees."""
        for begin in range(start, len(ids), self._batch):
            batch = range(begin, min(begin + self._batch, len(ids)))
            self.write({position: ids[position] for position in batch})
            for position in batch:
                assert self.lacks(ids, position) == set()

    def write(self, ids: dict[int, int]) -> None:
        for slots, capacity in zip(self._slots, self.capacities, strict=True):
            slots.update({position % capacity: (position, id) for position, id in ids.items()})

    def lacks(self, ids: Sequence[int], position: int) -> set[int]:
        """Positions that a token there sees and that are not in every cache."""
        return {
            seen
            for layer, slots, capacity in zip(
                self.layers, self._slots, self.capacities, strict=True
            )
            for seen in range(max(position - layer.window + 1, 0) if layer.window else 0, position)
            if slots.get(seen % capacity) != (seen, ids[seen])
        }


@pytest.mark.parametrize("windows", [(64, 0), (7, 64, 0), (30,), (0, 0), (1000, 0)])
@pytest.mark.parametrize("batch", [1, 16, 200])
def test_what_is_reused_is_there_and_what_is_not_is_lost(
    windows: tuple[int, ...], batch: int
) -> None:
    """Random conversations: continued, edited anywhere, with tokens queued that nobody read."""
    rng = np.random.default_rng(3)
    rings = Rings(windows, batch)
    cached = PrefixCache(rings.layers, rings.capacities, CONTEXT)
    before: list[int] = []
    reused = refused = 0
    for _ in range(300):
        kept = len(before) - int(rng.choice([0, 1, 5, 40, 150, 400]))
        added = rng.integers(2, 9, int(rng.integers(1, 90))).tolist()
        ids = [*before[: max(kept, 0)], *added]
        if len(ids) > CONTEXT - 40:
            ids = added
        shared = next(
            (n for n, (a, b) in enumerate(zip(before, ids[:-1], strict=False)) if a != b),
            min(len(before), len(ids) - 1),
        )
        start = cached.rewind(ids)
        assert start in (0, shared)
        if shared and not start:
            refused += 1
            lost = rings.lacks(ids, shared)
            assert lost
        reused += start > 0
        rings.run(ids, start)
        cached.extend(ids[start:])
        end = min(len(ids) + int(rng.integers(0, 2 * MOST_AHEAD)), CONTEXT)
        rings.write(dict.fromkeys(range(len(ids), end), 1))
        cached.mark(end)
        before = ids
    assert reused > 100
    assert (refused > 0) == any(capacity < CONTEXT for capacity in rings.capacities)


@pytest.mark.parametrize("batch", [1, 16, 512])
def test_an_answer_that_is_continued_is_reused(batch: int) -> None:
    """However much was queued behind its end."""
    window, length = 64, 500
    capacity = capacity_of(window, 4096, batch)
    cached = PrefixCache([Layer(window)], [capacity], 4096)
    ids = [*range(length)]
    cached.extend(ids)
    cached.mark(length + 2 * MOST_AHEAD)
    assert cached.rewind([*ids, 1, 2]) == length


def test_what_is_written_at_the_end_counts_as_overwritten() -> None:
    """Measuring kernels does it; without windows nothing else lies there."""
    ids = [*range(100)]
    for window, reused in ((64, 0), (0, 100)):
        cached = PrefixCache([Layer(window)], [capacity_of(window, CONTEXT, 16)], CONTEXT)
        cached.extend(ids)
        cached.mark(CONTEXT)
        assert cached.rewind([*ids, 1]) == reused
        cached.extend(ids)
        assert cached.rewind([*ids, 1]) == 100


@pytest.mark.parametrize(
    ("window", "context", "batch", "capacity"),
    [
        (0, 4096, 512, 4096),
        (512, 4096, 512, 1024),
        (512, 1000, 512, 1000),
        (512, 32768, 1, 640),
        (1024, 32768, 500, 1536),
        (100, 4096, 129, 256),
    ],
)
def test_capacity(window: int, context: int, batch: int, capacity: int) -> None:
    assert capacity_of(window, context, batch) == capacity

"""How prompts are cut into batches."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from doppler.engine.chunks import MOST_MS, Batches


def cut(batches: Batches, tokens: int, ms: Callable[[int], float]) -> list[int]:
    """The batches of a prompt on an adapter that takes ms(size) for one."""
    sizes = []
    while tokens > 0:
        size = batches.size(tokens)
        batches.note(size, min(size, tokens), ms(size) * min(size, tokens) / size)
        sizes.append(size)
        tokens -= size
    return sizes


def test_a_quick_adapter_takes_the_largest_batches_once_it_is_known() -> None:
    batches = Batches(512)
    assert cut(batches, 2000, lambda n: 0.1 * n) == [64, 512, 512, 512, 512]
    assert cut(batches, 2000, lambda n: 0.1 * n) == [512, 512, 512, 512]
    assert cut(batches, 130, lambda n: 0.1 * n) == [256]
    assert cut(batches, 1, lambda n: 0.1 * n) == [1]


def test_a_slow_adapter_takes_small_ones() -> None:
    batches = Batches(512)
    assert cut(batches, 200, lambda n: 100.0 * n) == [64, *[16] * 9]
    assert cut(batches, 40, lambda n: 100.0 * n) == [16, 16, 16]


def test_batches_that_cost_much_however_small_grow_step_by_step() -> None:
    """As of a mixture, where a few tokens use all experts: 120 ms, and half of one a token."""
    batches = Batches(1024)
    sizes = cut(batches, 4000, lambda n: 120 + 0.5 * n)
    assert sizes[:3] == [64, 256, 512]
    assert max(sizes) == 512  # 1,024 would take 632 ms


def test_what_was_too_slow_is_tried_again_when_others_are_quicker() -> None:
    batches = Batches(256)
    batches.note(64, 64, 200.0)
    batches.note(256, 256, 2 * MOST_MS)
    assert batches.size(1000) == 64
    batches.note(64, 64, 50.0)
    assert batches.size(1000) == 256


@pytest.mark.parametrize("most", [1, 7, 16, 100, 512])
def test_sizes_are_never_larger_than_the_engine_takes(most: int) -> None:
    batches = Batches(most)
    assert max(cut(batches, 3000, lambda n: 0.01 * n)) == most

"""How prompts are cut into chunks."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from doppler.engine.chunks import MOST_MS, ChunkSizes


def cut(chunks: ChunkSizes, tokens: int, ms: Callable[[int], float]) -> list[int]:
    """The chunks of a prompt on an adapter that takes ms(size) for one."""
    sizes = []
    while tokens > 0:
        size = chunks.size(tokens)
        chunks.note(size, min(size, tokens), ms(size) * min(size, tokens) / size)
        sizes.append(size)
        tokens -= size
    return sizes


def test_a_quick_adapter_takes_the_largest_chunks_once_it_is_known() -> None:
    chunks = ChunkSizes(512)
    assert cut(chunks, 2000, lambda n: 0.1 * n) == [64, 512, 512, 512, 512]
    assert cut(chunks, 2000, lambda n: 0.1 * n) == [512, 512, 512, 512]
    assert cut(chunks, 130, lambda n: 0.1 * n) == [256]
    assert cut(chunks, 1, lambda n: 0.1 * n) == [1]


def test_a_slow_adapter_takes_small_ones() -> None:
    chunks = ChunkSizes(512)
    assert cut(chunks, 200, lambda n: 100.0 * n) == [64, *[16] * 9]
    assert cut(chunks, 40, lambda n: 100.0 * n) == [16, 16, 16]


def test_chunks_that_cost_much_however_small_grow_step_by_step() -> None:
    """As of a mixture, where a few tokens use all experts: 120 ms, and half of one a token."""
    chunks = ChunkSizes(1024)
    sizes = cut(chunks, 4000, lambda n: 120 + 0.5 * n)
    assert sizes[:3] == [64, 256, 512]
    assert max(sizes) == 512  # 1,024 would take 632 ms


def test_what_was_too_slow_is_tried_again_when_others_are_quicker() -> None:
    chunks = ChunkSizes(256)
    chunks.note(64, 64, 200.0)
    chunks.note(256, 256, 2 * MOST_MS)
    assert chunks.size(1000) == 64
    chunks.note(64, 64, 50.0)
    assert chunks.size(1000) == 256


@pytest.mark.parametrize("most", [1, 7, 16, 100, 512])
def test_sizes_are_never_larger_than_the_engine_takes(most: int) -> None:
    chunks = ChunkSizes(most)
    assert max(cut(chunks, 3000, lambda n: 0.01 * n)) == most

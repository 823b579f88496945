"""Where keys and values lie: what a row takes, and the ranges of bytes of positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from doppler import references
from doppler.gpu.step import View
from doppler.plan.bindings import MemoryLayout
from doppler.plan.cache import CacheSlice, CacheType, row_bytes
from doppler.workbench.cases import kept
from paper_engine import synthetic


@pytest.mark.parametrize(
    ("kind", "bytes_"),
    [
        ("f32", [48, 64, 160, 256, 320, 384, 512, 1024, 2048]),
        ("f16", [24, 32, 80, 128, 160, 192, 256, 512, 1024]),
        ("q8", [24, 24, 48, 72, 96, 112, 144, 288, 576]),
    ],
)
def test_bytes_of_a_row(kind: CacheType, bytes_: Sequence[int]) -> None:
    widths = (12, 16, 40, 64, 80, 96, 128, 256, 512)
    assert [row_bytes(kind, width) for width in widths] == bytes_
    for width, size in zip(widths, bytes_, strict=True):
        assert kept.rows(kind, np.ones((1, width))).nbytes == size


@pytest.mark.parametrize("width", [4, 12, 32, 40, 80, 256])
def test_eight_bits_are_off_by_half_a_step_at_most(width: int) -> None:
    x = np.random.default_rng(width).normal(size=(7, width)) * 10.0 ** np.arange(-3, 4)[:, None]
    x[3] = 0
    found = kept.numbers("q8", kept.rows("q8", x), width)
    _, scales = references.q8_codes(x)
    steps = np.repeat(scales / 127, 32, axis=-1)[:, :width]
    assert (np.abs(found - x) <= 0.5001 * steps).all()
    assert np.array_equal(found[3], x[3])


SLICE = CacheSlice(2, 3, 10, 24, View("keys", 0, 720), View("values", 256, 720))


@pytest.mark.parametrize("positions", [(0, 4), (3, 10), (7, 13), (20, 30), (25, 35), (38, 38)])
def test_rows_of_positions(positions: tuple[int, int]) -> None:
    """Read back what is written by slot: each position's rows, in order, of every head."""
    first, stop = positions
    slots = np.zeros((2, 256 + 720), np.uint8)
    rows = slots[0, :720].reshape(3, 10, 24), slots[1, 256:].reshape(3, 10, 24)
    for position in range(first, stop):
        for head in range(3):
            rows[0][head, position % 10] = 100 + 10 * head + position - first
            rows[1][head, position % 10] = 200 + 10 * head + position - first
    found = []
    for view in SLICE.rows(first, stop):
        data = slots[("keys", "values").index(view.buffer), view.offset : view.offset + view.size]
        found += data[::24].tolist()
    count = range(stop - first)
    assert found == [
        base + 10 * head + n for base in (100, 200) for head in range(3) for n in count
    ]


@pytest.mark.parametrize("kind", ["f16", "q8"])
def test_rows_of_a_layer_that_is_bound_in_slices(kind: CacheType) -> None:
    """Together they are the whole cache, once; a ring has the latest positions of a window."""
    config = synthetic("gemma-3-1b").config
    config = replace(config, kv_heads=4, layers=config.layers[:6])
    row = row_bytes(kind, config.shape(0).head_dim)
    layout = MemoryLayout(config, 4096, 128, kind, most_bound=2 * 4096 * row)
    assert [len(layout.cache_slices(index)) for index in (0, 5)] == [1, 2]
    for index, capacity in ((0, 640), (5, 4096)):
        views = layout.cache_rows(index, 0, capacity)
        assert [view.size for view in views] == [capacity * row] * 8
        own = (f"keys {index}", f"values {index}")
        held = [size for name, size in layout.cache.items() if name.split(",")[0] in own]
        assert sum(held) == sum(view.size for view in views)
    assert len(layout.cache_rows(0, 600, 700)) == 16  # around the ring's end

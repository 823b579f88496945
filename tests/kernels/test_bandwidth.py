"""The streaming read that bandwidth is measured with: every word counts, once."""

from __future__ import annotations

import numpy as np
import pytest

from doppler import references
from gpu_page import Case, GpuPage

TILE_WORDS = 4096


@pytest.mark.parametrize("tiles", [1, 3, 2049])
def test_read(gpu_page: GpuPage, tiles: int) -> None:
    """Equal sums, also where a workgroup reads several tiles (there are 2048 at most)."""
    tile = np.random.default_rng(tiles).integers(0, 1 << 32, TILE_WORDS, dtype=np.uint32)
    words = np.tile(tile, tiles)  # all alike but for one word: 32 MiB go into the page as little
    words[:: TILE_WORDS + 1] += np.arange(len(words[:: TILE_WORDS + 1]), dtype=np.uint32)
    workgroups = min(tiles, 2048)
    sums = np.zeros((workgroups, 256), np.uint32)
    case = Case("bandwidth", {}, {"data": words, "sums": sums}, {"tiles": tiles}, ["sums"])
    (result,) = gpu_page.run([case])
    exact = references.read(words, workgroups)
    np.testing.assert_array_equal(result["sums"], exact)
    assert exact.sum(dtype=np.uint32) == words.sum(dtype=np.uint32)

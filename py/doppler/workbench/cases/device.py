"""Cases of what a device is measured and probed with."""

from __future__ import annotations

import numpy as np

from doppler import references
from doppler.gpu.grids import MOST_AT_ONCE
from doppler.gpu.lanes import THREADS
from doppler.workbench.case import Case, Expected, Launch, Rng, Trial, named
from doppler.workbench.cases.inputs import case

TILE_WORDS = 4096


def bandwidth(rng: Rng, tiles: int) -> Trial:
    """Every word counts, once; also where a workgroup reads several tiles."""
    words = np.tile(rng.integers(0, 1 << 32, TILE_WORDS, dtype=np.uint32), tiles)
    # All tiles are alike but for a word each: they are packed small on their way into a page.
    words[:: TILE_WORDS + 1] += np.arange(len(words[:: TILE_WORDS + 1]), dtype=np.uint32)
    exact = references.read(words, min(tiles, MOST_AT_ONCE))
    arrays = {"data": words, "sums": np.zeros_like(exact)}
    launch = Launch("bandwidth", {}, {"tiles": tiles}, named(arrays))
    return Trial(arrays, [launch], ["sums"], lambda _: {"sums": Expected(exact)})


def lanes(rng: Rng) -> Trial:
    """Subgroups that are runs of local invocation indices, as other kernels take for granted."""
    arrays = {"runs": np.zeros(THREADS, np.uint32)}
    right = {"runs": Expected(np.ones(THREADS))}
    return Trial(arrays, [Launch("lanes", {}, {}, named(arrays))], ["runs"], lambda _: right)


CASES: tuple[Case, ...] = (
    *(case("bandwidth", f"{tiles} tiles", bandwidth, tiles) for tiles in (1, 3, 2049)),
    case("lanes", "subgroups are runs", lanes, needs=("subgroups",)),
)

"""attention_flash in the browser against float64 NumPy, over both kinds of cache."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from doppler import references
from doppler.plan.tiles import MOST_THREADS, Tile, tile_of
from gpu_page import Case, GpuPage
from test_kernels_ops import (
    SINKS,
    assert_close,
    bound_sinks,
    in_ring,
    normal,
    padded,
    sinks_at,
    state,
)

Array = npt.NDArray[Any]
BASE_BYTES = 1 << 14  # workgroup memory that every adapter has
# (heads, kv heads, position, tokens, window): starts and middles, groups that tiles cut across.
PLACES = (
    (1, 1, 0, 1, 0),
    (3, 1, 0, 23, 0),
    (4, 2, 61, 5, 0),
    (4, 1, 0, 37, 7),
    (5, 1, 90, 14, 20),
    (2, 2, 3, 70, 33),
    (6, 2, 40, 9, 1000),
)
# The same where keys lie in a ring that has no more slots than it needs.
RINGS = (
    (5, 1, 90, 14, 20),
    (3, 1, 64, 23, 1),
    (4, 2, 150, 37, 33),
    (2, 2, 70, 1, 70),
)


def case_of(
    rng: np.random.Generator,
    place: tuple[int, int, int, int, int],
    tile: Tile,
    half: bool,
    sinks_are: float | None,
    ring: bool,
) -> tuple[Case, Array]:
    """A case (the last token of its batch is not real) and the exact output."""
    heads, kv_heads, position, tokens, window = place
    dim, context = tile.head_dim, position + tokens + 3
    capacity = window + tokens - 1 if ring else context
    q_stride, out_stride = (heads + 2 * kv_heads) * dim + 4, heads * dim + 4
    q = 3 * normal(rng, tokens + 1, heads * dim)
    kept = [normal(rng, kv_heads, context, dim) for _ in range(2)]
    keys, values = (part.astype(np.float16 if half else np.float32) for part in kept)
    sinks = sinks_at(rng, heads, sinks_are)
    arrays = {
        "qkv": padded(q, q_stride),
        "keys": in_ring(keys[:, : position + tokens], capacity),
        "values": in_ring(values[:, : position + tokens], capacity),
        "out": np.zeros((tokens + 1, out_stride), np.float32),
        "state": state(tokens, position),
        **bound_sinks(sinks),
    }
    params = {
        "heads": heads,
        "kv_heads": kv_heads,
        "q_stride": q_stride,
        "out_stride": out_stride,
        "context": context,
        "capacity": capacity,
        "window": window,
        "scale": dim**-0.5,
    }
    constants = {**tile.constants(), "KV_HALF": int(half), "RING": int(ring)}
    constants["SINKS"] = int(sinks is not None)
    case = Case("attention_flash", constants, arrays, params, ["out"], tokens + 1)
    exact = references.attention(
        q[:tokens].reshape(tokens, heads, dim),
        keys.astype(np.float64),
        values.astype(np.float64),
        position,
        window,
        dim**-0.5,
        sinks,
    )
    return case, exact.reshape(tokens, -1)


def test_attention_of_batches(gpu_page: GpuPage) -> None:
    """Every width of head in the least memory, and other tiles: nothing else is written."""
    rng = np.random.default_rng(11)
    tiles = [
        *(tile_of(dim, BASE_BYTES) for dim in (20, 64, 128, 256)),
        Tile(head_dim=4, rows=8, keys=4, chunk=4, values=4, keep_q=1),
        Tile(head_dim=80, rows=16, keys=16, chunk=20, values=4, keep_q=1),
        Tile(head_dim=64, rows=16, keys=32, chunk=16, values=32, keep_q=0),
    ]
    made = [
        case_of(
            rng, place, tile, index % 2 == 1, SINKS[(index + number) % 4], number >= len(PLACES)
        )
        for index, tile in enumerate(tiles)
        for number, place in enumerate((*PLACES, *RINGS))
    ]
    for (_, exact), result in zip(made, gpu_page.run([case for case, _ in made]), strict=True):
        tokens, width = exact.shape
        assert_close(result["out"][:tokens, :width], exact)
        assert not result["out"][tokens].any()
        assert not result["out"][:, width:].any()


@pytest.mark.parametrize("workgroup_bytes", [BASE_BYTES, 1 << 15, 48 << 10])
def test_tiles_fit_every_adapter(workgroup_bytes: int) -> None:
    for dim in range(4, 257, 4):
        tile = tile_of(dim, workgroup_bytes)
        assert tile.bytes <= workgroup_bytes
        assert tile.threads <= MOST_THREADS
        assert dim % tile.chunk == tile.keys % tile.values == 0

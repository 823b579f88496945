"""What inputs of cases are made of: random numbers, padded rows, the state, keys in a ring."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from doppler.plan.bindings import RING, RING_AT
from doppler.workbench.case import Array, Case, Rng, Trial

UNTOUCHED = 7.0  # what outputs hold at first, where that shows what was written
# Where a head's sinks lie, scores being around 0 and seldom beyond ±10: there are none, they take
# part, take nearly all, take nothing.
SINKS = (None, 0.0, 15.0, -60.0)


def case(
    kernel: str, name: str, build: Callable[..., Trial], *args: Any, needs: tuple[str, ...] = ()
) -> Case:
    """A case whose trial is build(rng, *args)."""
    return Case(kernel, name, lambda rng: build(rng, *args), needs, args)


def normal(rng: Rng, *shape: int) -> Array:
    """Random numbers that float32 holds, as float64."""
    return rng.standard_normal(shape, np.float32).astype(np.float64)


def padded(values: Array, stride: int) -> Array:
    """Rows [n, width] as float32 [n, stride], zeros beyond the width."""
    out = np.zeros((values.shape[0], stride), np.float32)
    out[:, : values.shape[1]] = values
    return out


def vec4s(vector: Array) -> Array:
    """As float32, with zeros up to a whole vec4."""
    return np.pad(vector, (0, -len(vector) % 4)).astype(np.float32)


def fours(width: int) -> int:
    """A width rounded up to whole vec4s."""
    return -(-width // 4) * 4


def state(count: int, position: int = 0, step: int = 0, seed: int = 0) -> Array:
    """State (state.wgsl): `count` real tokens, the first of them at `position`; not halted."""
    return np.array([position, count, step, seed, 0], np.uint32)


def control(state: Array, ring: Array) -> Array:
    """The buffer of state and ring, which lies from byte RING_AT on."""
    words = np.zeros(RING_AT // 4 + RING, np.uint32)
    words[: len(state)], words[RING_AT // 4 :] = state, ring
    return words


def in_ring(kept: Array, capacity: int) -> Array:
    """Rows [kv_heads, positions, n] of keys or values where a ring [kv_heads, capacity, n] has
    them: the latest position of each index, and what would show where there is none.
    """
    out = np.full((kept.shape[0], capacity, kept.shape[2]), 100.0, kept.dtype)
    for position in range(kept.shape[1]):
        out[:, position % capacity] = kept[:, position]
    return out


def sinks_at(rng: Rng, heads: int, at: float | None) -> Array | None:
    """A sink a head, around `at`, as float64; None for None."""
    return None if at is None else (at + normal(rng, heads)).astype(np.float32).astype(np.float64)


def bound_sinks(sinks: Array | None) -> dict[str, Array]:
    """What a kernel binds of them."""
    return {} if sinks is None else {"sinks": sinks.astype(np.float32)}

"""Keys and values as the cache keeps them (cache.wgsl), for cases: numbers <-> rows of a type."""

from __future__ import annotations

from typing import Any

import numpy as np

from doppler import references
from doppler.plan.cache import GROUP, CacheType, row_bytes
from doppler.workbench.case import ROUNDING, Array, Expected, inside

CODE_ERROR = 0.51  # of a step: half of it, and rounding before it is chosen
FLOATS: dict[CacheType, type[np.floating[Any]]] = {"f32": np.float32, "f16": np.float16}


def empty(kind: CacheType, heads: int, capacity: int, dim: int) -> Array:
    """Rows of zeros: [heads, capacity, dim] floats, or for q8 as many bytes as a row takes."""
    if kind == "q8":
        return np.zeros((heads, capacity, row_bytes(kind, dim)), np.int8)
    return np.zeros((heads, capacity, dim), FLOATS[kind])


def rows(kind: CacheType, numbers: Array) -> Array:
    """Numbers [..., dim] as they are kept."""
    if kind != "q8":
        return numbers.astype(FLOATS[kind])
    return np.rint(_joined(*references.q8_codes(numbers))).astype(np.int8)


def numbers(kind: CacheType, kept: Array, dim: int) -> Array:
    """What rows [..., n] stand for: [..., dim], as float64."""
    if kind != "q8":
        return kept.astype(np.float64)
    return references.q8_numbers(kept[..., :dim].astype(np.float64), _scales(kept, dim))


def written(
    kind: CacheType, before: Array, place: Any, exact: Array, got: Array, is_copy: bool = False
) -> Expected:
    """Rows that hold `exact` [..., dim] at `place`, and elsewhere what they held before.

    got: what the kernel gave. Its scale is right if it is as good as the exact one. is_copy: f32
    are what was given.
    """
    if kind != "q8":
        return inside(before, place, exact, 0.0 if is_copy and kind == "f32" else None)
    codes, scales = references.q8_codes(exact)
    found = _scales(got[place], exact.shape[-1])
    error = ROUNDING * np.abs(exact).max(axis=-1, keepdims=True)
    right = np.where(np.abs(found - scales) <= error, found, scales)
    return inside(before, place, _joined(codes, right), CODE_ERROR, 1.0)


def _joined(codes: Array, scales: Array) -> Array:
    """Bytes of rows, those of codes unrounded: [..., row]. The last four fill a word up."""
    dim = codes.shape[-1]
    filled = np.concatenate([codes, codes[..., dim - dim % 8 // 4 * 4 :]], axis=-1)
    pairs = np.pad(scales, [(0, 0)] * (scales.ndim - 1) + [(0, scales.shape[-1] % 2)])
    floats = np.ascontiguousarray(pairs, np.float32)
    return np.concatenate([filled, floats.view(np.int8)], axis=-1)


def _scales(kept: Array, dim: int) -> Array:
    """Those of rows of bytes, as float64: [..., groups]."""
    floats = np.ascontiguousarray(kept[..., -(-dim // 8) * 8 :]).view(np.float32)
    return floats[..., : -(-dim // GROUP)].astype(np.float64)

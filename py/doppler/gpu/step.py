"""One dispatch of a plan, as data: what plans are lists of, and what binder.py records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from doppler.gpu.wgsl import Number


@dataclass(frozen=True)
class View:
    """Bytes offset .. offset + size of the buffer of that name, wherever it comes to lie.

    Bound ones start at multiples of 256.
    """

    buffer: str
    offset: int
    size: int


@dataclass(frozen=True)
class Step:
    """One kernel to run over `tokens` tokens (of which the state says how many are real).

    Where experts multiply, those are the tokens' slots, or places in tiles that may stay empty.
    """

    kernel: str
    constants: Mapping[str, Number]
    bindings: Mapping[str, View]
    params: Mapping[str, Number]
    tokens: int
    label: str

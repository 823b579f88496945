"""One dispatch of a plan, as data: what plans are lists of, and what kernels.py runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from doppler.gpu.device import Slice
from doppler.gpu.wgsl import Number


@dataclass(frozen=True)
class Step:
    """One kernel to run over `tokens` tokens (of which the state says how many are real).

    Where experts multiply, those are the tokens' slots, or places in tiles that may stay empty.
    """

    kernel: str
    constants: Mapping[str, Number]
    bindings: Mapping[str, Slice]
    params: Mapping[str, Number]
    tokens: int
    label: str

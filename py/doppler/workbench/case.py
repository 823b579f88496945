"""A kernel on one input, and what it should give there: tests and the console run the same ones.

A case is cheap until its trial is made, which holds all arrays.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from doppler.gpu.wgsl import Number

Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]
Rng = np.random.Generator

# float32 rounding over sums of up to some hundred terms; mistakes in a formula are 1e-3 and more.
ROUNDING = 1e-5
# f16 may round either way: a step of 2^-10 at most.
HALF_ROUNDING = 1e-3


@dataclass(frozen=True)
class Launch:
    """One kernel over arrays: `bindings` has the name of the array that each binding is."""

    kernel: str
    constants: Mapping[str, Number]
    params: Mapping[str, Number]
    bindings: Mapping[str, str]
    tokens: int = 1


def named(names: Iterable[str], **others: str) -> dict[str, str]:
    """Bindings that are the arrays of the same names, and `others`."""
    return {**{name: name for name in names}, **others}


@dataclass(frozen=True)
class Expected:
    """What an output should hold, in its shape: |output - values| / scale may be `margin`.

    Where scale is 0 nothing may differ: what a kernel leaves alone, it leaves as it was.
    """

    values: Array
    margin: float = 0.0
    scale: Array = field(default_factory=lambda: np.ones(()))


def rows_of(exact: Array) -> Array:
    """The scale of rounding: the largest magnitude of each row, in the shape of `exact`."""
    largest = np.abs(exact).max(axis=-1, keepdims=True)
    return np.broadcast_to(np.maximum(largest, 1e-30), exact.shape)


def inside(
    before: Array,
    place: Any,
    exact: Array,
    margin: float | None = None,
    scale: Array | float | None = None,
) -> Expected:
    """`exact` at an index of an output; everywhere else, what was there before.

    margin: default that of rounding to the output's type; scale: default `rows_of(exact)`.
    """
    values, scales = before.astype(np.float64), np.zeros(before.shape)
    values[place] = exact
    scales[place] = rows_of(exact) if scale is None else scale
    if margin is None:
        margin = HALF_ROUNDING if before.dtype == np.float16 else ROUNDING
    return Expected(values, margin, scales)


@dataclass(frozen=True)
class Trial:
    """A case, made: `arrays` go from launch to launch, outputs with what they hold at first.

    twin: what each of `outputs` should be, after the NumPy twins of the kernels. It is given what
    the kernels gave, for outputs that are judged by each other.
    """

    arrays: Arrays
    launches: Sequence[Launch]
    outputs: Sequence[str]
    twin: Callable[[Arrays], Mapping[str, Expected]]


@dataclass(frozen=True)
class Case:
    """A kernel on one input. needs: features that a device must have to run it; args: what `make`
    makes it of.
    """

    kernel: str
    name: str
    make: Callable[[Rng], Trial]
    needs: tuple[str, ...] = ()
    args: tuple[Any, ...] = field(default=(), compare=False, repr=False)

    def trial(self) -> Trial:
        """Its arrays: the same ones whenever it is called."""
        seed = zlib.crc32(f"{self.kernel}: {self.name}".encode())
        return self.make(np.random.default_rng(seed))

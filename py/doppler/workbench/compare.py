"""How far an output is from what it should be."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from doppler.workbench.case import Array, Expected


@dataclass(frozen=True)
class Comparison:
    """Errors in units of `Expected.scale`; infinite where something is no number, or differs where
    nothing may. worst: index of the largest; got, exact: what is there, and what should be.
    """

    max_error: float
    rms_error: float
    margin: float
    worst: tuple[int, ...]
    got: float
    exact: float

    @property
    def within(self) -> bool:
        return self.max_error <= self.margin


def compare(output: Array, expected: Expected) -> Comparison:
    """The output of a kernel beside its twin's. Both have the same shape."""
    errors = _errors(output.astype(np.float64), expected)
    worst = tuple(map(int, np.unravel_index(np.argmax(errors), errors.shape)))
    return Comparison(
        float(errors[worst]),
        math.sqrt(np.mean(np.square(errors))),
        expected.margin,
        worst,
        float(output[worst]),
        float(expected.values[worst]),
    )


def _errors(output: Array, expected: Expected) -> Array:
    assert output.shape == expected.values.shape
    same = output == expected.values
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        errors = np.where(same, 0.0, np.abs(output - expected.values) / expected.scale)
    return np.where(np.isnan(errors), np.inf, errors)

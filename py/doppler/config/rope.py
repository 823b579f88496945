"""Rotary embeddings: base frequency, and how the frequencies of pairs are scaled."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from doppler.errors import FormatError
from doppler.inputs.fields import LARGEST_FLOAT, SMALLEST_FLOAT, shown

RopeScaling = Literal["none", "linear", "llama3", "factors", "yarn"]
STANDING = 1e30  # as a divisor of its frequency: such a pair does not turn


def need_positive(name: str, value: float) -> None:
    if not SMALLEST_FLOAT <= value <= LARGEST_FLOAT:  # NaN is neither
        raise FormatError(f"config: {name} is {shown(value)}; it must be positive and finite")


def yarn_magnitude(factor: float, share: float = 1.0) -> float:
    """What cos and sin are multiplied by for a context that is `factor` times the original's.

    share: of the growth; models may divide by that with another share.
    """
    return 0.1 * share * math.log(max(factor, 1.0)) + 1.0


@dataclass(frozen=True)
class Rope:
    """Rotary embedding: base frequency and how its inverse frequencies are scaled."""

    base: float
    scaling: RopeScaling = "none"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 1.0
    original_context: int = 0
    factors: tuple[float, ...] = ()  # scaling "factors": one divisor for each pair that turns
    long_factors: tuple[float, ...] = ()  # the same for contexts longer than the original
    beta_fast: float = (
        32.0  # scaling "yarn": turns in the original context, from which on a pair is
    )
    beta_slow: float = 1.0  # left alone, and up to which it is scaled wholly
    whole_pairs: bool = True  # "yarn": those bounds are rounded to pairs
    magnitude: float = 1.0  # of cos and sin: "yarn" makes scores larger
    # Queries are multiplied by 1 + growth · ln(1 + ⌊position / original_context⌋).
    growth: float = 0.0
    # Dimensions of a head that turn, the first of each of its halves or, where pairs lie side by
    # side, of all; 0: all do. Others keep their values.
    width: int = 0

    def __post_init__(self) -> None:
        if self.scaling not in get_args(RopeScaling):
            raise FormatError(f"config: rope scaling {shown(self.scaling)} is not known")
        if (self.scaling == "factors") != bool(self.factors):
            raise FormatError("config: rope factors go with the scaling named factors, and only it")
        if self.long_factors and not (self.factors and self.original_context > 0):
            raise FormatError(
                "config: rope factors for long contexts go with others for short ones"
            )
        if self.growth and not (0 < self.growth <= LARGEST_FLOAT and self.original_context > 0):
            raise FormatError(
                f"config: queries grow by {shown(self.growth)} for each {self.original_context} "
                "positions; both must be positive"
            )
        if type(self.width) is not int or self.width < 0 or self.width % 2:
            raise FormatError(f"config: rope width is {shown(self.width)}; pairs turn")
        for name in ("base", "factor", "magnitude", "beta_fast", "beta_slow"):
            need_positive(f"rope {name}", getattr(self, name))
        if self.scaling == "llama3" and not (
            self.original_context > 0 and 0 < self.low_freq_factor < self.high_freq_factor
        ):
            raise FormatError(
                f"config: llama3 rope has frequency factors {self.low_freq_factor} and "
                f"{self.high_freq_factor} and an original context of {self.original_context}; all "
                "must be positive, and the first factor the lower one"
            )

        if self.scaling == "yarn" and not (self.original_context > 0 and self.base > 1):
            raise FormatError(
                f"config: yarn rope has base {self.base} and an original context of "
                f"{self.original_context}; the first must be above 1, the other positive"
            )

    def inverse_frequencies(self, head_dim: int, context: int = 0) -> list[float]:
        """Radians a position for each of the head_dim/2 pairs, in a context of so many tokens."""
        width = self.width or head_dim
        return [*self._turning(width, context), *[0.0] * ((head_dim - width) // 2)]

    def magnitudes(self, head_dim: int) -> list[float]:
        """Of cos and sin of each of the head_dim/2 pairs: 1 of those that do not turn."""
        turned = (self.width or head_dim) // 2
        return [self.magnitude] * turned + [1.0] * (head_dim // 2 - turned)

    def _turning(self, head_dim: int, context: int) -> list[float]:
        """The frequencies of the pairs of that many dimensions, all of which turn."""
        plain = [self.base ** (-2 * i / head_dim) for i in range(head_dim // 2)]
        if self.scaling == "linear":
            return [f / self.factor for f in plain]
        if self.scaling == "llama3":
            return [self._llama3(f) for f in plain]
        if self.scaling == "factors":
            is_long = self.long_factors and context > self.original_context
            factors = self.long_factors if is_long else self.factors
            return [f / divisor for f, divisor in zip(plain, factors, strict=True)]
        if self.scaling == "yarn":
            low, high = self._yarn_bounds(head_dim)
            shares = [min(max((i - low) / (high - low), 0.0), 1.0) for i in range(len(plain))]
            return [f * (1 - s + s / self.factor) for f, s in zip(plain, shares, strict=True)]
        return plain

    def _yarn_bounds(self, head_dim: int) -> tuple[float, float]:
        """Pairs up to the first are left alone, from the second on scaled; between, in part."""

        def pair(turns: float) -> float:  # that turns so often in the original context
            wavelength = self.original_context / (turns * 2 * math.pi)
            return head_dim * math.log(wavelength) / (2 * math.log(self.base))

        low, high = pair(self.beta_fast), pair(self.beta_slow)
        if self.whole_pairs:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, head_dim - 1)
        return low, high if high > low else low + 0.001

    def _llama3(self, frequency: float) -> float:
        turns = self.original_context * frequency / (2 * math.pi)  # original / wavelength
        if turns < self.low_freq_factor:
            return frequency / self.factor
        if turns > self.high_freq_factor:
            return frequency
        smooth = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        return frequency * ((1 - smooth) / self.factor + smooth)

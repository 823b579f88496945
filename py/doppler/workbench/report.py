"""What the console is told of kernels and of their runs.

This module evaluates its annotations, since the page's protocol is written from them.
"""

from dataclasses import dataclass
from typing import Literal, NotRequired, TypedDict

from doppler.gpu.kernels import CompilerMessage
from doppler.gpu.wgsl import Access

NumberType = Literal["f32", "f16", "u32", "i32", "u8"]
Real = float | Literal["NaN", "Infinity", "-Infinity"]
"""A number; those that JSON has none for are texts."""


class GivenArray(TypedDict):
    """What a binding holds at first; zeros where no data are given."""

    dtype: NumberType
    shape: list[int]
    data: NotRequired[list[Real] | str]
    """The numbers in row-major order, or their little-endian bytes in base64."""


@dataclass(frozen=True)
class BindingReport:
    """`var<…> name` of a kernel."""

    name: str
    access: Access
    optional: bool
    """Whether a dispatch may go without it, where its constants say so."""


@dataclass(frozen=True)
class CaseReport:
    """A case that the kernel can be run on, by name."""

    name: str
    needs: list[str]
    """Features without which a device refuses it."""


@dataclass(frozen=True)
class VariantReport:
    """A kernel as it was compiled."""

    constants: dict[str, float]
    absent: list[str]
    """The optional bindings that it does without."""


@dataclass(frozen=True)
class KernelReport:
    """A kernel, as its text says."""

    name: str
    file: str
    """Its text, relative to the page."""
    uses: list[str]
    """Files that are put before it."""
    bindings: list[BindingReport]
    overrides: list[str]
    """Constants that a dispatch gives."""
    params: dict[str, str]
    """Fields of Params and their types."""
    cases: list[CaseReport]
    variants: list[VariantReport]
    """Those that are compiled."""
    replaced: list[str]
    """Files of it whose text is not the shipped one."""


@dataclass(frozen=True)
class OutputErrors:
    """An output beside its NumPy twin's.

    Errors are relative to a scale of the case's; "Infinity" where what is to stay as it was has
    changed, or something is no number.
    """

    max: Real
    rms: Real
    margin: float
    within: bool
    """Whether `max` is within the margin."""
    worst: list[int]
    """Index of the largest error."""
    got: Real
    """What is there."""
    expected: Real
    """What should be."""


@dataclass(frozen=True)
class OutputReport:
    """An array after a run."""

    dtype: str
    shape: list[int]
    first: list[Real]
    """A few of its values, in row-major order."""
    errors: OutputErrors | None
    """null for given arrays, which have no twin."""
    data: str | None
    """Of given arrays: all of it, little-endian in base64."""


@dataclass(frozen=True)
class KernelRun:
    """What came of running a kernel."""

    kernel: str
    case: str | None
    within: bool | None
    """Whether all outputs are within the case's margins; null for given arrays."""
    outputs: dict[str, OutputReport]
    us: float | None
    """Microseconds of GPU time, the median of some runs; null where the adapter has no clock."""
    messages: list[CompilerMessage]
    """What the compiler had to say."""

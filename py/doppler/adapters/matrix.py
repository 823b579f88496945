"""A and B of an adapter, and what they change of one matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from doppler.errors import FormatError, UnsupportedError
from doppler.formats.content import Content
from doppler.inputs.buffers import Buffers
from doppler.inputs.fields import LARGEST_FLOAT, shown
from doppler.quantization.dequantize import Floats, dequantize

TYPES = {"F32": "<u4", "F16": "<u2", "BF16": "<u2"}  # how many bits a number of each has
_EXPONENTS = {"F32": 0x7F800000, "F16": 0x7C00, "BF16": 0x7F80}  # all ones: no finite number

Bits = npt.NDArray[np.unsignedinteger]


@dataclass(frozen=True, eq=False)
class Matrix:
    """Numbers of a type of TYPES, as their bits [rows, columns]."""

    type: str
    bits: Bits

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        rows, columns = self.bits.shape
        return rows, columns

    @property
    def floats(self) -> Floats:
        """As float32 [rows, columns]."""
        return dequantize(self.type, self.data, self.shape)

    @property
    def data(self) -> bytes:
        """Row by row, little endian."""
        return self.bits.tobytes()

    @property
    def is_finite(self) -> bool:
        """Whether no number is an infinity or none at all."""
        exponent = self.bits.dtype.type(_EXPONENTS[self.type])
        return not ((self.bits & exponent) == exponent).any()


@dataclass(frozen=True, eq=False)
class Delta:
    """W + scale · B·A is what becomes of the base's W [rows, columns] of that name.

    `a` is [rank, columns] and `b` [rows, rank].
    """

    name: str
    scale: float
    a: Matrix
    b: Matrix

    @property
    def rank(self) -> int:
        """Columns of B, which are the rows of A."""
        return self.a.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """That of W."""
        return self.b.shape[0], self.a.shape[1]

    @cached_property
    def norm(self) -> float:
        """‖scale · B·A‖, Frobenius: √trace((BᵀB)(AAᵀ)), of matrices of the rank's size alone."""
        a, b = self.a.floats.astype(np.float64), self.b.floats.astype(np.float64)
        square = float(((b.T @ b) * (a @ a.T)).sum())
        return abs(self.scale) * math.sqrt(max(square, 0.0))


def check_changes(deltas: Sequence[Delta], where: str) -> None:
    """FormatError for changes that float32 cannot hold, and where all of them are none."""
    for delta in deltas:
        if delta.norm > LARGEST_FLOAT:
            raise FormatError(
                f"{where} changes {shown(delta.name)} by {delta.norm:.2g} (its norm), which is "
                "more than float32 can hold; the adapter is damaged, or its training failed"
            )
    if not any(delta.norm for delta in deltas):
        raise FormatError(
            f"{where} changes nothing: its lora_alpha, or all of A or of B, is 0; was it saved "
            "before it was trained?"
        )


def check_type(content: Content) -> None:
    """UnsupportedError for numbers that are quantised."""
    if content.type.name not in TYPES:
        raise UnsupportedError(
            f"{content.source.name}: tensor {shown(content.name)} is of type {content.type.name}; "
            f"those of an adapter must be {', '.join(TYPES)}: take the adapter before it was "
            "quantised"
        )


def matrix_of(content: Content, data: bytes, shape: Sequence[int]) -> Matrix:
    """The bytes of a file's tensor, read as rows. FormatError where they are not all numbers."""
    bits: Bits = np.frombuffer(data, TYPES[content.type.name]).reshape(shape)
    matrix = Matrix(content.type.name, bits)
    if not matrix.is_finite:
        raise FormatError(
            f"{content.source.name}: tensor {shown(content.name)} holds infinities or what is no "
            "number; the adapter is damaged, or its training failed"
        )
    return matrix


async def read_matrix(content: Content, buffers: Buffers) -> Matrix:
    """A file's tensor of two dimensions."""
    data = buffers.to_bytes(await content.source.read(content.offset, content.bytes))
    return matrix_of(content, data, content.shape)

"""Random matrices of every block type, and the launch that moves them into planes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from doppler.quantization.block_types import BLOCK_TYPES
from doppler.quantization.dequantize import dequantize
from doppler.weights.placement import FORMS, plane_sizes
from doppler.workbench.case import Array, Launch, Rng, named

# Byte offsets of the f16 scales in a block: d, and m or dmin.
SCALES = {
    "Q4_0": (0,),
    "Q4_1": (0, 2),
    "Q5_0": (0,),
    "Q5_1": (0, 2),
    "Q8_0": (0,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
    "IQ4_NL": (0,),
    "Q3_K": (108,),
    "Q2_K": (80, 82),
}


def columns(kind: str) -> tuple[int, ...]:
    """Widths that are multiples of nothing but what the block type asks for."""
    elements = BLOCK_TYPES[kind].elements
    return {1: (1, 36, 45, 131), 32: (32, 96, 160), 256: (256, 768)}[elements]


@dataclass(frozen=True)
class Matrix:
    """`rows` rows of blocks, as a file has them."""

    kind: str
    rows: int
    cols: int
    data: bytes

    @classmethod
    def random(cls, rng: Rng, kind: str, rows: int, cols: int) -> Matrix:
        """Random bytes; scales are small numbers, some subnormal in f16."""
        return cls(kind, rows, cols, _blocks(rng, kind, rows, cols))

    @property
    def values(self) -> Array:
        """float32 [rows, cols]."""
        return dequantize(self.kind, self.data, (self.rows, self.cols))

    @property
    def raw(self) -> Array:
        """The blocks, as relayout.wgsl reads them."""
        return np.frombuffer(self.data + bytes(-len(self.data) % 4), np.uint32)

    def part(self, first: int, rows: int) -> Matrix:
        """The rows from `first` on."""
        size = len(self.data) // self.rows
        data = self.data[first * size : (first + rows) * size]
        return Matrix(self.kind, rows, self.cols, data)

    def planes(self, rows: int = 0, to: str = "") -> dict[str, Array]:
        """Empty planes of `rows` rows (default: its own) of type `to` (its own)."""
        sizes = plane_sizes(FORMS[to or self.kind], self.cols)
        lengths = {"codes": sizes.codes, "scales": sizes.scales}
        return {
            name: np.zeros(-(-length * (rows or self.rows) // 4), np.uint32)
            for name, length in lengths.items()
            if length
        }

    def relayout(self, bindings: Mapping[str, str], row0: int = 0, to: str = "") -> Launch:
        """Fills the rows from row0 on of planes of type `to` (default: its own)."""
        params = {
            "rows": self.rows,
            "cols": self.cols,
            "row_bytes": len(self.data) // self.rows,
            "row0": row0,
        }
        constants = {"FORM": FORMS[self.kind], "TO": FORMS[to or self.kind]}
        return Launch("relayout", constants, params, bindings)


def moved(matrix: Matrix) -> tuple[dict[str, Array], Launch]:
    """The arrays of a matrix and its planes, by their bindings, and what fills the planes."""
    arrays = {"raw": matrix.raw, **matrix.planes()}
    return arrays, matrix.relayout(named(arrays))


def _blocks(rng: Rng, kind: str, rows: int, cols: int) -> bytes:
    if kind == "F32":
        return rng.standard_normal((rows, cols), np.float32).tobytes()
    if kind in ("F16", "BF16"):
        values = rng.standard_normal((rows, cols)) * 10.0 ** rng.integers(-7, 1, (rows, cols))
        if kind == "F16":
            return values.astype(np.float16).tobytes()
        return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).tobytes()
    block = BLOCK_TYPES[kind]
    data = rng.integers(0, 256, (rows, cols // block.elements, block.bytes), np.uint8)
    if kind == "MXFP4":
        data[..., 0] = rng.integers(107, 123, data.shape[:2])  # 2^-20 .. 2^-5
    for at in SCALES.get(kind, ()):
        sizes = rng.standard_normal(data.shape[:2]) * 10.0 ** rng.integers(-6, -1, data.shape[:2])
        data[..., at : at + 2] = sizes.astype("<f2")[..., None].view(np.uint8)
    return data.tobytes()

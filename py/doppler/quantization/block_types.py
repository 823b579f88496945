"""GGML's block types: names, numbers and sizes. What their bytes mean is in dequantize.py.

This module knows no NumPy, which the page loads only to convert files.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Literal, get_args

from doppler.errors import FormatError, UnsupportedError
from doppler.inputs.fields import shown


@dataclass(frozen=True)
class BlockType:
    """`ggml_id` is the number that GGUF files use; sizes are of one block."""

    name: str
    ggml_id: int
    elements: int
    bytes: int

    def row_bytes(self, columns: int) -> int:
        """Bytes of a row. Raises FormatError where it is not a whole number of blocks."""
        if columns % self.elements:
            raise FormatError(
                f"a row of {columns} weights is no whole number of {self.name} blocks "
                f"({self.elements} weights each)"
            )
        return columns // self.elements * self.bytes

    def tensor_bytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of a tensor of shape (rows, columns) or (width,)."""
        rows = 1
        for extent in shape[:-1]:
            rows *= extent
        return rows * self.row_bytes(shape[-1])


BLOCK_TYPES = {
    block.name: block
    for block in (
        BlockType("F32", 0, 1, 4),
        BlockType("F16", 1, 1, 2),
        BlockType("Q4_0", 2, 32, 18),
        BlockType("Q4_1", 3, 32, 20),
        BlockType("Q5_0", 6, 32, 22),
        BlockType("Q5_1", 7, 32, 24),
        BlockType("Q8_0", 8, 32, 34),
        BlockType("Q2_K", 10, 256, 84),
        BlockType("Q3_K", 11, 256, 110),
        BlockType("Q4_K", 12, 256, 144),
        BlockType("Q5_K", 13, 256, 176),
        BlockType("Q6_K", 14, 256, 210),
        BlockType("IQ4_NL", 20, 32, 18),
        BlockType("BF16", 30, 1, 2),
        BlockType("MXFP4", 39, 32, 17),
    )
}
Quant = Literal["none", "q4_0", "q8_0"]  # what float weights may become when they are converted
QUANTS: tuple[Quant, ...] = get_args(Quant)
BY_GGML_ID = {block.ggml_id: block for block in BLOCK_TYPES.values()}


# Types of GGML's that Doppler does not read, some of which GGML has dropped again.
OTHER_GGML_TYPES = {
    4: "Q4_2",
    5: "Q4_3",
    9: "Q8_1",
    15: "Q8_K",
    16: "IQ2_XXS",
    17: "IQ2_XS",
    18: "IQ3_XXS",
    19: "IQ1_S",
    21: "IQ3_S",
    22: "IQ2_S",
    23: "IQ4_XS",
    24: "I8",
    25: "I16",
    26: "I32",
    27: "I64",
    28: "F64",
    29: "IQ1_M",
    31: "Q4_0_4_4",
    32: "Q4_0_4_8",
    33: "Q4_0_8_8",
    34: "TQ1_0",
    35: "TQ2_0",
    36: "IQ4_NL_4_4",
    37: "IQ4_NL_4_8",
    38: "IQ4_NL_8_8",
    40: "NVFP4",
    41: "Q1_0",
}
BYTES = BlockType("U8", -1, 1, 1)  # no weights: what others are put together of


def block_type(name: str) -> BlockType:
    """The type of that name; UnsupportedError where there is none."""
    if name not in BLOCK_TYPES:
        raise UnsupportedError(f"block type {shown(name)} is not one of {', '.join(BLOCK_TYPES)}")
    return BLOCK_TYPES[name]


def float32_bytes(type_name: str, data: bytes | bytearray) -> bytes:
    """Weights of a float type as little-endian float32; UnsupportedError for quantised ones."""
    if type_name == "F32":
        return bytes(data)
    count = len(data) // 2
    if type_name == "F16":
        return struct.pack(f"<{count}f", *struct.unpack(f"<{count}e", data))
    if type_name == "BF16":
        wide = bytearray(4 * count)
        wide[2::4], wide[3::4] = data[::2], data[1::2]
        return bytes(wide)
    raise UnsupportedError(f"{type_name} is a type of matrices: vectors are F32, F16 or BF16")

"""What the bytes of GGML's block types mean (the reference for the kernels).

A row of a tensor is a run of blocks (block_types.py has their sizes), little endian. Layouts are
those of ggml-common.h: `d` is a block's scale, `m` its minimum (both f16).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from doppler.errors import FormatError
from doppler.quantization.block_types import block_type

Floats: TypeAlias = npt.NDArray[np.float32]
Bytes: TypeAlias = npt.NDArray[np.uint8]


def dequantize(type_name: str, data: bytes | Bytes, shape: tuple[int, ...]) -> Floats:
    """The weights as float32 of `shape`, from the bytes of the whole tensor.

    Scales are widened to float32 first and each product is rounded once, as GGML's own code does.
    """
    block = block_type(type_name)
    raw = np.frombuffer(data, np.uint8)
    if raw.size != block.tensor_bytes(shape):
        raise FormatError(
            f"{raw.size} bytes are not a {type_name} tensor of shape {shape}, "
            f"which takes {block.tensor_bytes(shape)}"
        )
    return _UNPACK[type_name](raw.reshape(-1, block.bytes)).reshape(shape)


def _half(blocks: Bytes, at: int) -> Floats:
    """The f16 at byte `at` of every block, as a column: [blocks, 1]."""
    return blocks[:, at : at + 2].copy().view(np.float16).astype(np.float32)


def _nibbles(codes: Bytes) -> Bytes:
    """[..., n] bytes -> [..., 2n] codes: all low nibbles, then all high ones."""
    return np.concatenate([codes & 15, codes >> 4], axis=-1)


_TWO, _FOUR = np.uint8(2), np.uint8(4)


def _fifth_bits(blocks: Bytes, at: int) -> Bytes:
    """The 32 bits at byte `at` of every block, each worth 16: [blocks, 32]."""
    return np.unpackbits(blocks[:, at : at + 4], axis=1, bitorder="little") << _FOUR


def _q4_0(blocks: Bytes) -> Floats:
    codes = _nibbles(blocks[:, 2:]).astype(np.float32) - np.float32(8)
    return _half(blocks, 0) * codes


def _q4_1(blocks: Bytes) -> Floats:
    return _half(blocks, 0) * _nibbles(blocks[:, 4:]).astype(np.float32) + _half(blocks, 2)


def _q5_0(blocks: Bytes) -> Floats:
    codes = _nibbles(blocks[:, 6:]) | _fifth_bits(blocks, 2)
    return _half(blocks, 0) * (codes.astype(np.float32) - np.float32(16))


def _q5_1(blocks: Bytes) -> Floats:
    codes = _nibbles(blocks[:, 8:]) | _fifth_bits(blocks, 4)
    return _half(blocks, 0) * codes.astype(np.float32) + _half(blocks, 2)


def _q8_0(blocks: Bytes) -> Floats:
    return _half(blocks, 0) * blocks[:, 2:].copy().view(np.int8).astype(np.float32)


# What the 4-bit codes of types with a codebook mean.
_DOUBLED_E2M1 = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.float32)
_UNEVEN = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32
)


def _mxfp4(blocks: Bytes) -> Floats:
    """A byte e, the exponent of the scale 2^(e - 127), then codes of numbers of 4 bits (e2m1).

    The numbers are taken twice and the scale half, which for e < 2 is a subnormal float32.
    """
    e = blocks[:, :1].astype(np.uint32)
    half_scale = np.where(e < 2, np.uint32(0x200000) << e, (e - np.uint32(1)) << np.uint32(23))
    return half_scale.astype(np.uint32).view(np.float32) * _DOUBLED_E2M1[_nibbles(blocks[:, 1:])]


def _iq4_nl(blocks: Bytes) -> Floats:
    return _half(blocks, 0) * _UNEVEN[_nibbles(blocks[:, 2:])]


def _k_scales(packed: Bytes) -> tuple[Floats, Floats]:
    """12 bytes -> 8 six-bit scales and 8 six-bit minimums, each [blocks, 8, 1].

    Bytes 0–3 and 4–7 hold those of groups 0–3 in their low six bits; bytes 8–11 the low nibbles of
    groups 4–7, whose upper two bits are the top bits of bytes 0–7.
    """
    low, middle, high = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = np.concatenate([low & 63, (high & 15) | (low >> 6 << 4)], axis=1)
    minimums = np.concatenate([middle & 63, (high >> 4) | (middle >> 6 << 4)], axis=1)
    return scales[..., None].astype(np.float32), minimums[..., None].astype(np.float32)


def _k_affine(blocks: Bytes, codes: Bytes) -> Floats:
    """Q4_K and Q5_K: codes [blocks, 8, 32] -> d·scale·code − dmin·minimum."""
    scales, minimums = _k_scales(blocks[:, 4:16])
    scale = _half(blocks, 0)[..., None] * scales
    minimum = _half(blocks, 2)[..., None] * minimums
    return scale * codes.astype(np.float32) - minimum


def _k_codes(packed: Bytes) -> Bytes:
    """128 bytes -> codes [blocks, 8, 32]: each run of 32 bytes holds two groups of 32."""
    return _nibbles(packed.reshape(-1, 4, 32)).reshape(-1, 8, 32)


def _q4_k(blocks: Bytes) -> Floats:
    return _k_affine(blocks, _k_codes(blocks[:, 16:]))


def _q5_k(blocks: Bytes) -> Floats:
    group = np.arange(8, dtype=np.uint8)[:, None]
    fifth = (blocks[:, None, 16:48] >> group & 1).astype(np.uint8)  # bit g of byte i: column i
    return _k_affine(blocks, _k_codes(blocks[:, 48:]) | fifth << _FOUR)


def _q6_k(blocks: Bytes) -> Floats:
    """128 bytes of low nibbles, 64 of upper bit pairs, 16 signed scales, d."""
    low = _nibbles(blocks[:, :128].reshape(-1, 2, 64)).reshape(-1, 2, 4, 32)
    shift = np.arange(0, 8, 2, dtype=np.uint8)[:, None]
    high = blocks[:, 128:192].reshape(-1, 2, 1, 32) >> shift & 3
    codes = (low | high << 4).reshape(-1, 16, 16).astype(np.float32) - np.float32(32)
    scales = blocks[:, 192:208].copy().view(np.int8).astype(np.float32)
    return (_half(blocks, 208) * scales)[..., None] * codes


def _pairs(packed: Bytes) -> Bytes:
    """64 bytes -> two-bit codes [blocks, 16, 16]: each 32 bytes hold four groups of 32."""
    shift = np.arange(0, 8, 2, dtype=np.uint8)[:, None]
    codes: Bytes = packed.reshape(-1, 2, 1, 32) >> shift & np.uint8(3)
    return codes.reshape(-1, 16, 16)


def _q2_k(blocks: Bytes) -> Floats:
    """16 bytes, each a scale's nibble and above it a minimum's, 64 of pairs, d, dmin."""
    scale = _half(blocks, 80) * (blocks[:, :16] & 15).astype(np.float32)
    minimum = _half(blocks, 82) * (blocks[:, :16] >> _FOUR).astype(np.float32)
    codes = _pairs(blocks[:, 16:80]).astype(np.float32)
    return scale[..., None] * codes - minimum[..., None]


def _q3_k(blocks: Bytes) -> Floats:
    """32 bytes of third bits, 64 of pairs, 12 of 16 scales, d.

    Scales have six bits: bytes 0–7 hold their low nibbles, and bits 2n and 2n + 1 of bytes 8–11
    what scales 4n .. 4n + 3 have above those.
    """
    group = np.arange(8, dtype=np.uint8)[:, None]
    third = (blocks[:, None, :32] >> group & 1).reshape(-1, 16, 16)  # bit g of byte i: column i
    codes = (_pairs(blocks[:, 32:96]) | third << _TWO).astype(np.float32) - np.float32(4)
    upper = blocks[:, None, 104:108] >> np.arange(0, 8, 2, dtype=np.uint8)[:, None] & 3
    scales = _nibbles(blocks[:, 96:104]) | upper.reshape(-1, 16) << _FOUR
    scale: Floats = _half(blocks, 108) * (scales.astype(np.float32) - np.float32(32))
    return scale[..., None] * codes


def _plain(dtype: Any) -> Callable[[Bytes], Floats]:
    return lambda blocks: blocks.copy().view(dtype).astype(np.float32)


def _bf16(blocks: Bytes) -> Floats:
    return (blocks.copy().view(np.uint16).astype(np.uint32) << 16).view(np.float32)


_UNPACK: dict[str, Callable[[Bytes], Floats]] = {
    "F32": _plain(np.float32),
    "F16": _plain(np.float16),
    "BF16": _bf16,
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q8_0": _q8_0,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
    "MXFP4": _mxfp4,
    "IQ4_NL": _iq4_nl,
    "Q3_K": _q3_k,
    "Q2_K": _q2_k,
}

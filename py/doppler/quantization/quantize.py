"""float32 weights -> blocks of Q4_0 and Q8_0, bit for bit as GGML's own Python code makes them.

dequantize.py has the inverse. A block of 32 weights is its scale `d` (f16) and then a code for
each; codes come from the float32 scale, before it is rounded.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from doppler.errors import FormatError, UnsupportedError
from doppler.quantization.dequantize import Bytes, Floats

BLOCK = 32  # weights that share a scale


def quantize(type_name: str, weights: Floats) -> Bytes:
    """Blocks [n, bytes of one] of weights of any shape whose rows are whole blocks, 32·n in all.

    Raises UnsupportedError for other types than Q4_0 and Q8_0, FormatError for weights that have no
    scale: infinities, NaN, and what is beyond the range of an f16.
    """
    if type_name not in _PACK:
        raise UnsupportedError(f"Doppler quantises to {', '.join(_PACK)}, not to {type_name}")
    return _PACK[type_name](weights.reshape(-1, BLOCK))


def _q4_0(blocks: Floats) -> Bytes:
    """d such that the largest weight, with its sign, has code 0, which means -8."""
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1, keepdims=True), axis=1)
    d = largest / np.float32(-8)
    scale = _half(d)
    shifted = blocks * _inverse(d) + np.float32(8.5)
    codes = np.minimum(shifted, np.float32(15)).astype(np.uint8)
    return np.concatenate([scale, codes[:, :16] | codes[:, 16:] << np.uint8(4)], axis=1)


def _q8_0(blocks: Floats) -> Bytes:
    """d such that the largest weight has code 127 or -127."""
    d = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)
    scale = _half(d)
    codes = _rounded(blocks * _inverse(d)).astype(np.int8)
    return np.concatenate([scale, codes.view(np.uint8)], axis=1)


def _half(d: Floats) -> Bytes:
    """Scales [n, 1] as the bytes [n, 2] of f16. Every weight that has none shows in its scale."""
    with np.errstate(over="ignore"):
        half = d.astype("<f2")
    if not np.isfinite(half).all():
        raise FormatError(
            "some weights are infinite, NaN or too large for the f16 scale of a block; the "
            "checkpoint is damaged (fetch it again), or has to be converted without --quant"
        )
    return half.view(np.uint8)


def _inverse(d: Floats) -> Floats:
    """1/d; 0 for zeros, and for scales so small (below 2^-128) that theirs is no float32.

    The f16 of those is 0, so that their codes mean nothing.
    """
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.float32(1) / d
    return np.where(np.isfinite(inverse), inverse, np.float32(0))


def _rounded(x: Floats) -> Floats:
    """The nearest whole numbers, halves away from zero; x + 0.5 would round below a half up."""
    size = np.abs(x)
    whole = np.floor(size)
    whole += size - whole >= np.float32(0.5)
    return np.copysign(whole, x)


_PACK: dict[str, Callable[[Floats], Bytes]] = {"Q4_0": _q4_0, "Q8_0": _q8_0}

"""Dequantisation equals GGML's own Python code, bit for bit."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

from doppler.errors import FormatError, UnsupportedError
from doppler.quantization.block_types import BLOCK_TYPES
from doppler.quantization.dequantize import dequantize
from gguf_files import random_tensor


@pytest.mark.parametrize("name", BLOCK_TYPES)
def test_equals_the_gguf_package(name: str) -> None:
    shape = (7, 768)
    data = random_tensor(name, shape, seed=len(name))
    kind = gguf.GGMLQuantizationType[name]
    expected = (
        gguf.dequantize(np.frombuffer(data, np.uint8).reshape(7, -1), kind)
        .reshape(shape)
        .astype(np.float32)
    )
    actual = dequantize(name, data, shape)
    assert actual.dtype == np.float32
    np.testing.assert_array_equal(actual.view(np.uint32), expected.view(np.uint32))


@pytest.mark.parametrize("name", BLOCK_TYPES)
def test_sizes_and_numbers_equal_the_gguf_package(name: str) -> None:
    kind = gguf.GGMLQuantizationType[name]
    block = BLOCK_TYPES[name]
    assert (block.elements, block.bytes) == gguf.GGML_QUANT_SIZES[kind]
    assert block.ggml_id == kind.value


def test_every_scale_of_mxfp4() -> None:
    """All 256 exponents (weights are subnormal or infinite at the ends), all 16 numbers."""
    data = np.zeros((1, 256, 17), np.uint8)
    data[..., 0] = np.arange(256)
    data[..., 1:] = [0x10 * (15 - i) + i for i in range(16)]
    with np.errstate(over="ignore"):
        expected = gguf.dequantize(data.reshape(1, -1), gguf.GGMLQuantizationType.MXFP4)
        actual = dequantize("MXFP4", data.tobytes(), (1, 32 * 256))
    np.testing.assert_array_equal(actual.view(np.uint32), expected.view(np.uint32))


def test_wrong_sizes_and_names() -> None:
    with pytest.raises(FormatError, match="whole number of Q4_K blocks"):
        dequantize("Q4_K", b"", (1, 100))
    with pytest.raises(FormatError, match="which takes 34"):
        dequantize("Q8_0", bytes(33), (1, 32))
    with pytest.raises(UnsupportedError, match="IQ2_XS"):
        dequantize("IQ2_XS", b"", (1, 256))

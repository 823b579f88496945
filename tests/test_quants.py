"""Dequantisation equals GGML's own Python code, bit for bit."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

from doppler.errors import FormatError, UnsupportedError
from doppler.formats.quants import BLOCK_TYPES, dequantize

# where the f16 scales of a block lie, so that random bytes never make infinities there
HALVES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0]}
HALVES |= {"Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "F16": [0]}


def random_tensor(name: str, shape: tuple[int, int], seed: int) -> np.ndarray:
    """Random bytes of a whole tensor, with scales between 2^-6 and 2."""
    block = BLOCK_TYPES[name]
    rng = np.random.default_rng(seed)
    count = block.tensor_bytes(shape) // block.bytes
    if name in ("F32", "BF16"):
        values = rng.normal(size=count).astype(np.float32).view(np.uint32)
        return (values if name == "F32" else (values >> 16).astype(np.uint16)).view(np.uint8)
    data = rng.integers(0, 256, (count, block.bytes), dtype=np.uint8)
    for at in HALVES[name]:
        scales = np.exp2(rng.uniform(-6, 1, (count, 1))).astype(np.float16)
        data[:, at : at + 2] = scales.view(np.uint8)
    return data.reshape(-1)


@pytest.mark.parametrize("name", BLOCK_TYPES)
def test_equals_the_gguf_package(name: str) -> None:
    shape = (7, 768)
    data = random_tensor(name, shape, seed=len(name))
    kind = gguf.GGMLQuantizationType[name]
    expected = gguf.dequantize(data.reshape(7, -1), kind).reshape(shape).astype(np.float32)
    actual = dequantize(name, data.tobytes(), shape)
    assert actual.dtype == np.float32
    np.testing.assert_array_equal(actual.view(np.uint32), expected.view(np.uint32))


@pytest.mark.parametrize("name", BLOCK_TYPES)
def test_sizes_and_numbers_equal_the_gguf_package(name: str) -> None:
    kind = gguf.GGMLQuantizationType[name]
    block = BLOCK_TYPES[name]
    assert (block.elements, block.bytes) == gguf.GGML_QUANT_SIZES[kind]
    assert block.ggml_id == kind.value


def test_wrong_sizes_and_names() -> None:
    with pytest.raises(FormatError, match="whole number of Q4_K blocks"):
        dequantize("Q4_K", b"", (1, 100))
    with pytest.raises(FormatError, match="which takes 34"):
        dequantize("Q8_0", bytes(33), (1, 32))
    with pytest.raises(UnsupportedError, match="IQ2_XS"):
        dequantize("IQ2_XS", b"", (1, 256))

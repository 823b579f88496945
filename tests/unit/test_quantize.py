"""Quantised conversion: blocks equal GGML's own Python code, and land where floats would have."""

from __future__ import annotations

import asyncio
import struct
import tracemalloc
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
import pytest

from checkpoint_files import stored, write_checkpoint
from doppler.convert.convert import convert_path
from doppler.convert.requantize import PIECE, QuantizedSource, quantized
from doppler.errors import FormatError, RequestError, UnsupportedError
from doppler.formats.safetensors import read_checkpoint
from doppler.inputs.buffers import Buffer, MemoryBuffers
from doppler.inputs.source import folder_sources
from doppler.quantization.block_types import BLOCK_TYPES, QUANTS
from doppler.quantization.dequantize import dequantize
from doppler.quantization.quantize import quantize
from doppler.store.folder import FolderStorage
from doppler.store.manifest import BLOCK_SIZE, SHARD_SIZE, Manifest
from doppler.store.verify import verify
from gguf_files import write_llama
from numpy_model import NumpyModel

FIXTURES = Path(__file__).parents[1] / "fixtures"
TYPES = ("Q4_0", "Q8_0")
Floats = npt.NDArray[np.float32]


def by_gguf(name: str, weights: Floats) -> npt.NDArray[np.uint8]:
    return gguf.quantize(weights, gguf.GGMLQuantizationType[name])


def awkward() -> Floats:
    """[n, 32]: zeros of both signs, ties of both signs, halves between codes, tiny and large."""
    rng = np.random.default_rng(1)
    ramp = np.arange(-16, 16, dtype=np.float32)
    rows = [np.zeros(32), -np.zeros(32), ramp, -ramp, ramp + 0.5, np.where(ramp % 2, 1, -1)]
    rows += [np.where(ramp == 3, -0.0, 0), np.where(ramp == 3, 7, -0.0)]
    rows += [np.r_[x, np.zeros(31)] for x in (1.0, -1.0, 127.0, -8.0, 65504.0, -65504.0)]
    rows += [np.r_[127, np.arange(31) + 0.5], np.r_[127, np.arange(31) + np.float32(0.49999997)]]
    normal = rng.normal(size=(60, 32))
    rows += list(normal[:40] * 10.0 ** np.arange(-36, 4)[:, None])
    rows += list(np.round(normal[40:] * 3))  # many equal sizes: the first decides
    return np.array(rows, np.float32)


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("kind", ["normal", "bf16", "awkward"])
def test_equals_the_gguf_package(name: str, kind: str) -> None:
    weights = awkward()
    if kind != "awkward":
        weights = np.random.default_rng(0).normal(size=(64, 768)).astype(np.float32)
    if kind == "bf16":
        weights = (weights.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    expected = by_gguf(name, weights)
    actual = quantize(name, weights)
    assert actual.dtype == np.uint8
    np.testing.assert_array_equal(actual.reshape(expected.shape), expected)


@pytest.mark.parametrize("name", TYPES)
def test_scales_without_an_inverse_are_zero(name: str) -> None:
    """Weights below 2^-128: the gguf package casts infinities there, C leaves it undefined."""
    weights = np.full((1, 32), 1e-40, np.float32)
    back = dequantize(name, quantize(name, weights).reshape(-1), (1, 32))
    np.testing.assert_array_equal(back, np.zeros((1, 32), np.float32))


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 1e9, -1e9])
def test_weights_without_a_scale_are_refused(name: str, value: float) -> None:
    weights = np.ones((3, 64), np.float32)
    weights[1, 40] = value
    with pytest.raises(FormatError, match="infinite, NaN or too large"):
        quantize(name, weights)


def test_other_types_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="Q4_0, Q8_0, not to Q4_K"):
        quantize("Q4_K", np.zeros((1, 256), np.float32))


class Memory:
    """A file of bytes; remembers what was read of it."""

    def __init__(self, data: bytes) -> None:
        self.name, self.data = "some.safetensors", data
        self.reads: list[tuple[int, int]] = []

    async def size(self) -> int:
        return len(self.data)

    async def read(self, offset: int, length: int) -> Buffer:
        self.reads.append((offset, length))
        assert offset + length <= len(self.data)
        return self.data[offset : offset + length]


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("name", TYPES)
def test_a_source_of_blocks_reads_only_what_it_needs(name: str, kind: str) -> None:
    weights = np.random.default_rng(2).normal(size=(24, 96)).astype(np.float32)
    data = stored(weights, kind)
    expected = by_gguf(name, dequantize(kind, data, weights.shape)).tobytes()
    file = Memory(b"header." + data + b"more")
    place = (file, 7, BLOCK_TYPES[kind])
    source = QuantizedSource("t", place, weights.size, BLOCK_TYPES[name], MemoryBuffers())
    assert asyncio.run(source.size()) == len(expected)
    size, width = BLOCK_TYPES[name].bytes, 32 * BLOCK_TYPES[kind].bytes
    for start, end in ((0, len(expected)), (5, 6), (size, 3 * size), (size - 1, 2 * size + 1)):
        file.reads.clear()
        assert bytes(asyncio.run(source.read(start, end - start))) == expected[start:end]
        first, last = start // size, (end - 1) // size
        assert file.reads == [(7 + first * width, (last + 1 - first) * width)]


def test_a_large_read_goes_through_in_pieces() -> None:
    weights = np.random.default_rng(3).normal(size=(PIECE + 100, 32)).astype(np.float32)
    file = Memory(weights.tobytes())
    place = (file, 0, BLOCK_TYPES["F32"])
    source = QuantizedSource("t", place, weights.size, BLOCK_TYPES["Q4_0"], MemoryBuffers())
    expected = by_gguf("Q4_0", weights).tobytes()
    assert bytes(asyncio.run(source.read(0, len(expected)))) == expected
    assert [length for _, length in file.reads] == [128 * PIECE, 128 * 100]


def test_which_tensors_are_quantised() -> None:
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (10, 64),
        "output.weight": (10, 64),
        "blk.0.attn_q.weight": (64, 64),
        "blk.0.ffn_gate.3.weight": (32, 64),
        "blk.0.ffn_gate_inp.weight": (4, 64),
        "blk.0.attn_norm.weight": (64,),
        "blk.0.attn_output.weight": (64, 80),
        "blk.0.ffn_up.0.weight": (32, 64),
    }
    types = dict.fromkeys(shapes, "BF16") | {"blk.0.ffn_up.0.weight": "MXFP4"}
    file = Memory(b"")
    places = {name: (file, 5, BLOCK_TYPES[kind]) for name, kind in types.items()}
    for quant in QUANTS:
        made = quantized(places, shapes, quant, MemoryBuffers())
        changed = {name: made[name][2].name for name in places if made[name] != places[name]}
        outer, body = list(shapes)[:2], list(shapes)[2:4]
        expected = dict.fromkeys(outer, "Q8_0") | dict.fromkeys(body, quant.upper())
        assert changed == ({} if quant == "none" else expected)
    with pytest.raises(RequestError, match="'q5_0' is not one of none, q4_0, q8_0"):
        quantized(places, shapes, "q5_0", MemoryBuffers())


def convert(source: Path, folder: Path, quant: str, shard_size: int = BLOCK_SIZE) -> Manifest:
    return asyncio.run(
        convert_path(
            source, FolderStorage(folder), MemoryBuffers(), quant=quant, shard_size=shard_size
        )
    )


@pytest.mark.parametrize("quant", ["q4_0", "q8_0"])
@pytest.mark.parametrize("name", ["gemma3-1b-like", "gemma3-4b-like", "llama32-like", "qwen3-like"])
def test_converted_fixtures(tmp_path: Path, name: str, quant: str) -> None:
    """Every tensor of the folder is what the gguf package makes of the unquantised one."""
    convert(FIXTURES / name, tmp_path / "plain", "none")
    manifest = convert(FIXTURES / name, tmp_path / "small", quant)
    plain, small = NumpyModel(tmp_path / "plain"), NumpyModel(tmp_path / "small")
    assert small.config == plain.config
    seen = set()
    for tensor in manifest.tensors:
        weights = plain.weights[tensor.name]
        expected = weights
        if len(tensor.shape) == 2 and tensor.shape[1] % 32 == 0:
            outer = tensor.name in ("token_embd.weight", "output.weight")
            kind = "Q8_0" if outer else quant.upper()
            assert tensor.type == kind
            expected = dequantize(kind, by_gguf(kind, weights).reshape(-1), tensor.shape)
        else:
            assert tensor.type == plain.manifest.tensor(tensor.name).type
        seen.add(tensor.type)
        np.testing.assert_array_equal(small.weights[tensor.name], expected)
    assert seen > {quant.upper()}
    asyncio.run(verify(FolderStorage(tmp_path / "small"), manifest, MemoryBuffers()))


def test_shards_cut_blocks_anywhere(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "hf", 40_000)  # the embedding fills some shards
    cut = convert(source, tmp_path / "cut", "q4_0")
    whole = convert(source, tmp_path / "whole", "q4_0", 16 * BLOCK_SIZE)
    assert len(cut.shards) > 3
    assert BLOCK_SIZE % BLOCK_TYPES["Q8_0"].bytes  # the embedding comes first
    assert cut.identity == whole.identity
    types = {tensor.name: tensor.type for tensor in cut.tensors}
    assert types["blk.0.ffn_down.weight"] == "BF16"  # rows of 80
    assert types["blk.0.ffn_up.weight"] == "Q4_0"


def test_weights_that_cannot_be_quantised_are_named(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "hf", 64)
    tensors = asyncio.run(read_checkpoint(folder_sources(source), MemoryBuffers()))
    at = tensors["model.layers.0.mlp.up_proj.weight"].offset
    data = bytearray((source / "model.safetensors").read_bytes())
    data[at + 200 : at + 202] = struct.pack("<H", 0x7F80)  # infinity
    (source / "model.safetensors").write_bytes(data)
    with pytest.raises(FormatError, match=r"'blk\.0\.ffn_up\.weight' of model\.safetensors: some"):
        convert(source, tmp_path / "out", "q8_0")
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_gguf_is_not_quantised_again(tmp_path: Path) -> None:
    path = write_llama(tmp_path / "x.gguf", "F16")
    for source in (path, tmp_path):
        with pytest.raises(RequestError, match="without --quant"):
            convert(source, tmp_path / "out", "q8_0")
    assert not (tmp_path / "out").exists()


def test_memory_does_not_grow_with_the_checkpoint(tmp_path: Path) -> None:
    """77 MB of weights: a shard, a read and a few MB of float32 are held, not more."""
    source = write_checkpoint(tmp_path / "hf", 400_000)
    tracemalloc.start()
    convert(source, tmp_path / "out", "q4_0", SHARD_SIZE)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 << 20

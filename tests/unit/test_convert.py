"""Conversion: bytes arrive unchanged, configs mean what transformers computed, damage is named."""

from __future__ import annotations

import asyncio
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from doppler.convert.convert import convert_path, model_name
from doppler.errors import (
    CorruptError,
    FormatError,
    RequestError,
    SourceError,
    StorageError,
    UnsupportedError,
)
from doppler.inputs.buffers import Buffer, MemoryBuffers
from doppler.quantization.block_types import BLOCK_TYPES
from doppler.store.folder import FolderRoot, FolderStorage
from doppler.store.manifest import BLOCK_SIZE, SHARD_SIZE, Manifest
from doppler.store.sharded import ALIGNMENT
from doppler.store.verify import verify
from gguf_files import Tensors, config_keys, gguf_bytes, llama_metadata, llama_tensors, write_llama
from numpy_model import NumpyModel

FIXTURES = Path(__file__).parents[1] / "fixtures"


def convert(source: Path, folder: Path, shard_size: int = BLOCK_SIZE) -> Manifest:
    storage = FolderStorage(folder)
    return asyncio.run(convert_path(source, storage, MemoryBuffers(), shard_size=shard_size))


def check(folder: Path, manifest: Manifest) -> None:
    asyncio.run(verify(FolderStorage(folder), manifest, MemoryBuffers()))


@pytest.mark.parametrize(
    "name",
    [
        "gemma3-1b-like",
        "gemma3-4b-like",
        "llama32-like",
        "qwen2-like",
        "qwen3-like",
        "gemma3-long",
    ],
)
def test_logits_of_converted_checkpoints(tmp_path: Path, name: str) -> None:
    """NumPy and torch add in another order: 1e-5 was measured, mistakes show as 0.1 and more."""
    manifest = convert(FIXTURES / name, tmp_path)
    assert manifest.tokenizer is None
    with np.load(FIXTURES / name / "reference.npz") as reference:
        ids, expected = reference["ids"].tolist(), reference["logits"]
    logits = NumpyModel(tmp_path).logits(ids)[-len(expected) :]
    np.testing.assert_allclose(logits, expected, atol=1e-4, rtol=0)
    check(tmp_path, manifest)


@pytest.mark.parametrize("name", ["qwen2-like", "qwen3-like"])
def test_a_gguf_of_a_checkpoint_is_the_same_model(tmp_path: Path, name: str) -> None:
    convert(FIXTURES / name, tmp_path / "checkpoint")
    model = NumpyModel(tmp_path / "checkpoint")
    c = model.config
    metadata = {f"{c.architecture}.{key}": value for key, value in config_keys(c).items()}
    metadata["general.architecture"] = c.architecture
    tensors: Tensors = {n: ("F32", w.shape, w.tobytes()) for n, w in model.weights.items()}
    path = tmp_path / "x.gguf"
    path.write_bytes(gguf_bytes(metadata, tensors))
    convert(path, tmp_path / "gguf")
    again = NumpyModel(tmp_path / "gguf")
    assert again.config == c
    assert all(np.array_equal(again.weights[key], w) for key, w in model.weights.items())


def test_logits_of_a_real_gguf(models: Path) -> None:
    """First step of "The capital of France is" by transformers in float32 on these weights."""
    logits = NumpyModel(models / "smollm2-135m-instruct").logits([504, 3575, 282, 4649, 314])[-1]
    expected = {7042: 17.3713, 260: 14.8886, 4528: 13.2450, 2250: 13.0095, 1315: 12.9515}
    assert np.argsort(-logits)[:5].tolist() == list(expected)
    np.testing.assert_allclose(logits[list(expected)], list(expected.values()), atol=1e-3, rtol=0)


@pytest.mark.parametrize("matrix", BLOCK_TYPES)
def test_bytes_of_every_type_arrive_unchanged(tmp_path: Path, matrix: str) -> None:
    manifest = convert(write_llama(tmp_path / "Tiny Model.gguf", matrix), tmp_path / "out")
    assert (manifest.name, manifest.title, manifest.license) == ("tiny-model", "Tiny", "mit")
    assert manifest.config.rope_pairs == "interleaved"
    assert manifest.quantization == matrix
    space = b"".join((tmp_path / "out" / shard.name).read_bytes() for shard in manifest.shards)
    assert len(space) == manifest.bytes
    end = 0
    for tensor in manifest.tensors:
        assert tensor.offset % ALIGNMENT == 0
        assert space[end : tensor.offset] == bytes(tensor.offset - end)  # zeros between
        end = tensor.offset + tensor.bytes
        assert space[tensor.offset : end] == llama_tensors(matrix)[tensor.name][2]
    order = [tensor.name for tensor in manifest.tensors]
    assert order == list(manifest.config.tensor_shapes())
    assert (order[0], order[-1]) == ("token_embd.weight", "output_norm.weight")
    text = (tmp_path / "out" / "manifest.json").read_text(encoding="utf-8")
    assert Manifest.from_json(text, "manifest.json") == manifest
    check(tmp_path / "out", manifest)


def test_another_cut_is_the_same_model(tmp_path: Path) -> None:
    source = write_llama(tmp_path / "tiny.gguf", "F32")
    small, large = convert(source, tmp_path / "a"), convert(source, tmp_path / "b", 16 * BLOCK_SIZE)
    assert len(small.shards) > len(large.shards) == 1
    assert small.identity == large.identity
    again = convert(source, tmp_path / "a", 4 * BLOCK_SIZE)  # over the first: no shard is left
    kept = sorted(path.name for path in (tmp_path / "a").glob("shard-*"))
    assert kept == [shard.name for shard in again.shards]
    with pytest.raises(RequestError, match="no multiple of the block size"):
        convert(source, tmp_path / "c", BLOCK_SIZE + 1)


def with_tensors(path: Path, tensors: Tensors) -> Path:
    path.write_bytes(gguf_bytes(llama_metadata(), tensors))
    return path


def test_rope_factors_and_untied_heads(tmp_path: Path) -> None:
    tensors = llama_tensors("F32")
    factors = np.linspace(1, 32, 32).astype(np.float32)
    tensors["rope_freqs.weight"] = ("F32", (32,), factors.tobytes())
    tensors["output.weight"] = tensors["token_embd.weight"]
    manifest = convert(with_tensors(tmp_path / "x.gguf", tensors), tmp_path / "out")
    assert manifest.config.ropes[0].factors == tuple(factors.tolist())
    assert not manifest.config.tied
    assert manifest.tensors[-1].name == "output.weight"
    tensors["rope_freqs.weight"] = ("F32", (32,), bytes(128))
    with pytest.raises(FormatError, match="divisors that are not positive"):
        convert(with_tensors(tmp_path / "x.gguf", tensors), tmp_path / "out")


def test_tensors_that_are_missing_or_unknown(tmp_path: Path) -> None:
    tensors = llama_tensors("F32")
    norm = tensors.pop("blk.1.ffn_norm.weight")
    with pytest.raises(FormatError, match=r"x\.gguf: tensor 'blk\.1\.ffn_norm\.weight'"):
        convert(with_tensors(tmp_path / "x.gguf", tensors), tmp_path / "out")
    tensors |= {"blk.1.ffn_norm.weight": norm, "blk.1.attn_q.bias": norm}
    with pytest.raises(UnsupportedError, match=r"x\.gguf: tensor 'blk\.1\.attn_q\.bias'"):
        convert(with_tensors(tmp_path / "x.gguf", tensors), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_damage_is_named(tmp_path: Path) -> None:
    out = tmp_path / "out"
    manifest = convert(write_llama(tmp_path / "tiny.gguf", "F32"), out, 2 * BLOCK_SIZE)
    flip(out / "shard-00001.bin", BLOCK_SIZE + 5)
    with pytest.raises(CorruptError, match=r"block 3 .*shard-00001\.bin"):
        check(out, manifest)
    flip(out / "shard-00001.bin", BLOCK_SIZE + 5)
    check(out, manifest)
    flip(out / "tokenizer.json", 7)
    with pytest.raises(CorruptError, match=r"tokenizer\.json is damaged"):
        check(out, manifest)
    (out / "tokenizer.json").unlink()
    with pytest.raises(SourceError, match=r"tokenizer\.json is missing"):
        check(out, manifest)
    with (out / "shard-00000.bin").open("ab") as file:
        file.write(b"x")
    with pytest.raises(CorruptError, match=r"shard-00000\.bin has 2097153 bytes"):
        check(out, manifest)
    (out / "shard-00000.bin").unlink()
    with pytest.raises(SourceError, match=r"shard-00000\.bin is missing"):
        check(out, manifest)


class FullStorage(FolderStorage):
    """A disk with room for one shard."""

    async def write(self, name: str, offset: int, data: Buffer) -> None:
        if name == "shard-00001.bin":
            raise StorageError("full")
        await super().write(name, offset, data)


def test_an_interrupted_conversion_leaves_no_manifest(tmp_path: Path) -> None:
    source = write_llama(tmp_path / "tiny.gguf", "F32")
    convert(source, tmp_path / "out")
    with pytest.raises(StorageError, match="full"):
        asyncio.run(
            convert_path(
                source, FullStorage(tmp_path / "out"), MemoryBuffers(), shard_size=BLOCK_SIZE
            )
        )
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_progress_counts_to_the_end(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    source, storage = write_llama(tmp_path / "tiny.gguf"), FolderStorage(tmp_path / "out")
    manifest = asyncio.run(
        convert_path(
            source,
            storage,
            MemoryBuffers(),
            shard_size=BLOCK_SIZE,
            progress=lambda done, total: seen.append((done, total)),
        )
    )
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (manifest.bytes, manifest.bytes)


def test_sources_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"nothing\.gguf cannot be read"):
        convert(tmp_path / "nothing.gguf", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FormatError, match=r"no config\.json"):
        convert(tmp_path / "empty", tmp_path / "out")


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """410 MB of weights in a sparse file: a shard and a read of 16 MB each are held, not more."""
    rows, width = 400_000, 256
    tensors = llama_tensors("F32")
    del tensors["token_embd.weight"]
    metadata = llama_metadata() | {"tokenizer.ggml.model": "none"}
    shapes = {**tensors, "token_embd.weight": ("F32", (rows, width), b"")}
    header = gguf_bytes(metadata, shapes)  # the embedding comes last: the file is grown for it
    path = tmp_path / "large.gguf"
    path.write_bytes(header)
    with path.open("r+b") as file:
        file.truncate(len(header) + 4 * rows * width)
    tracemalloc.start()
    convert(path, tmp_path / "out", SHARD_SIZE)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 << 20


def test_folders_of_models(tmp_path: Path) -> None:
    async def steps() -> None:
        root = FolderRoot(tmp_path / "models")
        assert await root.models() == []
        storage = await root.open("one")
        await storage.write("a", 2, b"xyz")
        await storage.truncate("b", 7)
        assert await storage.read("a", 0, 5) == b"\0\0xyz"
        assert await storage.names() == ["a", "b"]
        assert (await root.models(), await root.usage("one")) == (["one"], 12)
        with pytest.raises(SourceError, match="too short"):
            await storage.read("a", 0, 6)
        with pytest.raises(SourceError, match="cannot be read"):
            await storage.read("c", 0, 1)
        await storage.remove("a")
        await storage.remove("a")
        assert await storage.size("a") is None
        for name in ("../a", "", ".a", "a\\b"):
            with pytest.raises(RequestError, match="cannot be a file's name"):
                await storage.size(name)
        await root.delete("one")
        assert await root.models() == []

    asyncio.run(steps())


def test_names_of_models() -> None:
    assert model_name("Gemma-3-270M.Q4_K_M.gguf") == "gemma-3-270m.q4_k_m"
    assert model_name("a b/ Müll!.GGUF") == "m-ll"
    assert model_name("...") == "model"

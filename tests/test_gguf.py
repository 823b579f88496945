"""The GGUF header reader: what it reads, and what it says of files that are not right."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from pathlib import Path

import gguf as reference
import numpy as np
import pytest

from doppler.buffers import Buffer, MemoryBuffers
from doppler.errors import DopplerError, FormatError, UnsupportedError
from doppler.formats.gguf import Gguf, read_gguf
from doppler.formats.gguf_config import config_from_gguf
from doppler.formats.vocabulary import vocabulary_from_gguf
from doppler.source import FileSource
from gguf_files import gguf_bytes, llama_metadata, llama_tensors, text, value, write_llama


class BytesSource:
    """A file in memory that counts what is read of it."""

    def __init__(self, data: bytes, name: str = "model.gguf") -> None:
        self.data, self.name, self.read_bytes = data, name, 0

    async def size(self) -> int:
        return len(self.data)

    async def read(self, offset: int, length: int) -> Buffer:
        self.read_bytes += length
        assert offset + length <= len(self.data)
        return self.data[offset : offset + length]


def read(data: bytes) -> Gguf:
    return asyncio.run(read_gguf(BytesSource(data), MemoryBuffers()))


def test_reads_what_the_gguf_package_reads(tmp_path: Path) -> None:
    path = write_llama(tmp_path / "tiny.gguf")
    header = asyncio.run(read_gguf(FileSource(path), MemoryBuffers()))
    expected = reference.GGUFReader(path)
    assert len(header.tensors) == len(expected.tensors)
    for tensor in expected.tensors:
        ours = header.tensors[tensor.name]
        assert ours.shape == tuple(int(n) for n in reversed(tensor.shape))
        assert (ours.offset, ours.bytes) == (tensor.data_offset, tensor.n_bytes)
        assert ours.type.name == tensor.tensor_type.name
    assert header.metadata["general.name"] == "Tiny"
    assert len(header.metadata["tokenizer.ggml.tokens"]) == 266
    assert header.metadata["tokenizer.ggml.token_type"].tolist()[:4] == [2, 3, 3, 6]


def test_values_of_every_kind() -> None:
    kinds = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q"}
    kinds |= {11: "<q", 12: "<d"}
    head = b"GGUF" + struct.pack("<IQQ", 3, 0, len(kinds) + 2)
    body = b"".join(
        text(f"k{kind}") + struct.pack("<I", kind) + struct.pack(form, 1)
        for kind, form in kinds.items()
    )
    nested = struct.pack("<IIQ", 9, 9, 2) + value(["a", "b"])[4:] + value([3])[4:]
    body += text("nested") + nested + text("strings") + value(["x", "", "ü"])
    metadata = read(head + body).metadata
    assert all(metadata[f"k{kind}"] == 1 for kind in kinds)
    assert metadata["k7"] is True
    assert metadata["strings"] == ["x", "", "ü"]
    assert metadata["nested"][0] == ["a", "b"]
    np.testing.assert_array_equal(metadata["nested"][1], [3])


def test_reads_the_header_only_and_grows_for_it() -> None:
    tokens = [f"token number {i}" for i in range(100_000)]  # a header of 2.5 MB
    content = bytes(8 << 20)
    data = gguf_bytes({"tokens": tokens}, {"t": ("F32", (1 << 21,), content)})
    source = BytesSource(data)
    header = asyncio.run(read_gguf(source, MemoryBuffers()))
    assert header.metadata["tokens"] == tokens
    assert source.read_bytes <= 4 << 20


def test_every_cut_of_a_file_is_an_error_that_says_what_is_missing() -> None:
    data = gguf_bytes(llama_metadata(), llama_tensors())
    for end in [*range(24, len(data), 9_973), len(data) - 1]:
        with pytest.raises(FormatError, match=r"truncated|is missing"):
            read(data[:end])
    with pytest.raises(FormatError, match="100 bytes are missing at its end"):
        read(data[:-100])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            b"# A readme file\nthat somebody renamed",
            "begins with b'# A readme file.*looks like text",
        ),
        (b"<!DOCTYPE html><html><body></body>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"PK\x03\x04" + bytes(40), "a ZIP archive"),
        (bytes(range(40)), "some other kind"),
        (b"GGUF", "only 4 bytes"),
    ],
)
def test_other_files(data: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        read(data)


def header_of(metadata: bytes, entries: int, tensors: bytes = b"", count: int = 0) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, count, entries) + metadata + tensors + bytes(64)


HUGE = 1 << 60
TENSOR = text("t") + struct.pack("<I", 1) + struct.pack("<Q", 8)


@pytest.mark.parametrize(
    ("data", "kind", "message"),
    [
        (b"GGUF" + struct.pack("<IQQ", 2, 0, 0), UnsupportedError, "GGUF version 2"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), UnsupportedError, "big-endian"),
        (b"GGUF" + struct.pack("<IQQ", 3, HUGE, 0), FormatError, "counts .* tensors"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, HUGE), FormatError, "counts .* metadata"),
        (header_of(struct.pack("<Q", HUGE), 1), FormatError, "damaged"),
        (header_of(text("k") + struct.pack("<IIQ", 9, 8, HUGE), 1), FormatError, "damaged"),
        (header_of(text("k") + struct.pack("<IIQ", 9, 4, HUGE), 1), FormatError, "damaged"),
        (header_of(text("k") + struct.pack("<IIQ", 9, 9, HUGE), 1), FormatError, "damaged"),
        (header_of(text("k") + struct.pack("<I", 77), 1), FormatError, "unknown value type 77"),
        (header_of(2 * (text("k") + value(1)), 2), FormatError, "'k' appears twice"),
        (header_of(text("general.alignment") + value(33), 1), FormatError, "alignment is 33"),
        (
            header_of(b"", 0, TENSOR + struct.pack("<IQ", 16, 0), 1),
            UnsupportedError,
            "'t' has block type number 16",
        ),
        (header_of(b"", 0, TENSOR + struct.pack("<IQ", 12, 0), 1), FormatError, "whole number"),
        (header_of(b"", 0, TENSOR + struct.pack("<IQ", 0, 7), 1), FormatError, "lies at 7"),
        (
            header_of(b"", 0, 2 * (TENSOR + struct.pack("<IQ", 0, 0)), 2),
            FormatError,
            "'t' appears twice",
        ),
        (
            header_of(b"", 0, text("t") + struct.pack("<I", 9) + bytes(99), 1),
            FormatError,
            "9 dimensions",
        ),
        (
            header_of(b"", 0, text("t") + struct.pack("<IQQIQ", 2, HUGE, HUGE, 0, 0), 1),
            FormatError,
            "truncated",
        ),
    ],
)
def test_damaged_headers(data: bytes, kind: type[DopplerError], message: str) -> None:
    with pytest.raises(kind, match=message):
        read(data)


def config_error(kind: type[DopplerError], message: str, **changes: object) -> None:
    keys = {key.replace("__", "."): item for key, item in changes.items()}
    header = read(gguf_bytes(llama_metadata() | keys, llama_tensors()))
    with pytest.raises(kind, match=message):
        config_from_gguf(header, ())


def test_configs_that_are_refused() -> None:
    config_error(UnsupportedError, "architecture 'mamba'", general__architecture="mamba")
    config_error(FormatError, "expert_used_count is None", llama__expert_count=8)
    config_error(UnsupportedError, "'longrope'", llama__rope__scaling__type="longrope")
    config_error(FormatError, "scaling.factor is None", llama__rope__scaling__type="yarn")
    config_error(
        UnsupportedError,
        "turns 32 of 64",
        **{"llama__rope__dimension_count": 32, "llama__attention__key_length": 64},
    )
    config_error(UnsupportedError, "different widths", llama__attention__value_length=32)
    config_error(
        UnsupportedError, "differs between layers", **{"llama__attention__head_count_kv": [2, 1]}
    )
    config_error(FormatError, "block_count is 'two'", llama__block_count="two")
    config_error(FormatError, "no attention heads", llama__attention__head_count=0)
    config_error(FormatError, "4294967295 layers", llama__block_count=2**32 - 1)
    config_error(UnsupportedError, "logit_scale is 0.25", llama__logit_scale=0.25)
    config_error(UnsupportedError, "softcapping is 30", llama__final_logit_softcapping=30.0)
    config_error(FormatError, "norm_eps is -1.0", llama__attention__layer_norm_rms_epsilon=-1.0)


def test_gemma_files_may_say_which_layers_slide_and_their_base() -> None:
    gemma = {k.replace("llama.", "gemma3."): v for k, v in llama_metadata().items()}
    gemma |= {"general.architecture": "gemma3", "gemma3.attention.sliding_window": 7}
    key = "gemma3.attention.sliding_window_pattern"
    for pattern, windows in (([False, True], [0, 7]), (2, [7, 0]), (1, [0, 0])):
        changes = {key: pattern, "gemma3.rope.freq_base_swa": 4321.0}
        header = read(gguf_bytes(gemma | changes, llama_tensors()))
        _, config = config_from_gguf(header, ())
        assert [layer.window for layer in config.layers] == windows
        assert [config.ropes[layer.rope].base == 4321 for layer in config.layers] == [
            window > 0 for window in windows
        ]
    header = read(gguf_bytes(gemma | {key: [True] * 3}, llama_tensors()))
    with pytest.raises(FormatError, match="pattern is of 3 layers, the model of 2"):
        config_from_gguf(header, ())


@pytest.mark.parametrize("key", [*llama_metadata(), "tokenizer.ggml.pre", "general.alignment"])
def test_values_of_the_wrong_kind_are_no_surprise(key: str) -> None:
    """Whatever stands in a key, it is read, or refused with an error meant for a person."""
    for item in (0, 1, "x", [1, 2], ["a"], [[1]], [[["a"]]], 1.5, True):
        for model in ("llama", "gpt2"):
            changes = {"tokenizer.ggml.model": model, "tokenizer.ggml.merges": ["a b"], key: item}
            data = gguf_bytes(llama_metadata() | changes, llama_tensors())
            with contextlib.suppress(DopplerError):
                header = read(data)
                config_from_gguf(header, ())
                vocabulary_from_gguf(header.metadata, header.name)


def test_config_of_gemma() -> None:
    metadata = {
        "general.architecture": "gemma3",
        "gemma3.block_count": 7,
        "gemma3.context_length": 1024,
        "gemma3.embedding_length": 64,
        "gemma3.feed_forward_length": 128,
        "gemma3.attention.head_count": 4,
        "gemma3.attention.head_count_kv": 1,
        "gemma3.attention.key_length": 32,
        "gemma3.attention.value_length": 32,
        "gemma3.attention.layer_norm_rms_epsilon": 1e-6,
        "gemma3.attention.sliding_window": 512,
        "gemma3.rope.freq_base": 1e6,
        "gemma3.rope.scaling.type": "linear",
        "gemma3.rope.scaling.factor": 8.0,
    }
    tensors = {"token_embd.weight": ("F32", (10, 64), bytes(2560))}
    _, config = config_from_gguf(read(gguf_bytes(metadata, tensors)), ())
    assert [layer.window for layer in config.layers] == [512] * 5 + [0, 512]
    assert [layer.rope for layer in config.layers] == [0] * 5 + [1, 0]
    local, everywhere = config.ropes
    assert (local.base, local.scaling) == (10_000, "none")
    assert (everywhere.base, everywhere.scaling, everywhere.factor) == (1e6, "linear", 8)
    assert (config.norm_offset, config.embedding_scale, config.norm_eps) == (0, 8, 1e-6)
    assert config.qk_norm
    assert config.post_norms
    assert config.tied
    assert config.query_scale == 32**-0.5

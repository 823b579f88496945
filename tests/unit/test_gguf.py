"""The GGUF header reader: what it reads, and what it says of files that are not right."""

from __future__ import annotations

import asyncio
import math
import struct
import tracemalloc
from pathlib import Path

import gguf as reference
import numpy as np
import pytest

from doppler.config.model import ModelConfig
from doppler.config.rope import Rope
from doppler.convert.outline import outline_gguf
from doppler.errors import DopplerError, FormatError, UnsupportedError
from doppler.formats.gguf import Gguf, read_gguf
from doppler.formats.gguf_config import NEUTRAL, config_from_gguf
from doppler.inputs.buffers import Buffer, MemoryBuffers
from doppler.inputs.source import FileSource
from doppler.quantization.block_types import BLOCK_TYPES, OTHER_GGML_TYPES
from gguf_files import (
    Tensors,
    gguf_bytes,
    llama_metadata,
    llama_tensors,
    text,
    value,
    write_llama,
)

TENSORS = llama_tensors()


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
NO_NUMBERS = struct.pack("<IQ", 4, 0)  # an empty array of them
TENSOR = text("t") + struct.pack("<I", 1) + struct.pack("<Q", 8)


@pytest.mark.parametrize(
    ("data", "kind", "message"),
    [
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), UnsupportedError, "GGUF version 1"),
        (b"GGUF" + struct.pack("<IQQ", 4, 0, 0), UnsupportedError, "GGUF version 4"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), UnsupportedError, "big-endian"),
        (b"GGUF" + struct.pack("<IQQ", 3, HUGE, 0), FormatError, "counts .* tensors"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, HUGE), FormatError, "counts .* metadata"),
        (header_of(struct.pack("<Q", HUGE), 1), FormatError, "damaged"),
        (header_of(text("k") + struct.pack("<IIQ", 9, 8, HUGE), 1), FormatError, "damaged"),
        (header_of(text("k") + struct.pack("<IIQ", 9, 4, HUGE), 1), FormatError, "damaged"),
        (header_of(text("k") + struct.pack("<IIQ", 9, 9, HUGE), 1), FormatError, "damaged"),
        (
            header_of(2 * (text("k") + struct.pack("<IIQ", 9, 9, 600) + 600 * NO_NUMBERS), 2),
            FormatError,
            "more than 1000 arrays lie in arrays",
        ),
        (
            header_of(text("k") + struct.pack("<IIQ", 9, 9, 1001) + 1001 * NO_NUMBERS, 1),
            FormatError,
            "more than 1000 arrays lie in arrays",
        ),
        (
            b"GGUF" + struct.pack("<IQQ", 3, 0, 70_000) + bytes(13 * 70_000),
            FormatError,
            "counts 70000 metadata entries, more than the 65536 that any",
        ),
        (
            b"GGUF" + struct.pack("<IQQ", 3, 140_000, 0) + bytes(24 * 140_000),
            FormatError,
            "counts 140000 tensors, more than the 131072 that any",
        ),
        (
            header_of(2 * (text("k") + struct.pack("<IIQ", 9, 8, 1 << 20) + bytes(8 << 20)), 2),
            FormatError,
            "'k' appears twice",
        ),
        (
            header_of(text("k") + struct.pack("<IIQ", 9, 8, 3 << 20) + bytes(24 << 20), 1),
            FormatError,
            "more than 2097152 strings lie in lists",
        ),
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
    header = read(gguf_bytes(llama_metadata() | keys, TENSORS))
    with pytest.raises(kind, match=message):
        config_from_gguf(header, ())


def test_configs_that_are_refused() -> None:
    config_error(UnsupportedError, "architecture 'mamba'", general__architecture="mamba")
    config_error(FormatError, "expert_used_count is missing", llama__expert_count=8)
    config_error(UnsupportedError, "'longrope'", llama__rope__scaling__type="longrope")
    config_error(FormatError, "scaling.factor is missing", llama__rope__scaling__type="yarn")
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
    config_error(FormatError, "head_count is 0", llama__attention__head_count=0)
    config_error(
        FormatError,
        "block_count is 4294967295, and must be .* from 1 to 4096",
        llama__block_count=2**32 - 1,
    )
    config_error(UnsupportedError, "logit_scale is 0.25", llama__logit_scale=0.25)
    config_error(UnsupportedError, "softcapping is 30", llama__final_logit_softcapping=30.0)
    config_error(FormatError, "norm_eps is -1.0", llama__attention__layer_norm_rms_epsilon=-1.0)


def test_gemma_files_may_say_which_layers_slide_and_their_base() -> None:
    gemma = {k.replace("llama.", "gemma3."): v for k, v in llama_metadata().items()}
    gemma |= {"general.architecture": "gemma3", "gemma3.attention.sliding_window": 7}
    key = "gemma3.attention.sliding_window_pattern"
    for pattern, windows in (([False, True], [0, 7]), (2, [7, 0]), (1, [0, 0])):
        changes = {key: pattern, "gemma3.rope.freq_base_swa": 4321.0}
        header = read(gguf_bytes(gemma | changes, TENSORS))
        _, config = config_from_gguf(header, ())
        assert [layer.window for layer in config.layers] == windows
        assert [config.ropes[layer.rope].base == 4321 for layer in config.layers] == [
            window > 0 for window in windows
        ]
    header = read(gguf_bytes(gemma | {key: [True] * 3}, TENSORS))
    with pytest.raises(FormatError, match="pattern is of 3 layers, the model of 2"):
        config_from_gguf(header, ())


def yarn_rope(given: float, whole: bool = False) -> Rope:
    """Of a model of 64 tokens of context, that factor of the magnitude given, or all of it."""
    magnitude = given if whole else given * (0.1 * math.log(4) + 1)
    return Rope(1e4, "yarn", 4.0, original_context=64, magnitude=magnitude)


def test_version_2_is_read_as_version_3() -> None:
    content = llama_metadata(), TENSORS
    assert read(gguf_bytes(*content, version=2)).tensors.keys() == content[1].keys()


@pytest.mark.parametrize(("number", "name"), OTHER_GGML_TYPES.items())
def test_block_types_that_are_not_read_are_named(number: int, name: str) -> None:
    """Before anything else that may be wrong with the file."""
    tensors = TENSORS | {"odd": (str(number), (7,), b"")}
    message = rf"tensor 'odd' has block type number {number} \({name}\), .* choose .* Q4_K"
    with pytest.raises(UnsupportedError, match=message):
        read(gguf_bytes(llama_metadata() | {"general.architecture": 5}, tensors)[:-100])


def test_the_list_of_block_types_is_whole() -> None:
    ours = {block.ggml_id for block in BLOCK_TYPES.values()} | OTHER_GGML_TYPES.keys()
    assert ours == set(range(max(ours) + 1))
    for kind in reference.GGMLQuantizationType:
        assert kind.name in BLOCK_TYPES or OTHER_GGML_TYPES[kind.value] == kind.name


def test_tensors_that_share_bytes_are_refused() -> None:
    """Else a small file could hold any number of them."""
    one = struct.pack("<I", 1) + struct.pack("<QIQ", 8, 0, 0)
    with pytest.raises(FormatError, match="'a' and 'b' lie over each other"):
        read(header_of(b"", 0, text("a") + one + text("b") + one, 2) + bytes(64))


def outlined(metadata: dict[str, object], tensors: Tensors) -> ModelConfig:
    source = BytesSource(gguf_bytes(metadata, tensors))
    return asyncio.run(outline_gguf([source], MemoryBuffers(), "x")).manifest.config


@pytest.mark.parametrize(
    "changes",
    [
        {"llama.block_count": 4096},
        {"llama.block_count": 4096, "llama.expert_count": 1024, "llama.expert_used_count": 2},
        {"llama.block_count": 4096, "llama.attention.head_count": 2**31 - 1},
        {"llama.embedding_length": 2**31 - 1, "llama.feed_forward_length": 2**31 - 1},
    ],
)
def test_what_is_claimed_costs_nothing(changes: dict[str, object]) -> None:
    data = gguf_bytes(llama_metadata() | changes, TENSORS)
    tracemalloc.start()
    with pytest.raises(DopplerError):
        asyncio.run(outline_gguf([BytesSource(data)], MemoryBuffers(), "x"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * len(data) + (8 << 20)


KEYS = [
    *llama_metadata(),
    *("tokenizer.ggml.pre", "general.alignment", "split.no", "split.count", "split.tensors.count"),
    *(f"llama.{key}" for key in NEUTRAL),
    *("llama.expert_count", "llama.expert_used_count", "llama.expert_feed_forward_length"),
    *("llama.expert_weights_norm", "llama.attention.sliding_window"),
    *("llama.attention.key_length", "llama.attention.value_length", "llama.rope.dimension_count"),
    *("llama.rope.freq_base_swa", "llama.rope.scale_linear", "llama.rope.scaling.type"),
    *("llama.rope.scaling.factor", "llama.rope.scaling.original_context_length"),
    *(f"llama.rope.scaling.yarn_{key}" for key in ("attn_factor", "beta_fast", "ext_factor")),
]
VALUES = [0, 1, "x", "", "yarn", [], [1, 2], [1, 1], ["a"], [[1]], [[["a"]]], 1.5, -1.0, True]
VALUES += [("u32", 2**32 - 1), ("u64", 2**64 - 1), ("i32", -(2**31)), ("f64", 1e300)]
VALUES += [("f64", 1e-300), ("f32", float("nan")), ("f32", float("inf")), "\u202e\x1b[31m" * 99]


YARN = {"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 4.0}


def refusal(metadata: dict[str, object]) -> str:
    """What is said of the tiny model with that metadata; nothing where it is read."""
    try:
        outlined(metadata, TENSORS)
    except DopplerError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("key", KEYS)
def test_values_of_the_wrong_kind_are_no_surprise(key: str) -> None:
    """Whatever stands in a key, it is read, or refused with an error meant for a person."""
    changes: dict[str, object] = {"tokenizer.ggml.merges": ["a b"]}
    if "scaling" in key:
        changes |= YARN
    elif key == "tokenizer.ggml.pre":
        changes["tokenizer.ggml.model"] = "gpt2"
    for item in VALUES:
        told = refusal(llama_metadata() | changes | {key: item})
        assert told.isprintable()
        assert len(told) < 500 or key.startswith("tokenizer")


@pytest.mark.parametrize("key", NEUTRAL)
def test_keys_that_change_the_arithmetic(key: str) -> None:
    neutral = NEUTRAL[key]
    for item in neutral:
        outlined(llama_metadata() | {f"llama.{key}": item}, TENSORS)
    with pytest.raises(UnsupportedError, match=rf"llama\.{key} is 0\.75, which Doppler cannot do"):
        outlined(llama_metadata() | {f"llama.{key}": 0.75}, TENSORS)


@pytest.mark.parametrize(
    ("keys", "rope"),
    [
        ({"factor": 2.0}, Rope(1e4, "linear", 2.0)),
        ({"type": "linear", "factor": 2.0}, Rope(1e4, "linear", 2.0)),
        ({"type": "none", "factor": 2.0}, Rope(1e4)),
        ({"type": "linear"}, Rope(1e4)),
        ({"factor": 0.0}, Rope(1e4)),
        ({"factor": 2}, Rope(1e4, "linear", 2.0)),
        ({"type": "yarn", "factor": 4.0}, yarn_rope(1.0)),
        ({"type": "yarn", "factor": 4.0, "original_context_length": 64}, yarn_rope(1.0)),
        ({"type": "yarn", "factor": 4.0, "yarn_attn_factor": 0.5}, yarn_rope(0.5, whole=True)),
        ({"type": "yarn", "factor": 4.0, "attn_factor": 0.5}, yarn_rope(0.5)),
        (
            {"type": "yarn", "factor": 4.0, "yarn_attn_factor": 0.5, "attn_factor": 0.5},
            yarn_rope(0.5, whole=True),
        ),
        ({"type": "yarn", "factor": 4.0, "yarn_ext_factor": 1.0}, yarn_rope(1.0)),
        ({"type": "yarn", "factor": 4.0, "yarn_ext_factor": -1.0}, yarn_rope(1.0)),
    ],
)
def test_ropes(keys: dict[str, object], rope: Rope) -> None:
    metadata = llama_metadata() | {f"llama.rope.scaling.{k}": item for k, item in keys.items()}
    assert outlined(metadata, TENSORS).ropes == (rope,)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (YARN | {"llama.rope.scaling.yarn_ext_factor": 0.5}, "yarn_ext_factor is 0.5, which Dop"),
        ({"llama.rope.scaling.yarn_attn_factor": 0.5}, "yarn_attn_factor is 0.5, which Doppler"),
        ({"llama.rope.scaling.attn_factor": 0.5}, "attn_factor is 0.5, which Doppler"),
        ({"llama.rope.freq_base_swa": 5.0}, "freq_base_swa is 5.0, which Doppler"),
        ({"llama.attention.key_length_swa": 32}, "key_length_swa is 32, which Doppler"),
    ],
)
def test_ropes_and_heads_that_are_refused(keys: dict[str, object], message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        outlined(llama_metadata() | keys, TENSORS)


def test_an_older_key_of_linear_scaling_and_factors_of_pairs() -> None:
    metadata = llama_metadata() | {"llama.rope.scale_linear": 2.0}
    assert outlined(metadata, TENSORS).ropes == (Rope(1e4, "linear", 2.0),)
    factors = np.linspace(1, 4, 32, dtype=np.float32)
    tensors: Tensors = {"rope_freqs.weight": ("F32", (32,), factors.tobytes())}
    for keys, scale in (({}, 1), ({"llama.rope.scale_linear": 2.0}, 2)):
        (rope,) = outlined(llama_metadata() | keys, TENSORS | tensors).ropes
        assert rope.factors == tuple((factors * scale).tolist())
    huge: Tensors = {"rope_freqs.weight": ("F32", (320_000,), bytes(1_280_000))}
    with pytest.raises(FormatError, match=r"rope_freqs\.weight of shape"):
        outlined(llama_metadata(), TENSORS | huge)


def test_what_lies_beside_the_text_model_is_left_out() -> None:
    """Vision and audio in one file with the text; and tables that are computed, not learnt."""
    names = ["v.blk.0.attn_q.weight", "mm.0.weight", "a.conv1d.0.weight"]
    names += ["blk.0.attn_rot_embd.weight", "blk.1.rope_freqs.weight"]
    others: Tensors = {name: ("F32", (4, 4), bytes(64)) for name in names}
    for number in (16, 26, 99):  # of types that no text model may have here
        others[f"v.table.{number}"] = (str(number), (4, 4), bytes(64))
    expected = outlined(llama_metadata(), TENSORS)
    assert outlined(llama_metadata(), TENSORS | others) == expected
    text_only = {name: item for name, item in TENSORS.items() if "blk.1.attn_q" not in name}
    with pytest.raises(FormatError, match=r"'blk.1.attn_q.weight' of shape .* is missing"):
        outlined(llama_metadata(), text_only | others)
    with pytest.raises(UnsupportedError, match=r"'vision\.0\.weight' is none"):
        outlined(llama_metadata(), TENSORS | {"vision.0.weight": others["mm.0.weight"]})
    with pytest.raises(UnsupportedError, match="the part that sees or hears"):
        outlined(llama_metadata() | {"general.architecture": "clip"}, others)


def test_windows_of_all_layers() -> None:
    """Where a file of arch llama gives one; qwen2's would begin at a layer that GGUF cannot say."""
    window = {"attention.sliding_window": 16}
    metadata = llama_metadata() | {f"llama.{key}": item for key, item in window.items()}
    assert [layer.window for layer in outlined(metadata, TENSORS).layers] == [16, 16]
    qwen = {key.replace("llama.", "qwen2."): item for key, item in metadata.items()}
    header = read(gguf_bytes(qwen | {"general.architecture": "qwen2"}, TENSORS))
    with pytest.raises(UnsupportedError, match=r"qwen2\.attention\.sliding_window is 16, which"):
        config_from_gguf(header, ())


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

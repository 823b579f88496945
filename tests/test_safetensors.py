"""Safetensors headers and config.json: what they say, and what is refused."""

from __future__ import annotations

import asyncio
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from safetensors import deserialize

from doppler.buffers import MemoryBuffers
from doppler.config import Layer, Rope
from doppler.errors import DopplerError, FormatError, UnsupportedError
from doppler.formats.architectures import of_gguf
from doppler.formats.hf_config import config_from_hf
from doppler.formats.safetensors import SafeTensor, read_checkpoint, read_safetensors
from doppler.formats.tensor_names import check_tensors, gguf_names
from doppler.source import FileSource, folder_sources

FIXTURES = Path(__file__).with_name("fixtures")
SHARDED = FIXTURES / "llama32-like"


def checkpoint(folder: Path) -> dict[str, SafeTensor]:
    return asyncio.run(read_checkpoint(folder_sources(folder), MemoryBuffers()))


def copied(source: Path, target: Path) -> Path:
    target.mkdir()
    for path in source.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def stored(path: Path) -> dict[str, tuple[list[int], bytes]]:
    """Shape and bytes of every tensor, as the safetensors package reads them."""
    return {
        name: (item["shape"], bytes(item["data"])) for name, item in deserialize(path.read_bytes())
    }


@pytest.mark.parametrize("name", ["gemma3-4b-like", "llama32-like"])
def test_ranges_equal_the_safetensors_package(name: str) -> None:
    tensors = checkpoint(FIXTURES / name)
    seen = 0
    for path in (FIXTURES / name).glob("*.safetensors"):
        data = path.read_bytes()
        for key, (shape, content) in stored(path).items():
            ours = tensors[key]
            assert list(ours.shape) == shape
            assert data[ours.offset : ours.offset + ours.bytes] == content
            seen += 1
    assert seen == len(tensors)
    assert {tensor.type.name for tensor in tensors.values()} == {"BF16", "F16", "F32"}


def test_missing_files_and_tensors(tmp_path: Path) -> None:
    folder = copied(SHARDED, tmp_path / "copy")
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"]["more.weight"] = "model-00001-of-00002.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(FormatError, match=r"'more.weight' should be in 'model-00001-of-00002"):
        checkpoint(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(FormatError, match=r"model-00002-of-00002\.safetensors', which is missing"):
        checkpoint(folder)
    with pytest.raises(FormatError, match=r"neither model\.safetensors nor"):
        checkpoint(tmp_path)


def file_of(header: dict[str, Any], data: int) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(data)


def entry(kind: str, shape: list[int], *offsets: int) -> dict[str, Any]:
    return {"t": {"dtype": kind, "shape": shape, "data_offsets": list(offsets)}}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"GGUF", "only 4 bytes"),
        (b"# a text file, renamed", "begins with b'# a text"),
        (struct.pack("<Q", 999) + b"{}", "truncated: 997 bytes"),
        (struct.pack("<Q", 2) + b"[]", "no object"),
        (struct.pack("<Q", 2) + b"{x", "JSON is damaged"),
        (struct.pack("<Q", 100_000) + b"[" * 100_000, "JSON is damaged"),
        (file_of({"t": 5}, 0), "entry of tensor 't'"),
        (file_of(entry("F32", [2], 8, 0), 8), "entry of tensor 't'"),
        (file_of(entry("F32", [-2], 0, 8), 8), "entry of tensor 't'"),
        (file_of(entry("F32", [4], 0, 8), 8), "has 8 bytes instead of 16"),
        (file_of(entry("F32", [4], 0, 16), 10), "truncated: 6 bytes"),
    ],
)
def test_damaged_files(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    with pytest.raises(FormatError, match=message):
        asyncio.run(read_safetensors(FileSource(path), MemoryBuffers()))


def test_other_types_are_refused_when_they_are_needed(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(file_of(entry("F8_E4M3", [4], 0, 4), 4))
    tensors = asyncio.run(read_safetensors(FileSource(path), MemoryBuffers()))
    with pytest.raises(UnsupportedError, match="'t' is of type F8_E4M3"):
        _ = tensors["t"].type


def config_json(name: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((FIXTURES / name / "config.json").read_text())
    return data


def test_rope_settings_of_transformers_4_and_5_say_the_same() -> None:
    data = config_json("gemma3-4b-like")["text_config"]
    _, new = config_from_hf(data, "config.json")
    for key in ("rope_parameters", "layer_types"):
        del data[key]
    data |= {"rope_theta": 1e6, "rope_local_base_freq": 1e4, "sliding_window_pattern": 6}
    data["rope_scaling"] = {"rope_type": "linear", "factor": 8.0}
    _, old = config_from_hf(data, "config.json")
    assert old == new
    assert new.ropes == (Rope(1e4), Rope(1e6, "linear", 8.0))
    assert new.layers == ((Layer(16, 0),) * 5 + (Layer(0, 1),)) * 2


def test_llama3_rope_of_transformers_4() -> None:
    data = config_json("llama32-like")
    _, new = config_from_hf(data, "config.json")
    parameters = data.pop("rope_parameters")
    data["rope_theta"] = parameters.pop("rope_theta")
    _, old = config_from_hf(data | {"rope_scaling": parameters}, "config.json")
    assert old == new
    assert new.ropes == (Rope(500_000.0, "llama3", 32.0, 1.0, 4.0, 64),)


def test_factors_of_gguf_say_the_same_as_llama3() -> None:
    scaled = Rope(500_000.0, "llama3", 32.0, 1.0, 4.0, 8192).inverse_frequencies(64)
    plain = Rope(500_000.0).inverse_frequencies(64)
    factors = tuple(p / s for p, s in zip(plain, scaled, strict=True))
    assert (factors[0], factors[-1]) == (1, 32)
    again = Rope(500_000.0, "factors", factors=factors).inverse_frequencies(64)
    assert again == pytest.approx(scaled, rel=1e-12)


def test_defaults_of_the_published_gemma_3_4b() -> None:
    text = {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    }
    data = {"model_type": "gemma3", "text_config": text, "vision_config": {}}
    _, config = config_from_hf(data, "config.json")
    assert (config.heads, config.kv_heads, config.head_dim, config.vocab) == (8, 4, 256, 262208)
    assert (config.query_scale, config.norm_offset, config.tied) == (1 / 16, 1, True)
    assert config.ropes == (Rope(1e4), Rope(1e6, "linear", 8.0))
    assert [i for i, layer in enumerate(config.layers) if not layer.window] == [5, 11, 17, 23, 29]


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"model_type": "mamba"}, UnsupportedError, "architecture 'mamba'"),
        ({"attention_bias": True}, UnsupportedError, "attention_bias"),
        ({"final_logit_softcapping": 30.0}, UnsupportedError, "final_logit_softcapping"),
        ({"attn_logit_softcapping": 50.0}, UnsupportedError, "attn_logit_softcapping"),
        ({"hidden_activation": "relu"}, UnsupportedError, "'relu'"),
        ({"rope_parameters": {"rope_type": "odd", "rope_theta": 1.0}}, UnsupportedError, "'odd'"),
        (
            {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}},
            FormatError,
            "factor is None",
        ),
        (
            {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4, "mscale": 1}},
            UnsupportedError,
            "mscale",
        ),
        ({"partial_rotary_factor": 0.5}, UnsupportedError, "a part of each head"),
        ({"query_pre_attn_scalar": 0}, FormatError, "query_pre_attn_scalar"),
        ({"hidden_size": None}, FormatError, "hidden_size is None"),
        ({"rms_norm_eps": "x"}, FormatError, "rms_norm_eps"),
        ({"layer_types": ["full_attention"]}, FormatError, "layer_types"),
        ({"layer_types": [[]] * 8}, FormatError, "layer_types"),
        ({"num_key_value_heads": 3}, FormatError, "4 heads cannot be shared by 3"),
        ({"rms_norm_eps": -1e-6}, FormatError, "norm_eps is -1e-06"),
        ({"rms_norm_eps": float("nan")}, FormatError, "rms_norm_eps is nan"),
        ({"hidden_activation": ["silu"]}, UnsupportedError, "activation"),
        ({"rope_parameters": "yarn"}, FormatError, "rope_parameters is 'yarn'"),
        ({"rope_parameters": {"full_attention": 3}}, FormatError, "full_attention is 3"),
        ({"rope_scaling": [8]}, FormatError, "rope_scaling is"),
        (
            {"layer_types": None, "sliding_window_pattern": "6"},
            FormatError,
            "sliding_window_pattern is '6'",
        ),
        (
            {"layer_types": None, "sliding_window_pattern": -3},
            FormatError,
            "sliding_window_pattern is -3",
        ),
        (
            {"layer_types": None, "num_hidden_layers": 10**9},
            FormatError,
            "1000000000 layers",
        ),
    ],
)
def test_configs_that_are_refused(
    changes: dict[str, Any], kind: type[DopplerError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        config_from_hf(config_json("gemma3-1b-like") | changes, "config.json")


def test_names() -> None:
    gemma = of_gguf("gemma3", False, "x")
    names = {
        "model.embed_tokens.weight": "token_embd.weight",
        "language_model.model.layers.3.pre_feedforward_layernorm.weight": "blk.3.ffn_norm.weight",
        "model.language_model.layers.0.self_attn.q_norm.weight": "blk.0.attn_q_norm.weight",
        "language_model.lm_head.weight": "output.weight",
        "lm_head.weight": "output.weight",
    }
    ignored = ["vision_tower.a.weight", "model.vision_tower.b.bias", "multi_modal_projector.c"]
    assert gguf_names(gemma, [*names, *ignored], "x") == names
    for odd in ("model.layers.0.self_attn.q_proj.bias", "model.layers.0.mlp.router.weight", "y"):
        with pytest.raises(UnsupportedError, match=odd):
            gguf_names(gemma, [odd], "x")


def test_shapes_are_checked() -> None:
    _, config = config_from_hf(config_json("llama32-like"), "config.json")
    shapes = config.tensor_shapes()
    check_tensors(config, shapes, "x")
    with pytest.raises(FormatError, match=r"x: tensor 'blk.0.attn_q.weight' of shape .* missing"):
        check_tensors(config, {k: s for k, s in shapes.items() if k != "blk.0.attn_q.weight"}, "x")
    with pytest.raises(FormatError, match=r"x: tensor 'output_norm.weight' has shape \(3,\)"):
        check_tensors(config, shapes | {"output_norm.weight": (3,)}, "x")
    with pytest.raises(UnsupportedError, match=r"'blk.0.attn_q.bias'"):
        check_tensors(config, shapes | {"blk.0.attn_q.bias": (3,)}, "x")

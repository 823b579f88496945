"""Safetensors headers and config.json: what they say, and what is refused."""

from __future__ import annotations

import asyncio
import json
import struct
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors import deserialize

from checkpoint_files import write_checkpoint
from doppler.config.layer import Layer
from doppler.config.rope import Rope
from doppler.convert.outline import read_places
from doppler.errors import DopplerError, FormatError, UnsupportedError
from doppler.formats.architectures import of_gguf
from doppler.formats.hf_config import NEUTRAL, config_from_hf
from doppler.formats.safetensors import SafeTensor, read_checkpoint, read_safetensors
from doppler.formats.tensor_names import check_tensors, gguf_names
from doppler.inputs.buffers import MemoryBuffers
from doppler.inputs.source import FileSource, folder_sources

FIXTURES = Path(__file__).parents[1] / "fixtures"
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
        (file_of({"t": 5}, 0), "t is 5, and must be an object"),
        (file_of({"t": {"dtype": "F32", "shape": []}}, 0), "t.data_offsets is missing"),
        (file_of(entry("F32", [1], 0, 4, 8), 8), "entry of tensor 't'"),
        (file_of(entry("F32", [10**400], 0, 8), 8), r"t.shape is \[1000"),
        (file_of(entry("F32", [1] * 9, 0, 4), 8), "entry of tensor 't'"),
        (
            file_of({**entry("F32", [1], 0, 4), **{"u": entry("F32", [1], 0, 4)["t"]}}, 8),
            "lie over",
        ),
        (
            file_of({**entry("F32", [2], 0, 8), **{"u": entry("F32", [1], 4, 8)["t"]}}, 8),
            "lie over",
        ),
        (struct.pack("<Q", 18) + b'{"t":{},"t":{}}   ', "the key 't' stands twice"),
        (file_of(entry("F32", [2], 8, 0), 8), "entry of tensor 't'"),
        (file_of(entry("F32", [-2], 0, 8), 8), r"t.shape is \[-2\]"),
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


@pytest.mark.parametrize(
    ("item", "count", "message"),
    [
        (b',"%d":{"dtype":"F32","shape":[],"data_offsets":[0,0]}', 80_000, "65536 tensors"),
        (b',"%d":""', 400_000, "393216 texts"),
    ],
)
def test_a_header_of_any_size_costs_nothing(
    tmp_path: Path, item: bytes, count: int, message: str
) -> None:
    path = tmp_path / "x.safetensors"
    text = b"{" + b"".join(item % i for i in range(count))[1:] + b"}"
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    tracemalloc.start()
    with pytest.raises(FormatError, match=f"has more than {message}"):
        asyncio.run(read_safetensors(FileSource(path), MemoryBuffers()))
    assert tracemalloc.get_traced_memory()[1] < 3 * len(text)
    tracemalloc.stop()


def test_a_whole_file_beside_an_index_of_older_ones(tmp_path: Path) -> None:
    folder = copied(FIXTURES / "gemma3-1b-like", tmp_path / "copy")
    expected = checkpoint(folder)
    for index in ({"weight_map": {"gone.weight": "model-00001-of-00009.safetensors"}}, {}):
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        assert checkpoint(folder).keys() == expected.keys()


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"weight_map": 5}, "weight_map is 5, and must be an object"),
        ({"weight_map": {"a": ["x"]}}, r"weight_map.a is \['x'\], and must be a text"),
        ({"weight_map": {"a": "\ud800"}}, "weight_map.a is "),
        ({"weight_map": {"a": "../x\n" * 99}}, "names the file '../x"),
        ({}, "has no weight_map"),
    ],
)
def test_indexes_that_make_no_sense(tmp_path: Path, index: Any, message: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(FormatError, match=message) as caught:
        checkpoint(tmp_path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


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
            "factor is missing",
        ),
        (
            {"rope_parameters": {"rope_theta": 1e4, "factor": 4}},
            FormatError,
            "rope_type is missing",
        ),
        ({"num_attention_heads": 0}, FormatError, "num_attention_heads is 0"),
        ({"text_config": [1]}, FormatError, "text_config is"),
        ({"model_type": "m" * 10**6}, UnsupportedError, "architecture 'mmmmmmm"),
        ({"partial_rotary_factor": 0.5}, UnsupportedError, "partial_rotary_factor is 0.5"),
        ({"query_pre_attn_scalar": 0}, FormatError, "query_pre_attn_scalar"),
        ({"hidden_size": None}, FormatError, "hidden_size is missing"),
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
            "num_hidden_layers is 1000000000",
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


QUANTISED: dict[str, tuple[dict[str, Any], str]] = {
    "fp8": ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "FP8"),
    "fbgemm": ({"quant_method": "fbgemm_fp8"}, "FP8"),
    "gptq": ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "GPTQ of 4 bits"),
    "awq": ({"quant_method": "awq", "bits": 4, "version": "gemm"}, "AWQ of 4 bits"),
    "bitsandbytes": ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
    "older bitsandbytes": ({"load_in_8bit": True}, "bitsandbytes"),
    "compressed": ({"quant_method": "compressed-tensors", "format": "x"}, "compressed-tensors"),
    "mxfp4": ({"quant_method": "mxfp4"}, "MXFP4"),
    "hqq": ({"quant_method": "hqq"}, "HQQ"),
    "aqlm": ({"quant_method": "aqlm"}, "AQLM"),
    "eetq": ({"quant_method": "eetq"}, "EETQ"),
    "torchao": ({"quant_method": "torchao"}, "torchao"),
    "quanto": ({"quant_method": "quanto"}, "Quanto"),
    "mlx": ({"group_size": 64, "bits": 4}, "MLX of 4 bits"),
    "new": ({"quant_method": "new\n"}, r"'new\\n'"),
    "unnamed": ({"x": 1}, "a kind without a name"),
}


@pytest.mark.parametrize("name", QUANTISED)
def test_quantised_checkpoints_are_told_by_their_kind(name: str) -> None:
    """Before any other complaint."""
    settings, kind = QUANTISED[name]
    broken = {"model_type": "mamba", "hidden_size": "x"}
    for place in ("quantization_config", "compression_config"):
        for config in ({place: settings}, {"text_config": {place: settings}}):
            if place == "compression_config" and name == "unnamed":
                continue
            with pytest.raises(UnsupportedError, match=f"quantised as {kind}.* GGUF file"):
                config_from_hf(broken | config, "config.json")


def test_quantised_by_mlx_and_what_is_not_quantised() -> None:
    data = config_json("gemma3-1b-like")
    mlx = {"quantization": {"group_size": 64, "bits": 4}}
    with pytest.raises(UnsupportedError, match="quantised as MLX of 4 bits"):
        config_from_hf(data | mlx | {"quantization_config": mlx["quantization"]}, "config.json")
    off = {"quant_method": "bitsandbytes", "load_in_4bit": False, "load_in_8bit": False}
    for settings in (None, {}, off):
        config_from_hf(data | {"quantization_config": settings}, "config.json")
    with pytest.raises(FormatError, match="quantization_config is 5"):
        config_from_hf(data | {"quantization_config": 5}, "config.json")


@pytest.mark.parametrize(
    ("tensor", "kind"),
    [
        ("q_proj.qweight", "GPTQ or AWQ"),
        ("q_proj.weight_scale_inv", "FP8"),
        ("q_proj.weight_packed", "compressed-tensors"),
        ("q_proj.weight.absmax", "bitsandbytes"),
        ("q_proj.weight.quant_state.bitsandbytes__nf4", "bitsandbytes"),
        ("q_proj.SCB", "bitsandbytes"),
        ("q_proj.biases", "MLX"),
        ("q_proj.codebooks", "AQLM"),
        ("q_proj.W_q", "HQQ"),
        ("q_proj.weight._data", "Quanto"),
        ("q_proj_blocks", "MXFP4"),
    ],
)
def test_tensors_tell_how_a_checkpoint_is_quantised(tensor: str, kind: str) -> None:
    name = f"model.layers.0.self_attn.{tensor}"
    with pytest.raises(
        UnsupportedError, match=f"{tensor[:20]}.*: the weights are quantised as {kind}"
    ):
        gguf_names(of_gguf("llama", False, "x"), [name], "x")


@pytest.mark.parametrize("key", NEUTRAL)
def test_settings_that_change_the_arithmetic(key: str) -> None:
    data = config_json("llama32-like")
    for item in (None, *NEUTRAL[key]):
        config_from_hf(data | {key: item}, "config.json")
    with pytest.raises(UnsupportedError, match=rf"config\.json: {key} is 0\.75, which Doppler"):
        config_from_hf(data | {key: 0.75}, "config.json")


VALUES = [0, -1, 5, 0.5, 10**400, 10**4000, 1e300, 1e-300, float("inf"), float("nan"), True, "x"]
VALUES += ["\ud800", "\u202e\x1b[31m" * 99, [], [1, 2], ["x"], [[[]]] * 9, {}, {"a": {}}, None]
ROPE_KEYS = ("rope_theta", "factor", "original_max_position_embeddings", "beta_fast", "beta_slow")
ROPE_KEYS += ("attention_factor", "truncate", "low_freq_factor", "high_freq_factor", "mscale")


def refusal(data: dict[str, Any]) -> str:
    """What is said of a config; nothing where it is read."""
    try:
        config_from_hf(data, "config.json")
    except DopplerError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", ["gemma3-4b-like", "llama32-like", "qwen3moe-like"])
def test_values_of_the_wrong_kind_are_no_surprise(name: str) -> None:
    """Whatever stands in a field, it is read, or refused in one line."""
    data = config_json(name)
    outer = data if "text_config" in data else {"text_config": data}
    text = outer["text_config"]
    keys = {*text, "text_config", "quantization_config", "rope_scaling", "sliding_window"}
    keys |= {"layer_types", "num_experts", "norm_topk_prob", "query_pre_attn_scalar"}
    cases = [outer | {"text_config": text | {key: item}} for key in keys for item in VALUES]
    for kind in ("linear", "llama3", "yarn", None):
        rope = {"rope_type": kind, "rope_theta": 1e4, "factor": 2.0, "low_freq_factor": 1.0}
        rope |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 64}
        for key in ("rope_type", "type", *ROPE_KEYS):
            ropes = [{"rope_parameters": rope | {key: item}} for item in VALUES]
            cases += [outer | {"text_config": text | changed} for changed in ropes]
    told = [refusal(case) for case in cases]
    assert all(message.isprintable() and len(message) < 400 for message in told)
    assert len(cases) / 2 < sum(map(bool, told)) < len(cases)


@pytest.mark.parametrize(
    ("rope", "expected"),
    [
        ({"rope_type": "yarn", "factor": 4.0}, Rope(1e4, "yarn", 4.0, original_context=64)),
        ({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": None}, None),
        ({"type": "yarn", "rope_type": None, "factor": 4.0, "beta_fast": None}, None),
        ({"rope_type": "yarn", "type": "linear", "factor": 4.0}, None),
        ({"type": "linear", "factor": 2}, Rope(1e4, "linear", 2.0)),
        ({"rope_type": "default", "factor": 2}, Rope(1e4)),
        ({"factor": 1}, Rope(1e4)),
        ({}, Rope(1e4)),
        (None, Rope(1e4)),
    ],
)
def test_ropes(rope: dict[str, Any] | None, expected: Rope | None) -> None:
    data = config_json("llama32-like")
    del data["rope_parameters"]
    data |= {"rope_theta": 1e4, "max_position_embeddings": 64}
    _, old = config_from_hf(data | {"rope_scaling": rope, "rope_parameters": None}, "x")
    new = {"rope_theta": None, "rope_parameters": {"rope_theta": 1e4, **(rope or {})}}
    assert config_from_hf(data | new, "x")[1] == old
    yarn = Rope(1e4, "yarn", 4.0, original_context=64)
    assert old.ropes == (replace(expected or yarn, magnitude=old.ropes[0].magnitude),)
    assert (old.ropes[0].magnitude > 1) == (old.ropes[0].scaling == "yarn")


@pytest.mark.parametrize("key", ["type", "rope_type"])
def test_a_scaling_that_was_added_to_a_config_of_transformers_5(key: str) -> None:
    """As models' pages advise for long texts. It counts, with the base that was there."""
    longer = {key: "linear", "factor": 4.0}
    llama = config_json("llama32-like") | {"rope_scaling": longer}
    assert config_from_hf(llama, "x")[1].ropes == (Rope(500_000.0, "linear", 4.0),)
    gemma = config_json("gemma3-1b-like") | {"rope_scaling": longer}
    assert config_from_hf(gemma, "x")[1].ropes == (Rope(1e4), Rope(1e6, "linear", 4.0))
    odd = config_json("llama32-like") | {"rope_scaling": {key: "dynamic", "factor": 4.0}}
    with pytest.raises(UnsupportedError, match="'dynamic'"):
        config_from_hf(odd, "x")


def test_ropes_by_layer_of_a_model_that_has_one() -> None:
    full, other = {"rope_theta": 1e4}, {"rope_theta": 1e6}
    data = config_json("llama32-like")
    same = {"full_attention": full, "sliding_attention": full}
    assert config_from_hf(data | {"rope_parameters": same}, "x")[1].ropes == (Rope(1e4),)
    with pytest.raises(UnsupportedError, match=r"rope_parameters\.sliding_attention is .*1000000"):
        config_from_hf(data | {"rope_parameters": same | {"sliding_attention": other}}, "x")


@pytest.mark.parametrize(
    "name",
    [
        *("model.vision_tower.blocks.0.weight", "model.visual.patch_embed.proj.weight"),
        *(
            "visual.blocks.0.bias",
            "model.vision_model.x",
            "model.connector.proj.weight",
            "mlp1.0.x",
        ),
        *("audio_tower.conv1.weight", "model.audio_tower.x", "multi_modal_projector.linear_1.bias"),
        *("model.embed_vision.x.weight", "model.image_newline", "model.rotary_emb.inv_freq"),
        *("model.layers.0.self_attn.rotary_emb.inv_freq", "transformer.h.0.attn.bias"),
        *("model.layers.0.attn.masked_bias", "model.embeddings.position_ids"),
    ],
)
def test_what_lies_beside_the_text_model_is_left_out(name: str) -> None:
    assert gguf_names(of_gguf("llama", False, "x"), [name], "x") == {}


def test_numbers_of_layers_and_two_names_of_one_tensor(tmp_path: Path) -> None:
    llama = of_gguf("llama", False, "x")
    for number in ("1" * 5000, "٣", "-1"):
        with pytest.raises(UnsupportedError, match=r"tensor 'model\.layers"):
            gguf_names(llama, [f"model.layers.{number}.mlp.up_proj.weight"], "x")
    folder = write_checkpoint(tmp_path / "x", 266)
    data = (folder / "model.safetensors").read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    end = len(data) - 8 - length
    header["norm.weight"] = {"dtype": "BF16", "shape": [96], "data_offsets": [end, end + 192]}
    text = json.dumps(header).encode()
    changed = struct.pack("<Q", len(text)) + text + data[8 + length :] + bytes(192)
    (folder / "model.safetensors").write_bytes(changed)
    with pytest.raises(FormatError, match=r"'model\.norm\.weight' and 'norm\.weight' are both"):
        asyncio.run(read_places(folder_sources(folder), MemoryBuffers()))

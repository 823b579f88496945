"""Adapters that are damaged, hostile, of another base or of another kind: each refused in words."""

from __future__ import annotations

import asyncio
import json
import struct
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from adapter_files import PREFIX, random_pair, write_peft
from checkpoint_files import HEADS, write_checkpoint
from doppler.adapters.lora_config import LoraConfig, lora_config
from doppler.adapters.make import read_adapter
from doppler.adapters.peft import ReadAdapter
from doppler.config.model import ModelConfig
from doppler.errors import DopplerError, FormatError, UnsupportedError
from doppler.formats.hf_config import config_from_hf
from doppler.inputs.buffers import MemoryBuffers
from family_files import config_json
from gguf_files import gguf_bytes

HIDDEN = 96
Q = "model.layers.0.self_attn.q_proj"


@cache
def base() -> ModelConfig:
    """That of write_checkpoint."""
    data = {
        "model_type": "llama",
        "vocab_size": 64,
        "hidden_size": HIDDEN,
        "intermediate_size": 80,
        "num_hidden_layers": 1,
        "num_attention_heads": HEADS,
        "tie_word_embeddings": True,
    }
    return config_from_hf(data, "x")[1]


def read(path: Path) -> ReadAdapter:
    return asyncio.run(read_adapter(path, base(), MemoryBuffers()))


def refused(path: Path, kind: type[DopplerError], words: str) -> None:
    with pytest.raises(kind, match=words):
        read(path)


def one(
    folder: Path, module: str = Q, shape: tuple[int, int] = (HIDDEN, HIDDEN), **config: Any
) -> Path:
    return write_peft(folder, {module: random_pair(shape, 4, 1)}, **config)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"peft_type": "LOHA"}, "of kind LoHa; Doppler reads LoRA alone"),
        ({"peft_type": "VERA"}, "of kind VeRA"),
        ({"peft_type": "IA3"}, "of kind IA3"),
        ({"use_dora": True}, "has DoRA"),
        ({"bias": "lora_only"}, "bias is 'lora_only'"),
        ({"modules_to_save": ["lm_head"]}, "modules saved whole"),
        ({"init_lora_weights": "pissa_niter_4"}, "changes the base before training"),
        ({"lora_bias": True}, "a bias of LoRA's B"),
        ({"layer_replication": [[0, 1], [0, 1]]}, "layers that stand there twice"),
        ({"not_known_yet": 3}, "the setting 'not_known_yet'"),
    ],
)
def test_kinds_that_are_not_plain_lora(tmp_path: Path, setting: dict[str, Any], words: str) -> None:
    refused(one(tmp_path / "x", **setting), UnsupportedError, words)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"r": 5}, "says that its rank is 5"),
        ({"r": 0}, "r is 0, and must be a whole number from 1"),
        ({"r": 1 << 40}, "must be a whole number from 1 to 4096"),
        ({"lora_alpha": "much"}, "lora_alpha is 'much'"),
        ({"rank_pattern": {"q_proj": 8}}, "says that its rank is 8"),
        ({"target_modules": ["v_proj"]}, "does not choose"),
        ({"target_modules": "("}, "is no regular expression"),
        ({"exclude_modules": ["q_proj"]}, "does not choose"),
        ({"layers_to_transform": [1]}, "does not choose"),
        ({"alora_invocation_tokens": []}, "must be 1 to 4096 token ids"),
    ],
)
def test_configs_that_do_not_fit(tmp_path: Path, setting: dict[str, Any], words: str) -> None:
    refused(one(tmp_path / "x", **setting), FormatError, words)


def test_an_adapter_of_another_base(tmp_path: Path) -> None:
    words = r"of a matrix of shape \(128, 64\); the base has it as \(96, 96\)"
    refused(one(tmp_path / "shape", shape=(128, 64)), FormatError, words)
    module = Q.replace("layers.0", "layers.9")
    refused(one(tmp_path / "layer", module), FormatError, "layer 9, and the base has 1 layers")
    module = "model.layers.0.attn.c_attn"
    refused(one(tmp_path / "module", module), FormatError, "no module of a llama model")
    module = "model.layers.0.mlp.experts.0.w1"
    refused(one(tmp_path / "experts", module), FormatError, "no module of a llama model")
    head = one(tmp_path / "head", "lm_head", (64, HIDDEN))
    refused(head, FormatError, "its embedding is its head")
    embedding = one(tmp_path / "embedding", "model.embed_tokens", (64, HIDDEN))
    refused(embedding, UnsupportedError, "of the embeddings")
    tokens = one(tmp_path / "tokens", alora_invocation_tokens=[3, 64])
    refused(tokens, FormatError, "invoked by token 64, and the base knows 64 tokens")
    norm = one(tmp_path / "norm", "model.layers.0.input_layernorm", (HIDDEN, 1))
    refused(norm, UnsupportedError, "no matrix in the base")


def rewritten(folder: Path, tensors: dict[str, np.ndarray]) -> Path:
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def test_tensors_that_are_wrong(tmp_path: Path) -> None:
    path = one(tmp_path / "x")
    good = load_file(path / "adapter_model.safetensors")
    a, b = f"{PREFIX}{Q}.lora_A.weight", f"{PREFIX}{Q}.lora_B.weight"
    refused(rewritten(path, {a: good[a]}), FormatError, "has no lora_B")
    refused(rewritten(path, {b: good[b]}), FormatError, "has no lora_A")
    refused(rewritten(path, {a: good[a], b: good[b][:, :3].copy()}), FormatError, "rank is 4")
    refused(rewritten(path, {a: good[a].reshape(4, -1, 2), b: good[b]}), FormatError, "no matrix")
    for odd in (np.nan, np.inf):
        damaged = good[b].copy()
        damaged[3, 2] = odd
        refused(rewritten(path, {a: good[a], b: damaged}), FormatError, "infinities or what is no")
    extra = {**good, f"{PREFIX}{Q}.lora_magnitude_vector.weight": np.ones(3, np.float32)}
    refused(rewritten(path, extra), UnsupportedError, "DoRA's magnitudes")
    refused(rewritten(path, {**good, "other": good[a]}), FormatError, "is none of an adapter")
    bytes_ = {a: good[a].astype(np.int8), b: good[b]}
    refused(rewritten(path, bytes_), UnsupportedError, "is of type I8")


def test_one_matrix_that_two_names_mean(tmp_path: Path) -> None:
    pairs = {name: random_pair((HIDDEN, HIDDEN), 4, 1) for name in (Q, Q.replace("model.", "", 1))}
    refused(write_peft(tmp_path / "x", pairs), FormatError, "both change the base's blk.0.attn_q")


def test_what_sees_or_hears_is_left_out(tmp_path: Path) -> None:
    seeing = "model.vision_tower.layers.0.self_attn.q_proj"
    pairs = {name: random_pair((HIDDEN, HIDDEN), 4, 1) for name in (Q, seeing)}
    found = read(write_peft(tmp_path / "both", pairs))
    assert [it.name for it in found.deltas] == ["blk.0.attn_q.weight"]
    assert found.left_out == (seeing,)
    refused(one(tmp_path / "alone", seeing), FormatError, "changes nothing of the base")


def test_a_config_of_gigabytes(tmp_path: Path) -> None:
    path = one(tmp_path / "x")
    with (path / "adapter_config.json").open("ab") as file:
        file.truncate(3_000_000_000)  # sparse
    refused(path, FormatError, "has 3,000,000,000 bytes, more than the")


def test_a_header_that_lies(tmp_path: Path) -> None:
    path, name = one(tmp_path / "x"), f"{PREFIX}{Q}.lora_A.weight"
    for shape in ([1 << 50, HIDDEN], [4, 1 << 52]):
        end = 4 * shape[0] * shape[1]
        entry = {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}
        text = json.dumps({name: entry}).encode()
        data = struct.pack("<Q", len(text)) + text + bytes(64)
        (path / "adapter_model.safetensors").write_bytes(data)
        with pytest.raises(FormatError):
            read(path)
    twice = b'{"%s": {}, "%s": {}}' % (name.encode(), name.encode())
    (path / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(twice)) + twice)
    refused(path, FormatError, "stands twice")


def test_files_that_are_missing(tmp_path: Path) -> None:
    path = one(tmp_path / "x")
    (path / "adapter_model.safetensors").unlink()
    refused(path, FormatError, "has no adapter_model.safetensors")
    (path / "adapter_model.bin").write_bytes(b"PK")
    refused(path, UnsupportedError, "a pickle, .*save_pretrained")
    (path / "adapter_config.json").unlink()
    refused(path, FormatError, "has no adapter_config.json")
    refused(write_checkpoint(tmp_path / "model", 64), FormatError, "has no adapter_config.json")


def test_gguf_adapters_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    a, b = random_pair((HIDDEN, HIDDEN), 4, 1)
    pair = {
        f"blk.0.attn_v.weight.{side}": ("F32", it.shape, it.tobytes())
        for side, it in (("lora_a", a), ("lora_b", b))
    }
    good = {"general.architecture": "llama", "general.type": "adapter", "adapter.type": "lora"}
    path.write_bytes(gguf_bytes(good, pair))
    assert [it.scale for it in read(path).deltas] == [1.0]  # without an alpha
    for changes, words in (
        ({"general.type": "model"}, "is no adapter"),
        ({"adapter.type": "vera"}, "adapter.type is 'vera'"),
        ({"general.architecture": "qwen3"}, "of architecture 'qwen3'; the base is llama"),
    ):
        path.write_bytes(gguf_bytes(good | changes, pair))
        refused(path, DopplerError, words)
    path.write_bytes(gguf_bytes(good, {"blk.0.attn_v.weight.lora_a": pair.popitem()[1]}))
    refused(path, FormatError, "has no lora_b")


def config(**changes: Any) -> LoraConfig:
    return lora_config({"r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], **changes}, "x")


def test_ranks_and_scales_by_pattern() -> None:
    plain = config()
    assert (plain.rank_of(Q), plain.scale_of(Q)) == (4, 2.0)
    assert config(use_rslora=True).scale_of(Q) == 4.0
    own = config(
        rank_pattern={r"layers\.0\.self_attn\.q_proj": 16, "q_proj": 2},
        alpha_pattern={"^model.layers.0.self_attn.k_proj": 1, r"layers.[1-3].*q_proj": 3},
    )
    assert (own.rank_of(Q), own.scale_of(Q)) == (16, 0.5)
    third = Q.replace("0", "3")
    assert (own.rank_of(third), own.scale_of(third)) == (2, 1.5)
    assert own.rank_of("model.layers.0.xq_proj") == 4  # names match from a point on


def test_targets_as_peft_finds_them() -> None:
    assert config().is_target(Q)
    assert not config().is_target(Q + "x")
    assert config(target_modules="all-linear").is_target("any")
    pattern = r".*(?:self_attn|mlp)\.(?:q|v)_proj"
    assert config(target_modules=pattern).is_target(Q)
    assert not config(target_modules=r"self_attn\.q_proj").is_target(Q)  # it is of the whole name
    assert not config(exclude_modules=r".*\.0\..*").is_target(Q)
    assert config(layers_to_transform=0).is_target(Q)
    assert not config(layers_to_transform=[1, 2]).is_target(Q)
    assert config(layers_to_transform=[0], layers_pattern="layers").is_target(Q)
    assert not config(layers_to_transform=[0], layers_pattern=["h"]).is_target(Q)
    expert = "model.layers.1.experts.0.q_proj"  # the layer's number comes first
    assert config(layers_to_transform=[1]).is_target(expert)


def test_parameters_that_are_not_as_the_config_says(tmp_path: Path) -> None:
    mixture = config_from_hf(config_json("gemma4-26b-like"), "x")[1]
    module, count = "model.layers.0.experts", 9
    settings = {"target_modules": None, "target_parameters": ["experts.down_proj"]}

    def read_stack(name: str, shape: tuple[int, int], rank: int, **changes: Any) -> ReadAdapter:
        pair = random_pair(shape, rank, 1)
        path = write_peft(tmp_path / name, {module: pair}, **(settings | {"r": 2} | changes))
        return asyncio.run(read_adapter(path, mixture, MemoryBuffers()))

    assert len(read_stack("good", (50, 28), 2 * count).deltas) == count
    with pytest.raises(FormatError, match="is of none of the base's parameters"):
        read_stack("shape", (50, 30), 2 * count)
    with pytest.raises(FormatError, match="its rank is 2, of each of 9 experts"):
        read_stack("rank", (50, 28), 3 * count)
    with pytest.raises(FormatError, match="no module of a gemma4 model"):
        read_stack("other", (50, 28), 2 * count, target_parameters=["experts.gate"])

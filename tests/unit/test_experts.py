"""Mixtures of experts as files have them, stacked or one by one; each expert a range of blocks."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from doppler.errors import DopplerError, FormatError, UnsupportedError
from doppler.inputs.buffers import MemoryBuffers
from doppler.quantization.dequantize import dequantize
from doppler.store.folder import FolderStorage
from doppler.store.manifest import Manifest
from doppler.store.verify import verify
from expert_files import converted, gguf_of, load_file, raw_tensors, save_file
from fixture_sets import FIXTURES
from numpy_model import NumpyModel

SHARED = "qwen2moe-like"  # with a dense FFN beside the experts, through a gate
IN_GGUF = ("mixtral-like", "gpt-oss-like", "gpt-oss-mxfp4-like", SHARED, "qwen3moe-like")
MIXTURES = (*IN_GGUF, "gemma4-26b-like")


@pytest.mark.parametrize("name", MIXTURES)
def test_logits_of_converted_checkpoints(tmp_path: Path, name: str) -> None:
    """NumPy and torch add in another order: 5e-6 was measured, mistakes show as 0.1 and more."""
    manifest = converted(FIXTURES / name, tmp_path)
    with np.load(FIXTURES / name / "reference.npz") as reference:
        ids, expected = reference["ids"].tolist(), reference["logits"]
    np.testing.assert_allclose(NumpyModel(tmp_path).logits(ids), expected, atol=1e-4, rtol=0)
    asyncio.run(verify(FolderStorage(tmp_path), manifest, MemoryBuffers()))


@pytest.mark.parametrize("name", MIXTURES)
def test_every_expert_is_a_range_of_whole_blocks(tmp_path: Path, name: str) -> None:
    manifest = converted(FIXTURES / name, tmp_path)
    c, size = manifest.config, manifest.block_size
    assert c.experts is not None
    listed = [(e.layer, e.expert) for e in manifest.experts]
    assert listed == [(i, e) for i in range(len(c.layers)) for e in range(c.experts.count)]
    mine = {e: set(c.expert_shapes(e.layer, e.expert)) for e in manifest.experts}
    for e in manifest.experts:
        assert e.offset % size == e.bytes % size == 0
        inside = {
            t.name
            for t in manifest.tensors
            if t.offset < e.offset + e.bytes and t.offset + t.bytes > e.offset
        }
        assert inside == mine[e]
    assert Manifest.from_json(manifest.to_json(), "it") == manifest


def test_ranges_of_experts_that_are_wrong_are_refused(tmp_path: Path) -> None:
    manifest = converted(FIXTURES / "mixtral-like", tmp_path)
    size = manifest.block_size
    for change, message in (
        ({"offset": manifest.experts[0].offset + 256}, "no whole number of blocks"),
        ({"offset": 0}, "outside the range of its expert"),
        ({"bytes": size * 10**6}, "no whole number of blocks"),
        ({"expert": 1}, "not those of 18"),
        ({"bytes": None}, "bytes is missing"),
    ):
        wrong = json.loads(manifest.to_json())
        wrong["description"]["experts"][0] |= change
        with pytest.raises(FormatError, match=message):
            Manifest.from_json(json.dumps(wrong), "it")


@pytest.mark.parametrize("stack", [True, False])
@pytest.mark.parametrize("name", IN_GGUF)
def test_a_gguf_of_a_checkpoint_is_the_same_model(tmp_path: Path, name: str, stack: bool) -> None:
    """Stacked as files are today, or one by one as the first ones of Mixtral were."""
    converted(FIXTURES / name, tmp_path / "checkpoint")
    model = NumpyModel(tmp_path / "checkpoint")
    (tmp_path / "x.gguf").write_bytes(gguf_of(tmp_path / "checkpoint", stack=stack))
    converted(tmp_path / "x.gguf", tmp_path / "gguf")
    again = NumpyModel(tmp_path / "gguf")
    ids = list(range(1, 40))
    np.testing.assert_allclose(again.logits(ids), model.logits(ids), atol=1e-5, rtol=0)
    if model.config.architecture != "mixtral":  # whose q and k lie otherwise
        assert again.config == model.config
        assert again.manifest.blocks == model.manifest.blocks


def test_older_files_of_shared_experts(tmp_path: Path) -> None:
    """Without the width of those, which is the FFN's then, and with their gate as a matrix."""
    converted(FIXTURES / SHARED, tmp_path / "checkpoint")
    model = NumpyModel(tmp_path / "checkpoint")
    assert model.config.experts is not None
    width = {"expert_shared_feed_forward_length": None, "expert_weights_norm": None}
    changes = {**width, "feed_forward_length": model.config.experts.beside}
    data = gguf_of(tmp_path / "checkpoint", stack=True, gate_rank=2, **changes)
    (tmp_path / "x.gguf").write_bytes(data)
    converted(tmp_path / "x.gguf", tmp_path / "gguf")
    assert NumpyModel(tmp_path / "gguf").config == model.config


OFF: dict[str, dict[str, Any]] = {  # of what the shared experts' config says
    "shares of all": {"normed": True},
    "the gate": {"gated": False, "beside": 0},  # and with it what it lets through
}


@pytest.mark.parametrize("feature", OFF)
def test_each_feature_of_shared_experts_matters(tmp_path: Path, feature: str) -> None:
    converted(FIXTURES / SHARED, tmp_path)
    model = NumpyModel(tmp_path)
    assert model.config.experts is not None
    experts = replace(model.config.experts, **OFF[feature])
    model.config = replace(model.config, experts=experts)
    with np.load(FIXTURES / SHARED / "reference.npz") as reference:
        ids, expected = reference["ids"].tolist(), reference["logits"]
    assert np.abs(model.logits(ids) - expected).max() > 0.1


@pytest.mark.parametrize("part", ["ffn_gate_inp_shexp", "ffn_down", "attn_q", "attn_k", "attn_v"])
def test_each_tensor_of_shared_experts_matters(tmp_path: Path, part: str) -> None:
    """A gate that is always half open; no dense FFN; no biases."""
    converted(FIXTURES / SHARED, tmp_path)
    model, kind = NumpyModel(tmp_path), "bias" if "attn" in part else "weight"
    off = {name for name in model.weights if name.split(".")[2:] == [part, kind]}
    assert len(off) == len(model.config.layers)
    model.weights |= {name: np.zeros_like(model.weights[name]) for name in off}
    with np.load(FIXTURES / SHARED / "reference.npz") as reference:
        ids, expected = reference["ids"].tolist(), reference["logits"]
    assert np.abs(model.logits(ids) - expected).max() > 0.1


def test_mxfp4_is_taken_over_without_loss(tmp_path: Path) -> None:
    """The weights that transformers computes with, from blocks in the order of GGML."""
    name = "gpt-oss-mxfp4-like"
    converted(FIXTURES / name, tmp_path)
    source = load_file(FIXTURES / name / "model.safetensors")
    blocks = source["model.layers.1.mlp.experts.gate_up_proj_blocks"]
    scales = source["model.layers.1.mlp.experts.gate_up_proj_scales"]
    codes = np.stack([blocks & 15, blocks >> 4], -1).reshape(*blocks.shape[:-1], 32)
    table = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
    values = np.concatenate([table, -table])[codes] * np.exp2(scales[..., None] - 127.0)
    experts, rows = values.shape[:2]
    wanted = values.reshape(experts, rows, -1)
    found = raw_tensors(tmp_path)
    for expert in range(experts):
        for part, first in (("ffn_gate", 0), ("ffn_up", 1)):
            kind, shape, data = found[f"blk.1.{part}.{expert}.weight"]
            assert kind == "MXFP4"
            weights = dequantize(kind, data, shape)
            np.testing.assert_array_equal(weights, wanted[expert, first::2])


def test_stacked_tensors_of_transformers_are_those_one_by_one(tmp_path: Path) -> None:
    """Mixtral as transformers 5 holds it, and as it was published."""
    name = "mixtral-like"
    converted(FIXTURES / name, tmp_path / "one")
    source = load_file(FIXTURES / name / "model.safetensors")
    joined = {k: v for k, v in source.items() if "block_sparse_moe" not in k}
    for layer in range(3):
        old = f"model.layers.{layer}.block_sparse_moe"
        new = f"model.layers.{layer}.mlp"
        parts = {
            w: np.stack([source[f"{old}.experts.{e}.{w}.weight"] for e in range(6)])
            for w in ("w1", "w2", "w3")
        }
        joined[f"{new}.gate.weight"] = source[f"{old}.gate.weight"]
        joined[f"{new}.experts.gate_up_proj"] = np.concatenate([parts["w1"], parts["w3"]], axis=1)
        joined[f"{new}.experts.down_proj"] = parts["w2"]
    (tmp_path / "new").mkdir()
    shutil.copy(FIXTURES / name / "config.json", tmp_path / "new")
    save_file(joined, tmp_path / "new" / "model.safetensors")
    converted(tmp_path / "new", tmp_path / "all")
    one, both = (NumpyModel(tmp_path / folder).manifest for folder in ("one", "all"))
    assert one.identity == both.identity


def changed(tmp_path: Path, name: str, tensors: Mapping[str, Any], **config: Any) -> Path:
    """A fixture with some tensors (None: without them) and settings changed."""
    folder = tmp_path / "changed"
    shutil.copytree(FIXTURES / name, folder)
    data = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(data | config))
    stored = load_file(folder / "model.safetensors") | tensors
    kept = {key: value for key, value in stored.items() if value is not None}
    save_file(kept, folder / "model.safetensors")
    return folder


MXFP4 = "gpt-oss-mxfp4-like"
W1 = "model.layers.0.block_sparse_moe.experts.5.w1.weight"
DOWN = "model.layers.2.mlp.experts.down_proj_blocks"
SCALES = "model.layers.2.mlp.experts.down_proj_scales"


@pytest.mark.parametrize(
    ("name", "tensors", "config", "kind", "message"),
    [
        ("mixtral-like", {W1: None}, {}, FormatError, r"ffn_gate\.5\.weight' of shape .* missing"),
        ("mixtral-like", {}, {"num_local_experts": 8}, FormatError, r"ffn_gate_inp.*asks for \(8,"),
        ("mixtral-like", {}, {"num_local_experts": 5}, FormatError, r"ffn_gate_inp.*asks for \(5,"),
        ("mixtral-like", {}, {"num_experts_per_tok": 7}, FormatError, "uses 7 of 6 experts"),
        ("mixtral-like", {}, {"num_local_experts": 0}, FormatError, "uses 2 of 0 experts"),
        ("mixtral-like", {}, {"num_local_experts": 2000}, UnsupportedError, "more than the 1024"),
        (
            "gpt-oss-mxfp4-like",
            {},
            {"num_local_experts": 7},
            FormatError,
            r"model\.safetensors: tens",
        ),
        (
            "gpt-oss-mxfp4-like",
            {},
            {"intermediate_size": 64},
            FormatError,
            r"asks for \(8, (128|64)\b",
        ),
        (
            "gpt-oss-mxfp4-like",
            {SCALES: None},
            {},
            FormatError,
            "_scales' is missing, the scales of",
        ),
        (MXFP4, {DOWN: None}, {}, FormatError, r"blk\.2\.ffn_down\.0\.weight"),
        (MXFP4, {}, {"swiglu_limit": 5.0}, UnsupportedError, "swiglu_limit is 5.0"),
        (
            "gpt-oss-like",
            {},
            {"attention_bias": False},
            UnsupportedError,
            "attention_bias is False",
        ),
        (SHARED, {}, {"mlp_only_layers": [1]}, UnsupportedError, "mlp_only_layers"),
        (SHARED, {}, {"decoder_sparse_step": 2}, UnsupportedError, "sparse_step is 2"),
        (SHARED, {}, {"shared_expert_intermediate_size": 0}, UnsupportedError, "has a gate, or"),
        (SHARED, {}, {"shared_expert_intermediate_size": 50}, UnsupportedError, "multiples of 4"),
        (SHARED, {}, {"shared_expert_intermediate_size": 48}, FormatError, r"asks for \(48, 72\)"),
        ("qwen3moe-like", {}, {"mlp_only_layers": [0]}, UnsupportedError, "mlp_only_layers"),
        ("qwen3moe-like", {}, {"decoder_sparse_step": 2}, UnsupportedError, "sparse_step is 2"),
    ],
)
def test_checkpoints_that_contradict_themselves(
    tmp_path: Path,
    name: str,
    tensors: dict[str, Any],
    config: dict[str, Any],
    kind: type[DopplerError],
    message: str,
) -> None:
    folder = changed(tmp_path, name, tensors, **config)
    with pytest.raises(kind, match=message):
        converted(folder, tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"expert_count": 5}, r"x\.gguf: tensor 'blk\.0\.ffn_gate_exps\.weight' has shape \(6, "),
        ({"expert_count": 0}, r"'blk\.0\.ffn_(gate|norm)"),
        ({"expert_used_count": 9}, "uses 9 of 6 experts"),
        ({"feed_forward_length": 48}, r"asks for \(6, 48, 64\)"),
        ({"expert_shared_count": 1}, r"llama\.expert_shared_count is 1"),
        ({"expert_gating_func": 2}, r"llama\.expert_gating_func is 2"),
    ],
)
def test_gguf_files_that_contradict_themselves(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    converted(FIXTURES / "mixtral-like", tmp_path / "checkpoint")
    data = gguf_of(tmp_path / "checkpoint", stack=True, **changes)
    (tmp_path / "x.gguf").write_bytes(data)
    with pytest.raises(DopplerError, match=message):
        converted(tmp_path / "x.gguf", tmp_path / "gguf")

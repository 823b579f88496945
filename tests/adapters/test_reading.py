"""Adapters read: merged into a checkpoint that is then converted, they give the same weights."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from adapter_files import (
    base_of,
    floats_of,
    pairs_of,
    random_pair,
    weights_of,
    wide,
    write_peft,
)
from doppler.adapters.make import read_adapter
from doppler.adapters.peft import ReadAdapter
from doppler.config.model import ModelConfig
from doppler.inputs.buffers import MemoryBuffers
from doppler.store.manifest import MANIFEST_FILE, Manifest
from expert_files import converted
from family_files import gguf_of
from fixture_sets import FIXTURES
from gguf_files import Tensors, gguf_bytes

NAMES = (
    "gemma3-1b-like",
    "gemma4-e2b-like",
    "gemma4-26b-like",
    "llama32-like",
    "qwen3-like",
    "qwen35-like",
    "qwen3next-like",
    "phi3-like",
    "mixtral-like",
    "glm4-like",
)
GGUF = {"llama": "mistral-like", "phi3": "phi3-like", "smollm3": "smollm3-like"}


def config_of(folder: Path) -> ModelConfig:
    return Manifest.from_json((folder / MANIFEST_FILE).read_text(), "x").config


def read(path: Path, base: Path) -> ReadAdapter:
    return asyncio.run(read_adapter(path, config_of(base), MemoryBuffers()))


def assert_is_merged(adapter: ReadAdapter, base: Path, merged: Path) -> None:
    """All weights of the base, changed by the adapter, are those of the merged one."""
    before, after = weights_of(base), weights_of(merged)
    changes = {it.name: it.scale * (it.b.floats @ it.a.floats) for it in adapter.deltas}
    assert before.keys() == after.keys()
    for name, weights in before.items():
        wanted = weights + changes.get(name, np.float32(0))
        np.testing.assert_allclose(after[name], wanted, atol=1e-5, rtol=0, err_msg=name)
        assert name not in changes or np.abs(after[name] - weights).max() > 1


@pytest.mark.parametrize("name", NAMES)
def test_what_is_read_is_what_a_merged_checkpoint_has(tmp_path: Path, name: str) -> None:
    pairs = pairs_of(name)
    base = base_of(name, tmp_path / "base")
    adapter = read(write_peft(tmp_path / "peft", pairs), base)
    merged = wide(
        name, tmp_path / "merged", {f"{it}.weight": 2 * (b @ a) for it, (a, b) in pairs.items()}
    )
    converted(merged, tmp_path / "model")
    assert_is_merged(adapter, base, tmp_path / "model")


@pytest.mark.parametrize("architecture", GGUF)
def test_a_base_that_was_a_gguf_file(tmp_path: Path, architecture: str) -> None:
    """Its rows of q and k may lie in another order, in which those of B must be put."""
    name = GGUF[architecture]
    pairs = pairs_of(name)
    for folder, changes in (("base", {}), ("merged", pairs)):
        added = {f"{it}.weight": 2 * (b @ a) for it, (a, b) in changes.items()}
        checkpoint = wide(name, tmp_path / f"{folder}-checkpoint", added)
        (tmp_path / f"{folder}.gguf").write_bytes(gguf_of(str(checkpoint), architecture))
        converted(tmp_path / f"{folder}.gguf", tmp_path / folder)
    adapter = read(write_peft(tmp_path / "peft", pairs), tmp_path / "base")
    assert_is_merged(adapter, tmp_path / "base", tmp_path / "merged")


def in_gguf_rows(b: np.ndarray, heads: int) -> np.ndarray:
    """Rows of q or k as llama.cpp's converter writes them."""
    return b.reshape(heads, 2, -1, b.shape[1]).swapaxes(1, 2).reshape(b.shape)


@pytest.mark.parametrize("kind", ["checkpoint", "gguf"])
def test_a_gguf_adapter(tmp_path: Path, kind: str) -> None:
    """Of a base that was a checkpoint, whose pairs are half a head apart, and of a GGUF file."""
    name = "mistral-like"
    pairs = {it: pair for it, pair in pairs_of(name).items() if ".layers.1." in it}
    source = wide(name, tmp_path / "checkpoint")
    if kind == "gguf":
        (tmp_path / "base.gguf").write_bytes(gguf_of(str(source), "llama"))
        source = tmp_path / "base.gguf"
    config = converted(source, tmp_path / "base").config
    ours = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output"}
    ours |= {f"{it}_proj": f"ffn_{it}" for it in ("gate", "up", "down")}
    tensors: Tensors = {}
    for module, (a, b) in pairs.items():
        part = ours[module.rsplit(".", 1)[-1]]
        if part in ("attn_q", "attn_k"):
            b = in_gguf_rows(b, config.heads if part == "attn_q" else config.kv_heads)
        for side, matrix in (("lora_a", a), ("lora_b", b)):
            tensors[f"blk.1.{part}.weight.{side}"] = ("F32", matrix.shape, matrix.tobytes())
    metadata = {
        "general.architecture": "llama",
        "general.type": "adapter",
        "adapter.type": "lora",
        "adapter.lora.alpha": 6.0,
        "adapter.alora.invocation_tokens": [5, 6],
    }
    (tmp_path / "x.gguf").write_bytes(gguf_bytes(metadata, tensors))
    adapter = read(tmp_path / "x.gguf", tmp_path / "base")
    same = read(write_peft(tmp_path / "peft", pairs), tmp_path / "base")
    assert adapter.invocation_tokens == (5, 6)
    for one, other in zip(adapter.deltas, same.deltas, strict=True):
        assert (one.name, one.scale) == (other.name, other.scale)
        np.testing.assert_array_equal(one.b.bits, other.b.bits)
        np.testing.assert_array_equal(one.a.bits, other.a.bits)


def test_a_gguf_adapter_of_stacked_experts(tmp_path: Path) -> None:
    base = base_of("mixtral-like", tmp_path / "base")
    config = config_of(base)
    assert config.experts is not None
    count, tensors, pairs = config.experts.count, Tensors(), []
    for expert in range(count):
        pairs.append(random_pair((config.ffn, config.hidden), 2, expert))
    a, b = (np.stack([pair[side] for pair in pairs]) for side in (0, 1))
    tensors["blk.0.ffn_up_exps.weight.lora_a"] = ("F32", a.shape, a.tobytes())
    tensors["blk.0.ffn_up_exps.weight.lora_b"] = ("F32", b.shape, b.tobytes())
    metadata = {
        "general.architecture": "llama",
        "general.type": "adapter",
        "adapter.type": "lora",
        "adapter.lora.alpha": 1.0,
    }
    (tmp_path / "x.gguf").write_bytes(gguf_bytes(metadata, tensors))
    adapter = read(tmp_path / "x.gguf", base)
    assert [it.name for it in adapter.deltas] == [f"blk.0.ffn_up.{i}.weight" for i in range(count)]
    for delta, (one, other) in zip(adapter.deltas, pairs, strict=True):
        np.testing.assert_array_equal(delta.a.floats, one)
        np.testing.assert_array_equal(delta.b.floats, other)
        assert delta.scale == 0.5


@pytest.mark.parametrize(
    ("name", "is_turned"),
    [("gemma4-26b-like", False), ("gemma4-26b-like", True), ("gpt-oss-like", False)],
)
def test_stacked_experts_as_parameters(tmp_path: Path, name: str, is_turned: bool) -> None:
    """PEFT's A and B of all experts of a parameter, in the ways that it has had."""
    base, rank, pairs, changes = base_of(name, tmp_path / "base"), 2, {}, {}
    columns_first = name.startswith("gpt-oss")
    stacks = {it: w for it, w in floats_of(FIXTURES / name).items() if w.ndim == 3}
    for seed, (path, weights) in enumerate(sorted(stacks.items())):
        count, first, second = weights.shape
        rows, columns = (second, first) if columns_first or is_turned else (first, second)
        a, b = random_pair((rows, columns), rank * count, seed)
        is_inner = path.endswith("gate_up_proj")  # it was wrapped first
        module = path.rpartition(".")[0] + (".base_layer" if is_inner else "")
        pairs[module] = a, b
        ways = "ij" if rows == first else "ji"
        parts = a.reshape(count, rank, columns), b.reshape(rows, rank, count)
        changes[path] = 2 * np.einsum(f"erj,ire->e{ways}", *parts)
    config = {"r": rank, "lora_alpha": 2 * rank, "target_modules": None}
    config["target_parameters"] = ["experts.gate_up_proj", "experts.down_proj"]
    adapter = read(write_peft(tmp_path / "peft", pairs, **config), base)
    converted(wide(name, tmp_path / "merged", changes), tmp_path / "model")
    assert_is_merged(adapter, base, tmp_path / "model")

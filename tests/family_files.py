"""Tiny checkpoints as llama.cpp's converter would write them in GGUF, and changed ones, for tests.

Names and keys are its own, written out here once more: what is read is held against them.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from expert_files import FIXTURES, interleaved, load_file
from gguf_files import Tensors, gguf_bytes

Config = dict[str, Any]  # of config.json

_OUTER = {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output"}
_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.query_layernorm": "attn_q_norm",
    "self_attn.key_layernorm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.qkv_proj": "attn_qkv",
    "mlp.gate_up_proj": "ffn_up",
    "shared_mlp.output_linear": "ffn_down",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_PERMUTED = (
    "granite",
    "llama",
    "mistral3",
    "smollm3",
)  # q and k are in pairs that lie side by side


def config_json(name: str) -> Config:
    """The config.json of a fixture."""
    data: Config = json.loads((FIXTURES / name / "config.json").read_text())
    return data


def changed(name: str, folder: Path, **changes: Any) -> Path:
    """A fixture with some settings changed."""
    shutil.copytree(FIXTURES / name, folder)
    (folder / "config.json").write_text(json.dumps(config_json(name) | changes))
    return folder


def gguf_of(name: str, architecture: str, **changes: Any) -> bytes:
    """A fixture's weights as a GGUF file of that architecture, with some settings changed."""
    config = config_json(name) | changes
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    metadata = metadata_of(config, architecture)
    tensors: Tensors = {}
    stored = load_file(FIXTURES / name / "model.safetensors")
    for path in [path for path in stored if "shared_mlp.input_linear" in path]:
        halves = np.split(stored.pop(path), 2)
        parts = (path.replace("shared_mlp.input_linear", f"mlp.{p}_proj") for p in ("gate", "up"))
        stored |= dict(zip(parts, halves, strict=True))
    for path, array in stored.items():
        ours, data, shape = _name(path), array.tobytes(), array.shape
        part = ours.split(".")[-2]
        if architecture in _PERMUTED and part in heads:
            data = interleaved(data, shape, heads[part])
        if array.dtype == np.uint16 and len(shape) == 1:  # norms are in F32
            data = (np.frombuffer(data, "<u2").astype("<u4") << np.uint32(16)).tobytes()
        kind = "BF16" if array.dtype == np.uint16 and len(shape) > 1 else "F32"
        tensors[ours] = (kind, shape, data)
    if "long_factor" in config["rope_parameters"]:
        for kind in ("long", "short"):
            factors = np.array(config["rope_parameters"][f"{kind}_factor"], np.float32)
            tensors[f"rope_factors_{kind}.weight"] = ("F32", factors.shape, factors.tobytes())
    return gguf_bytes(metadata, {name: tensors[name] for name in sorted(tensors)})


def metadata_of(config: Config, architecture: str) -> dict[str, Any]:
    """A config.json as GGUF's keys of that architecture."""
    keys = _common_keys(config) | KEYS[architecture](config)
    metadata = {f"{architecture}.{k}": value for k, value in keys.items() if value is not None}
    return metadata | {"general.architecture": architecture}


def _name(path: str) -> str:
    match = re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.(\w+)", path)
    if match is not None:
        return f"blk.{match[1]}.{_LAYER[match[2]]}.{match[3]}"
    return f"{_OUTER[path.split('.')[-2]]}.weight"


def _common_keys(config: Config) -> dict[str, Any]:
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    return {
        "block_count": config["num_hidden_layers"],
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "feed_forward_length": config["intermediate_size"],
        "vocab_size": config["vocab_size"],
        "attention.head_count": heads,
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
        "attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        "rope.dimension_count": head_dim,
        "rope.freq_base": config["rope_parameters"]["rope_theta"],
    }


def _granite(config: Config) -> dict[str, Any]:
    is_fourth = "position_embedding_type" in config
    return {
        "feed_forward_length": config[
            "shared_intermediate_size" if is_fourth else "intermediate_size"
        ],
        "expert_shared_feed_forward_length": config.get("shared_intermediate_size"),
        "rope.scaling.finetuned": config["position_embedding_type"] == "rope"
        if is_fourth
        else None,
        "attention.scale": config["attention_multiplier"],
        "embedding_scale": config["embedding_multiplier"],
        "residual_scale": config["residual_multiplier"],
        "logit_scale": config["logits_scaling"],
    }


def _hunyuan(config: Config) -> dict[str, Any]:
    rope, head_dim = config["rope_parameters"], config["head_dim"]
    return {
        "rope.freq_base": rope["rope_theta"] * rope["alpha"] ** (head_dim / (head_dim - 2)),
        "rope.scaling.type": "none",
        "rope.scaling.factor": 1.0,
        "rope.scaling.original_context_length": 256 * 1024,
        "context_length": 256 * 1024,
    }


def _llama(config: Config) -> dict[str, Any]:
    return {"attention.sliding_window": config["sliding_window"]}


def _mistral3(config: Config) -> dict[str, Any]:
    rope = config["rope_parameters"]
    return {
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": rope["factor"],
        "rope.scaling.original_context_length": rope["original_max_position_embeddings"],
        "rope.scaling.yarn_beta_fast": rope["beta_fast"],
        "rope.scaling.yarn_beta_slow": rope["beta_slow"],
        "rope.scaling.yarn_log_multiplier": rope["mscale_all_dim"],
        "attention.temperature_scale": rope["llama_4_scaling_beta"],
    }


def _phi3(config: Config) -> dict[str, Any]:
    rope, original = config["rope_parameters"], config["original_max_position_embeddings"]
    head_dim = config["hidden_size"] // config["num_attention_heads"]
    longer = config["max_position_embeddings"] / original
    return {
        "attention.key_length": None,
        "attention.value_length": None,
        "attention.sliding_window": config["sliding_window"],
        "rope.dimension_count": int(rope["partial_rotary_factor"] * head_dim),
        "rope.scaling.original_context_length": original,
        "rope.scaling.attn_factor": math.sqrt(1 + math.log(longer) / math.log(original)),
    }


def _none(config: Config) -> dict[str, Any]:
    return {}


KEYS: dict[str, Callable[[Config], dict[str, Any]]] = {
    "ernie4_5": _none,
    "hunyuan-dense": _hunyuan,
    "granite": _granite,
    "llama": _llama,
    "mistral3": _mistral3,
    "phi3": _phi3,
    "smollm3": _none,
}

"""Tiny checkpoints with Gated DeltaNet as llama.cpp's converter would write them in GGUF.

Names, keys and orders are its own, written out here once more: what is read is held against them.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import numpy.typing as npt

from expert_files import load_file
from family_files import config_json
from fixture_sets import FIXTURES
from gguf_files import Tensors, gguf_bytes

Array = npt.NDArray[Any]
ARCHITECTURES = {
    "qwen35-like": "qwen35",
    "qwen35moe-like": "qwen35moe",
    "qwen3next-like": "qwen3next",
}
_LAYER = {
    "input_layernorm.weight": "attn_norm.weight",
    "post_attention_layernorm.weight": "post_attention_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "self_attn.q_norm.weight": "attn_q_norm.weight",
    "self_attn.k_norm.weight": "attn_k_norm.weight",
    "linear_attn.in_proj_qkv.weight": "attn_qkv.weight",
    "linear_attn.in_proj_z.weight": "attn_gate.weight",
    "linear_attn.in_proj_b.weight": "ssm_beta.weight",
    "linear_attn.in_proj_a.weight": "ssm_alpha.weight",
    "linear_attn.in_proj_qkvz.weight": "ssm_in.weight",
    "linear_attn.in_proj_ba.weight": "ssm_ba.weight",
    "linear_attn.conv1d.weight": "ssm_conv1d.weight",
    "linear_attn.dt_bias": "ssm_dt.bias",
    "linear_attn.A_log": "ssm_a",
    "linear_attn.norm.weight": "ssm_norm.weight",
    "linear_attn.out_proj.weight": "ssm_out.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
    "mlp.gate.weight": "ffn_gate_inp.weight",
    "mlp.experts.down_proj": "ffn_down_exps.weight",
    "mlp.shared_expert.gate_proj.weight": "ffn_gate_shexp.weight",
    "mlp.shared_expert.up_proj.weight": "ffn_up_shexp.weight",
    "mlp.shared_expert.down_proj.weight": "ffn_down_shexp.weight",
    "mlp.shared_expert_gate.weight": "ffn_gate_inp_shexp.weight",
}
_OUTER = {
    "embed_tokens.weight": "token_embd.weight",
    "norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def text_config(name: str) -> dict[str, Any]:
    """The config.json of a fixture, or of its text model."""
    data = config_json(name)
    found: dict[str, Any] = data.get("text_config", data)
    return found


def floats(name: str) -> dict[str, Array]:
    """The text model's tensors, by their names without prefixes."""
    found = {}
    for path, bits in load_file(FIXTURES / name / "model.safetensors").items():
        if not re.match(r"mtp\.|model\.visual\.", path):
            wide = bits.astype("<u4") << np.uint32(16) if bits.dtype == np.uint16 else bits
            found[re.sub(r"^(model\.)?(language_model\.)?", "", path)] = wide.view(np.float32)
    return found


def gguf_of(name: str, *, legacy: bool = False, drafting: int = 0, **changes: Any) -> bytes:
    """A fixture as such a file, in F32, with some keys changed; None: without them.

    legacy: Qwen3-Next's projections as they are, as older files have them. drafting: layers that
    follow the model's, of which nothing is to be read.
    """
    config, architecture = text_config(name), ARCHITECTURES[name]
    keys = keys_of(config) | changes
    arrays: dict[str, Array] = {}
    for path, array in floats(name).items():
        match = re.fullmatch(r"layers\.(\d+)\.(.+)", path)
        if match is None:
            arrays[_OUTER[path]] = array + (path == "norm.weight")
            continue
        for own, value in _converted(config, match[2], array, legacy):
            arrays[f"blk.{match[1]}.{own}"] = value
    if drafting:
        count = config["num_hidden_layers"]
        keys |= {"block_count": count + drafting, "nextn_predict_layers": drafting}
        for layer in range(count, count + drafting):
            arrays[f"blk.{layer}.attn_norm.weight"] = np.ones(config["hidden_size"])
            arrays[f"blk.{layer}.nextn.enorm.weight"] = np.ones(config["hidden_size"])
    metadata = {f"{architecture}.{k}": v for k, v in keys.items() if v is not None}
    tensors: Tensors = {
        own: ("F32", value.shape, value.astype("<f4").tobytes()) for own, value in arrays.items()
    }
    return gguf_bytes(metadata | {"general.architecture": architecture}, tensors)


def keys_of(config: dict[str, Any]) -> dict[str, Any]:
    """GGUF's keys of a config."""
    rope = config["rope_parameters"]
    heads, head_dim = config["linear_num_value_heads"], config["head_dim"]
    every = config["layer_types"].index("full_attention") + 1
    keys: dict[str, Any] = {
        "block_count": config["num_hidden_layers"],
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "feed_forward_length": config.get("intermediate_size", 1),
        "attention.head_count": config["num_attention_heads"],
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
        "attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        "rope.freq_base": rope["rope_theta"],
        "rope.dimension_count": int(head_dim * rope["partial_rotary_factor"]),
        "ssm.conv_kernel": config["linear_conv_kernel_dim"],
        "ssm.state_size": config["linear_key_head_dim"],
        "ssm.group_count": config["linear_num_key_heads"],
        "ssm.time_step_rank": heads,
        "ssm.inner_size": heads * config["linear_value_head_dim"],
        "full_attention_interval": every,
    }
    if config["model_type"] != "qwen3_next":
        keys["rope.dimension_sections"] = [11, 11, 10, 0]
    if "num_experts" in config:
        keys |= {
            "expert_count": config["num_experts"],
            "expert_used_count": config["num_experts_per_tok"],
            "expert_feed_forward_length": config["moe_intermediate_size"],
            "expert_shared_feed_forward_length": config["shared_expert_intermediate_size"],
        }
    return keys


def _converted(
    config: dict[str, Any], path: str, array: Array, legacy: bool
) -> list[tuple[str, Array]]:
    """A layer's tensor, by name, as the converter changes it."""
    keys, values = config["linear_num_key_heads"], config["linear_num_value_heads"]
    key_dim, value_dim = config["linear_key_head_dim"], config["linear_value_head_dim"]
    each, width = values // keys, keys * key_dim
    if path == "mlp.experts.gate_up_proj":
        gates, ups = np.split(array, 2, axis=1)
        return [("ffn_gate_exps.weight", gates), ("ffn_up_exps.weight", ups)]
    name = _LAYER[path]
    if path.endswith("A_log"):
        array = -np.exp(array)
    elif path.endswith("conv1d.weight"):
        array = array.squeeze(1)
    elif path.endswith("norm.weight") and "linear_attn" not in path:
        array = array + 1
    elif name == "ffn_gate_inp_shexp.weight":
        array = array[0]
    if name == "ssm_in.weight" and not legacy:
        groups = array.reshape(keys, -1, array.shape[1])
        parts = np.split(groups, np.cumsum([key_dim, key_dim, each * value_dim]), axis=1)
        q, k, v, z = (it.reshape(-1, array.shape[1]) for it in parts)
        return [("attn_qkv.weight", np.concatenate([q, k, v])), ("attn_gate.weight", z)]
    if config["model_type"] == "qwen3_next":
        return [(name, array)]
    kind = name.split(".")[0]
    if kind in ("attn_qkv", "ssm_conv1d"):
        array = np.concatenate([array[: 2 * width], _tiled(array[2 * width :], keys, value_dim)])
    elif kind == "attn_gate":
        array = _tiled(array, keys, value_dim)
    elif kind in ("ssm_beta", "ssm_alpha", "ssm_a", "ssm_dt"):
        array = _tiled(array, keys, 1)
    elif kind == "ssm_out":
        array = _tiled(array.T, keys, value_dim).T
    return [(name, array)]


def _tiled(rows: Array, keys: int, size: int) -> Array:
    """Rows of value heads, `size` each: those of a key head in turn instead of together."""
    heads = rows.reshape(keys, -1, size, *rows.shape[1:])
    return heads.swapaxes(0, 1).reshape(rows.shape)

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

from doppler.config.rope import Rope
from expert_files import interleaved, load_file
from fixture_sets import FIXTURES
from gguf_files import Tensors, gguf_bytes

Config = dict[str, Any]  # of config.json

_OUTER = {
    "embed_tokens": "token_embd",
    "norm": "output_norm",
    "embedding_norm": "token_embd_norm",
    "lm_head": "output",
}
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
    "operator_norm": "attn_norm",
    "ffn_norm": "ffn_norm",
    "self_attn.out_proj": "attn_output",
    "self_attn.q_layernorm": "attn_q_norm",
    "self_attn.k_layernorm": "attn_k_norm",
    "conv.in_proj": "shortconv.in_proj",
    "conv.conv": "shortconv.conv",
    "conv.out_proj": "shortconv.out_proj",
    "feed_forward.w1": "ffn_gate",
    "feed_forward.w2": "ffn_down",
    "feed_forward.w3": "ffn_up",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_OWN_LAYER = {  # what some call otherwise
    "gemma2": {
        "post_attention_layernorm": "post_attention_norm",
        "pre_feedforward_layernorm": "ffn_norm",
        "post_feedforward_layernorm": "post_ffw_norm",
    },
}
_OWN_LAYER["olmo2"] = {
    name: ours for name, ours in _OWN_LAYER["gemma2"].items() if name.startswith("post")
} | {"self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm"}
_OWN_LAYER["glm4"] = {
    "post_self_attn_layernorm": "post_attention_norm",
    "post_mlp_layernorm": "post_ffw_norm",
}
_OWN_LAYER["glm4moe"] = {
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "post_attention_norm",
    "mlp.gate": "ffn_gate_inp",
    "mlp.gate.e_score_correction": "exp_probs_b",
    **{f"mlp.experts.{part}_proj": f"ffn_{part}_exps" for part in ("gate", "up", "down")},
    **{f"mlp.shared_experts.{part}_proj": f"ffn_{part}_shexp" for part in ("gate", "up", "down")},
    "eh_proj": "nextn.eh_proj",
    "shared_head.norm": "nextn.shared_head_norm",
}
_OWN_LAYER["ernie4_5-moe"] = {
    name: ours for name, ours in _OWN_LAYER["glm4moe"].items() if name.startswith("mlp.")
} | {"mlp.moe_statics.e_score_correction": "exp_probs_b"}
_OWN_LAYER["apertus"] = {
    "attention_layernorm": "attn_norm",
    "feedforward_layernorm": "ffn_norm",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
}
_OWN_LAYER["lfm2moe"] = {
    "feed_forward.gate": "ffn_gate_inp",
    "feed_forward.expert": "exp_probs_b",
    **{f"feed_forward.experts.{part}_proj": f"ffn_{part}_exps" for part in ("gate", "up", "down")},
}
_OFFSET = {"gemma2": 1.0}  # added to the weights of norms
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
    for part in ("alpha_p", "alpha_n", "beta", "eps") if architecture == "apertus" else ():
        each = [path for path in sorted(stored) if path.endswith(f"act_fn.{part}")]
        bits = [stored.pop(path).reshape(1) for path in each]
        numbers = [(it.astype("<u4") << np.uint32(16)).view(np.float32)[0].item() for it in bits]
        metadata[f"xielu.{part}"] = numbers
    for path in [path for path in stored if "shared_mlp.input_linear" in path]:
        halves = np.split(stored.pop(path), 2)
        parts = (path.replace("shared_mlp.input_linear", f"mlp.{p}_proj") for p in ("gate", "up"))
        stored |= dict(zip(parts, halves, strict=True))
    for path in [path for path in stored if path.endswith("experts.gate_up_proj")]:
        halves = np.split(stored.pop(path), 2, axis=1)
        stored |= {
            path.replace("gate_up", p): it for p, it in zip(("gate", "up"), halves, strict=True)
        }
    stored = {
        re.sub(r"(experts\.\w+_proj)$", r"\1.weight", path): it for path, it in stored.items()
    }
    for part in ("correction", "expert"):
        stored = {path.replace(f"{part}_bias", f"{part}.bias"): it for path, it in stored.items()}
    for path, array in stored.items():
        ours, data, shape = _name(path, architecture), array.tobytes(), array.shape
        part = ours.split(".")[-2]
        if architecture in _PERMUTED and part in heads:
            data = interleaved(data, shape, heads[part])
        if array.dtype == np.uint16 and len(shape) == 1:  # norms are in F32
            weights = (np.frombuffer(data, "<u2").astype("<u4") << np.uint32(16)).view(np.float32)
            data = (weights + np.float32(_OFFSET.get(architecture, 0.0))).tobytes()
        if part == "conv":  # taps are in F32, too, and have no row of their own
            shape = (shape[0], shape[2])
            data = (np.frombuffer(data, "<u2").astype("<u4") << np.uint32(16)).tobytes()
        is_matrix = len(shape) > 1 and part != "conv"
        kind = "BF16" if array.dtype == np.uint16 and is_matrix else "F32"
        tensors[ours] = (kind, shape, data)
    if architecture == "apertus":
        rope, head_dim = dict(config["rope_parameters"]), config["head_dim"]
        base, original = rope["rope_theta"], rope["original_max_position_embeddings"]
        bounds = rope["factor"], rope["low_freq_factor"], rope["high_freq_factor"]
        scaled = Rope(base, rope["rope_type"], *bounds, original).inverse_frequencies(head_dim)
        factors = np.array(Rope(base).inverse_frequencies(head_dim)) / scaled
        data = factors.astype("<f4").tobytes()
        tensors["rope_freqs.weight"] = ("F32", factors.shape, data)
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


def _name(path: str, architecture: str) -> str:
    match = re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.(\w+)", path)
    if match is not None:
        names = _LAYER | _OWN_LAYER.get(architecture, {})
        return f"blk.{match[1]}.{names[match[2]]}.{match[3]}"
    return f"{_OUTER[path.split('.')[-2]]}.weight"


def _common_keys(config: Config) -> dict[str, Any]:
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    rope = config["rope_parameters"].get("full_attention", config["rope_parameters"])
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
        "attention.layer_norm_rms_epsilon": config.get("rms_norm_eps") or config["norm_eps"],
        "rope.dimension_count": head_dim,
        "rope.freq_base": rope["rope_theta"],
    }


def _ernie_moe(config: Config) -> dict[str, Any]:
    """The width of shared experts is written otherwise, and read by nobody."""
    return {
        "expert_count": config["moe_num_experts"],
        "expert_used_count": config["moe_k"],
        "expert_feed_forward_length": config["moe_intermediate_size"],
        "expert_shared_count": config["moe_num_shared_experts"],
        "expert_shared_feed_forward_length": config["intermediate_size"]
        // config["num_key_value_heads"],
        "leading_dense_block_count": config["moe_layer_start_index"],
        "interleave_moe_layer_step": config["moe_layer_interval"],
    }


def _gemma2(config: Config) -> dict[str, Any]:
    return {
        "attention.sliding_window": config["sliding_window"],
        "attn_logit_softcapping": config["attn_logit_softcapping"],
        "final_logit_softcapping": config["final_logit_softcapping"],
        "rope.dimension_count": None,
        "rope.freq_base": None,
    }


def _glm4(config: Config) -> dict[str, Any]:
    share = config["rope_parameters"]["partial_rotary_factor"]
    return {"rope.dimension_count": int(share * config["head_dim"])}


def _glm4moe(config: Config) -> dict[str, Any]:
    return {
        **_glm4(config),
        "block_count": config["num_hidden_layers"] + config["num_nextn_predict_layers"],
        "nextn_predict_layers": config["num_nextn_predict_layers"],
        "expert_count": config["n_routed_experts"],
        "expert_used_count": config["num_experts_per_tok"],
        "expert_feed_forward_length": config["moe_intermediate_size"],
        "expert_shared_count": config["n_shared_experts"],
        "leading_dense_block_count": config["first_k_dense_replace"],
        "expert_gating_func": 2,
        "expert_weights_scale": config["routed_scaling_factor"],
        "expert_weights_norm": config["norm_topk_prob"],
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


def _lfm2moe(config: Config) -> dict[str, Any]:
    attends = [kind == "full_attention" for kind in config["layer_types"]]
    return {
        "attention.head_count_kv": [config["num_key_value_heads"] * it for it in attends],
        "shortconv.l_cache": config["conv_L_cache"],
        "expert_count": config["num_experts"],
        "expert_used_count": config["num_experts_per_tok"],
        "expert_feed_forward_length": config["moe_intermediate_size"],
        "leading_dense_block_count": config["num_dense_layers"],
        "expert_gating_func": 2,
        "expert_weights_scale": config["routed_scaling_factor"],
    }


def _lfm2(config: Config) -> dict[str, Any]:
    attends = [kind == "full_attention" for kind in config["layer_types"]]
    wide = int(config["block_ffn_dim_multiplier"] * int(2 * config["intermediate_size"] / 3))
    multiple = config["block_multiple_of"]
    return {
        "attention.head_count_kv": [config["num_key_value_heads"] * it for it in attends],
        "feed_forward_length": multiple * math.ceil(wide / multiple),
        "shortconv.l_cache": config["conv_L_cache"],
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


def _olmo2(config: Config) -> dict[str, Any]:
    """Also of OLMo 3, which slides."""
    rope = config["rope_parameters"].get("full_attention")
    if rope is None:
        return {}
    return {
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": rope["factor"],
        "rope.scaling.attn_factor": rope["attention_factor"],
        "rope.scaling.original_context_length": rope["original_max_position_embeddings"],
        "attention.sliding_window": config["sliding_window"],
        "attention.sliding_window_pattern": [
            kind == "sliding_attention" for kind in config["layer_types"]
        ],
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
    "apertus": _none,
    "ernie4_5": _none,
    "ernie4_5-moe": _ernie_moe,
    "gemma2": _gemma2,
    "glm4": _glm4,
    "glm4moe": _glm4moe,
    "hunyuan-dense": _hunyuan,
    "granite": _granite,
    "lfm2": _lfm2,
    "lfm2moe": _lfm2moe,
    "llama": _llama,
    "mistral3": _mistral3,
    "olmo2": _olmo2,
    "phi3": _phi3,
    "smollm3": _none,
}

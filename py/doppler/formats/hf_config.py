"""Hugging Face's config.json -> ModelConfig, as transformers 4 and 5 write it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from doppler.config import Activation, Experts, Layer, ModelConfig, Rope, yarn_magnitude
from doppler.errors import FormatError, UnsupportedError
from doppler.formats.architectures import Architecture, ExpertKeys, checked_count, of_hf

_ACTIVATIONS: dict[str, Activation] = {"silu": "silu", "gelu_pytorch_tanh": "gelu_tanh"}
_REFUSED = (  # settings that change the arithmetic where they are set
    "mlp_bias",
    "final_logit_softcapping",
    "attn_logit_softcapping",
    "use_bidirectional_attention",
    "mlp_only_layers",
    "shared_expert_intermediate_size",
    "n_shared_experts",
)
_ASKED = {"swiglu_limit": 7.0, "decoder_sparse_step": 1}  # where they are given


def config_from_hf(data: Mapping[str, Any], where: str) -> tuple[Architecture, ModelConfig]:
    """The config of a checkpoint; of a model with several parts, that of the text model.

    Raises UnsupportedError for an architecture or a setting that Doppler does not know, FormatError
    for fields that are missing or make no sense. `where` names the file.
    """
    text = data.get("text_config", data)
    if not isinstance(text, dict):
        raise FormatError(f"{where}: text_config is {type(text).__name__}, not an object")
    architecture = of_hf(text.get("model_type", data.get("model_type")), where)
    tied = {key: data[key] for key in ("tie_word_embeddings",) if key in data}
    fields = _Fields({**architecture.hf_defaults, **tied, **text}, where)
    for key in _REFUSED:
        if fields.get(key):
            raise UnsupportedError(
                f"{where}: {key} is {fields.get(key)!r}, which Doppler cannot do"
            )
    asked = {**_ASKED, "attention_bias": "attn_output" in architecture.biases}
    for key, value in asked.items():
        if fields.get(key) not in (None, value):
            raise UnsupportedError(
                f"{where}: {key} is {fields.get(key)!r}; Doppler can do {value!r} only"
            )
    return architecture, _config(architecture, fields)


class _Fields:
    """Fields of config.json, checked as they are asked for."""

    def __init__(self, data: Mapping[str, Any], where: str) -> None:
        self._data, self.where = data, where

    def get(self, key: str) -> Any:
        return self._data.get(key)

    def integer(self, key: str, default: int | None = None) -> int:
        value = self._data.get(key)
        if value is None and default is not None:
            return default
        if type(value) is not int:
            raise FormatError(f"{self.where}: {key} is {value!r:.60}, and must be an integer")
        return value

    def object(self, key: str) -> dict[str, Any]:
        return _object(self._data, key, self.where)

    def number(self, key: str, default: float | None = None) -> float:
        return _number(self._data, key, self.where, default)


def _number(data: Mapping[str, Any], key: str, where: str, default: float | None = None) -> float:
    value = data.get(key)
    if value is None and default is not None:
        return default
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
        raise FormatError(f"{where}: {key} is {value!r:.60}, and must be a number")
    return float(value)


def _object(data: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    """The fields of an object; none where it is absent."""
    value = data.get(key) or {}
    if not isinstance(value, dict):
        raise FormatError(f"{where}: {key} is {value!r:.60}, and must be an object")
    return value


def _config(architecture: Architecture, fields: _Fields) -> ModelConfig:
    hidden, heads = fields.integer("hidden_size"), fields.integer("num_attention_heads")
    head_dim, keys = fields.integer("head_dim", hidden // max(heads, 1)), architecture.experts
    return ModelConfig(
        architecture=architecture.name,
        hidden=hidden,
        heads=heads,
        kv_heads=fields.integer("num_key_value_heads", heads),
        head_dim=head_dim,
        ffn=fields.integer(keys.ffn if keys else "intermediate_size"),
        vocab=fields.integer("vocab_size"),
        context=fields.integer("max_position_embeddings"),
        norm_eps=fields.number("rms_norm_eps"),
        query_scale=_query_scale(fields, head_dim),
        activation=_activation(architecture, fields),
        ropes=_ropes(architecture, fields),
        layers=_layers(architecture, fields),
        norm_offset=architecture.hf_norm_offset,
        embedding_scale=math.sqrt(hidden) if architecture.embedding_scaled else 1.0,
        biases=architecture.biases,
        qk_norm=architecture.qk_norm,
        post_norms=architecture.post_norms,
        tied=fields.get("tie_word_embeddings") is True,
        rope_pairs="half",
        sinks=architecture.sinks,
        experts=_experts(keys, fields),
    )


def _experts(keys: ExpertKeys | None, fields: _Fields) -> Experts | None:
    if keys is None:
        return None
    count = next((key for key in keys.count if fields.get(key) is not None), keys.count[0])
    normed = keys.normed is None or fields.get(keys.normed) is True
    return Experts(fields.integer(count), fields.integer("num_experts_per_tok"), normed)


def _query_scale(fields: _Fields, head_dim: int) -> float:
    scalar = fields.number("query_pre_attn_scalar", head_dim)
    if scalar <= 0:
        raise FormatError(f"{fields.where}: query_pre_attn_scalar or head_dim is {scalar}")
    return float(scalar**-0.5)


def _activation(architecture: Architecture, fields: _Fields) -> Activation:
    name = fields.get("hidden_activation") or fields.get("hidden_act")
    known = _ACTIVATIONS
    if architecture.hf_activation:
        known = {architecture.hf_activation: architecture.activation}
    if not isinstance(name, str) or name not in known:
        raise UnsupportedError(
            f"{fields.where}: activation {name!r} is not one of {', '.join(known)}"
        )
    return known[name]


def _layers(architecture: Architecture, fields: _Fields) -> tuple[Layer, ...]:
    """`layer_types` says it layer by layer; older files have the pattern's length, or nothing."""
    count, types = checked_count(fields.integer("num_hidden_layers")), fields.get("layer_types")
    if types is not None:
        return _typed_layers(architecture, fields, count)
    if architecture.sliding == "pattern":
        every = fields.integer("_sliding_window_pattern", architecture.global_every)
        every = fields.integer("sliding_window_pattern", every)
        if every < 1:
            raise FormatError(f"{fields.where}: sliding_window_pattern is {every}, not 1 or more")
        return architecture.layers(count, fields.integer("sliding_window"), every)
    slides = architecture.sliding != "none" and fields.get("use_sliding_window") is not False
    window = fields.integer("sliding_window", 0) if slides else 0
    first = fields.integer("max_window_layers") if architecture.sliding == "later" else 0
    return tuple(architecture.layer(window if i >= first else 0) for i in range(count))


def _typed_layers(architecture: Architecture, fields: _Fields, count: int) -> tuple[Layer, ...]:
    types, known = fields.get("layer_types"), ("sliding_attention", "full_attention")
    if not isinstance(types, list) or len(types) != count or not {*map(str, types)} <= {*known}:
        raise FormatError(f"{fields.where}: layer_types must name {count} layers of {list(known)}")
    window = fields.integer("sliding_window") if known[0] in types else 0
    return tuple(architecture.layer(window if kind == known[0] else 0) for kind in types)


def _ropes(architecture: Architecture, fields: _Fields) -> tuple[Rope, ...]:
    """(local, global) where layers differ, one rope otherwise.

    transformers 5 has `rope_parameters`, by layer type or plain; 4 has `rope_theta`, `rope_scaling`
    (of the global layers) and `rope_local_base_freq`.
    """
    plain = {"rope_theta": fields.get("rope_theta"), **fields.object("rope_scaling")}
    local = {"rope_theta": fields.get("rope_local_base_freq") or architecture.local_base}
    parameters = fields.object("rope_parameters")
    if "full_attention" in parameters:
        plain = _object(parameters, "full_attention", fields.where)
        local = _object(parameters, "sliding_attention", fields.where) or local
    else:
        plain = {**plain, **parameters}
    if not architecture.local_base:
        return (_rope(plain, fields),)
    return _rope(local, fields), _rope(plain, fields)


def _rope(data: Mapping[str, Any], fields: _Fields) -> Rope:
    where = fields.where
    if (
        fields.number("partial_rotary_factor", 1.0) != 1
        or data.get("partial_rotary_factor", 1) != 1
    ):
        raise UnsupportedError(f"{where}: rope turns a part of each head only")
    base = _number(data, "rope_theta", where)
    kind = data.get("rope_type", data.get("type", "default"))
    if kind == "default":
        return Rope(base)
    if kind == "linear":
        return Rope(base, "linear", _number(data, "factor", where))
    if kind == "llama3":
        return Rope(
            base,
            "llama3",
            _number(data, "factor", where),
            _number(data, "low_freq_factor", where),
            _number(data, "high_freq_factor", where),
            int(_number(data, "original_max_position_embeddings", where)),
        )
    if kind == "yarn":
        return _yarn(base, data, fields)
    raise UnsupportedError(f"{where}: rope type {kind!r} is not one that Doppler knows")


def _yarn(base: float, data: Mapping[str, Any], fields: _Fields) -> Rope:
    """YaRN as transformers reads it: what makes scores larger is given, or follows the factor."""
    where = fields.where
    for key in ("mscale", "mscale_all_dim"):
        if data.get(key):
            raise UnsupportedError(f"{where}: yarn rope with {key}, which Doppler cannot do")
    factor = _number(data, "factor", where)
    context = fields.number("max_position_embeddings")
    return Rope(
        base,
        "yarn",
        factor,
        original_context=int(_number(data, "original_max_position_embeddings", where, context)),
        beta_fast=_number(data, "beta_fast", where, 32.0),
        beta_slow=_number(data, "beta_slow", where, 1.0),
        whole_pairs=data.get("truncate", True) is not False,
        magnitude=_number(data, "attention_factor", where, yarn_magnitude(factor)),
    )

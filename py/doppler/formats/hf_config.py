"""Hugging Face's config.json -> ModelConfig, as transformers 4 and 5 write it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from doppler.config.layer import MOST_EXPERTS, MOST_LAYERS, Experts, Layer
from doppler.config.mixers import DeltaNet
from doppler.config.model import Activation, ModelConfig
from doppler.errors import FormatError, UnsupportedError
from doppler.formats.architecture import Architecture, ExpertKeys
from doppler.formats.architectures import of_hf
from doppler.formats.delta_net import delta_of_hf
from doppler.formats.dense_layers import with_dense_layers
from doppler.formats.hf_layers import with_own_widths
from doppler.formats.hf_lfm2 import adjusted, layer_types, short_conv
from doppler.formats.hf_quantization import refuse_quantised
from doppler.formats.hf_ropes import ropes_of
from doppler.formats.hf_settings import need
from doppler.formats.scales import Scales
from doppler.formats.still_layers import with_still_layers
from doppler.inputs.fields import SMALLEST_FLOAT, Fields, shown

_ACTIVATIONS: dict[str, Activation] = {"silu": "silu", "gelu_pytorch_tanh": "gelu_tanh"}
NEUTRAL: dict[str, tuple[Any, ...]] = {  # what changes the arithmetic -> when it does not
    "mlp_bias": (False,),
    "use_bias": (False,),
    "final_logit_softcapping": (0,),
    "attn_logit_softcapping": (0,),
    "router_logit_softcapping": (0,),
    "attn_temperature_tuning": (False,),
    "attn_output_gate": (False,),
    "attention_k_eq_v": (False,),
    "attention_chunk_size": (0,),
    "attention_multiplier": (1,),
    "embedding_multiplier": (1,),
    "residual_multiplier": (1,),
    "logits_scaling": (1,),
    "logit_scale": (1,),
    "routed_scaling_factor": (1,),
    "scoring_func": ("softmax",),
    "clip_qkv": (0,),
    "alibi": (False,),
    "use_qk_norm": (False,),
    "use_cla": (False,),
    "qk_layernorm": (False,),
    "use_parallel_residual": (False,),
    "use_bidirectional_attention": (False, "vision"),  # of images: text stays causal
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
    "no_rope_layers": ([],),
    "partial_rotary_factor": (1,),
    "rotary_pct": (1,),
    "rope_interleaved": (False,),
    "decoder_sparse_step": (1,),
    "first_k_dense_replace": (0,),
    "mlp_only_layers": ([],),
    "shared_expert_intermediate_size": (0,),
    "n_shared_experts": (0,),
    "n_group": (1,),
    "topk_group": (1,),
    "num_kv_shared_layers": (0,),
    "hidden_size_per_layer_input": (0,),
    "enable_moe_block": (False,),
}
SCALES = ("embedding_multiplier", "attention_multiplier", "residual_multiplier", "logits_scaling")
_RECURRENT = ("mamba", "linear_attention", "conv")  # types of layers that attend to nothing
_CLAMP, _ALPHA = 7.0, 1.702  # of the activation that is clamped


def config_from_hf(data: Mapping[str, Any], where: str) -> tuple[Architecture, ModelConfig]:
    """The config of a checkpoint; of a model with several parts, that of the text model.

    Raises UnsupportedError for an architecture or a setting that Doppler does not know, FormatError
    for fields that are missing or make no sense. `where` names the file.
    """
    text = data if data.get("text_config") is None else data["text_config"]
    if not isinstance(text, dict):
        raise Fields(data, where).error("text_config", "an object")
    model_type = text.get("model_type") or data.get("model_type")
    refuse_quantised(data, where, ("mxfp4",) if model_type == "gpt_oss" else ())
    architecture = of_hf(model_type, where)
    tied = {key: data[key] for key in ("tie_word_embeddings",) if key in data}
    if ties_differ(data):
        tied, text = {}, {**text, "tie_word_embeddings": True}
    others = architecture.hf_renamed.items()
    renamed = {ours: text[key] for key, ours in others if text.get(key) is not None}
    defaults = dict(architecture.hf_defaults)
    if text.get("rope_scaling") is not None:  # which says all of a rope but its base
        usual = defaults.pop("rope_parameters", {})
        defaults = {"rope_theta": usual.get("rope_theta")} | defaults
    fields = Fields({**defaults, **tied, **text, **renamed}, where)
    clamped = architecture.activation == "swiglu_clamped"
    neutral = NEUTRAL | {"swiglu_limit": (_CLAMP,) if clamped else (0,)}
    if clamped:
        neutral |= {"swiglu_alpha": (_ALPHA,)}
    neutral |= architecture.hf_needs
    if "attn_q" not in architecture.biases:  # those that always have some do not look at it
        neutral |= {"attention_bias": (False,), "qkv_bias": (False,)}
    elif "attn_output" in architecture.biases:
        neutral |= {"attention_bias": (True,)}
    for key, known in neutral.items():
        if not architecture.may_have(key, SCALES):
            need(fields, key, known)
    config = _config(architecture, fields)
    return architecture, with_still_layers(config, _turned(architecture, fields, config))


def ties_differ(data: Mapping[str, Any]) -> bool:
    """Whether a wrapper and its text part say differently if the head is the embedding.

    What is saved follows one or the other: the checkpoint has a head, or it has none.
    """
    text, key = data.get("text_config"), "tie_word_embeddings"
    said = [it.get(key) for it in (data, text) if isinstance(it, dict)]
    return said in ([True, False], [False, True])


def _config(architecture: Architecture, fields: Fields) -> ModelConfig:
    hidden, heads = fields.integer("hidden_size"), fields.integer("num_attention_heads", least=1)
    head_dim, keys = fields.integer("head_dim", hidden // heads), _expert_keys(architecture, fields)
    layers = _layers(architecture, fields)
    if architecture.layers_differ:
        layers = with_own_widths(fields, layers)
    ffn = _ffn(architecture, fields, keys)
    if keys and keys.first_dense:
        dense = fields.integer(keys.first_dense), fields.integer(architecture.hf_ffn)
        layers = with_dense_layers(layers, *dense, ffn)
    if keys and keys.last:
        need(fields, keys.last, (-1, len(layers) - 1))
    return ModelConfig(
        architecture=architecture.name,
        hidden=hidden,
        heads=heads,
        kv_heads=fields.integer("num_key_value_heads", heads),
        head_dim=head_dim,
        ffn=ffn,
        vocab=fields.integer("vocab_size"),
        context=fields.integer("max_position_embeddings"),
        **_scales(architecture, fields, head_dim).fields(fields.number("rms_norm_eps")),
        activation=_activation(architecture, fields),
        ropes=ropes_of(architecture, fields, head_dim, layers),
        layers=layers,
        norm_offset=architecture.hf_norm_offset,
        biases=_biases(architecture, fields),
        qk_norm=architecture.qk_norm and _has(fields, architecture.qk_norm_if),
        norm_after_rope=architecture.norm_after_rope,
        norm_over_heads=architecture.norm_over_heads,
        pre_norms=architecture.pre_norms,
        post_norms=architecture.post_norms,
        tied=fields.flag("tie_word_embeddings", False),
        rope_pairs=architecture.hf_pairs,
        sinks=architecture.sinks,
        experts=_experts(keys, fields),
        value_norm=architecture.value_norm,
        per_layer=fields.integer("hidden_size_per_layer_input", 0, least=0),
        layer_scales=architecture.layer_scales,
        logit_cap=fields.number("final_logit_softcapping", 0.0, least=0),
        score_cap=fields.number("attn_logit_softcapping", 0.0, least=0),
        output_gate=architecture.output_gate,
        delta_net=_delta_net(fields, layers),
        short_conv=short_conv(fields, layers),
    )


def _delta_net(fields: Fields, layers: Sequence[Layer]) -> DeltaNet | None:
    """That of a model some of whose layers have it; their convolutions have no other activation."""
    if all(layer.mixer != "delta" for layer in layers):
        return None
    need(fields, "hidden_act", ("silu",))
    return delta_of_hf(fields)


def _ffn(architecture: Architecture, fields: Fields, keys: ExpertKeys | None) -> int:
    """The width of an FFN, or of each expert."""
    width = fields.integer(keys.ffn if keys else architecture.hf_ffn)
    return adjusted(fields, width) if architecture.hf_ffn_adjusted else width


def _biases(architecture: Architecture, fields: Fields) -> tuple[str, ...]:
    return architecture.biases if _has(fields, architecture.biases_if) else ()


def _has(fields: Fields, setting: str) -> bool:
    """Whether that is set; where there is no such setting, what it is about is always there."""
    return not setting or fields.flag(setting, False)


def _expert_keys(architecture: Architecture, fields: Fields) -> ExpertKeys | None:
    """Those of a model that has experts."""
    keys = architecture.experts
    has_none = keys is None or (keys.enabled and not fields.flag(keys.enabled, False))
    return None if has_none else keys


def _experts(keys: ExpertKeys | None, fields: Fields) -> Experts | None:
    if keys is None:
        return None
    count = next((key for key in keys.count if fields.has(key)), keys.count[0])
    normed = keys.normed is None or fields.flag(keys.normed, False)
    beside = fields.integer(keys.beside) if keys.beside else 0
    if keys.shared:
        beside = fields.integer(keys.shared, most=MOST_EXPERTS) * fields.integer(keys.ffn)
    factor = fields.number(keys.factor, 1.0) if keys.factor else 1.0
    return keys.experts(fields.integer(count), fields.integer(keys.used), normed, beside, factor)


def _scales(architecture: Architecture, fields: Fields, head_dim: int) -> Scales:
    """Four numbers, where they are; else the embedding's and the scores' follow from widths."""
    if architecture.scaled:
        return Scales(*(fields.number(key, 1.0, least=SMALLEST_FLOAT) for key in SCALES))
    hidden = fields.integer("hidden_size")
    embedding = math.sqrt(hidden) if architecture.embedding_scaled else 1.0
    return Scales(embedding, _query_scale(fields, head_dim) if architecture.scores_scaled else 1.0)


def _query_scale(fields: Fields, head_dim: int) -> float:
    scalar = fields.number("query_pre_attn_scalar", head_dim)
    if scalar <= 0:
        raise FormatError(f"{fields.where}: query_pre_attn_scalar or head_dim is {scalar}")
    return float(scalar**-0.5)


def _activation(architecture: Architecture, fields: Fields) -> Activation:
    name = fields.get("hidden_activation") or fields.get("hidden_act")
    known = _ACTIVATIONS
    if architecture.hf_activation:
        known = {architecture.hf_activation: architecture.activation}
    if not isinstance(name, str) or name not in known:
        raise UnsupportedError(
            f"{fields.where}: activation {shown(name)} is not one of {', '.join(known)}"
        )
    return known[name]


def _layers(architecture: Architecture, fields: Fields) -> tuple[Layer, ...]:
    """`layer_types` says it layer by layer; older files have the pattern's length, or nothing."""
    count = fields.integer("num_hidden_layers", least=1, most=MOST_LAYERS)
    if fields.has("layer_types"):
        return _typed_layers(architecture, fields, fields.texts("layer_types"), count)
    if "conv" in architecture.mixers:
        return _typed_layers(architecture, fields, layer_types(fields, count), count)
    if architecture.sliding == "pattern":
        every = fields.integer("_sliding_window_pattern", architecture.global_every, least=1)
        every = fields.integer("sliding_window_pattern", every, least=1)
        return architecture.layers(count, fields.integer("sliding_window"), every)
    if architecture.attends_every:
        every = fields.integer("full_attention_interval", architecture.attends_every, least=1)
        return architecture.mixed((i + 1) % every == 0 for i in range(count))
    slides = architecture.sliding != "none" and fields.flag("use_sliding_window", True)
    window = fields.integer("sliding_window", 0) if slides else 0
    if architecture.sliding not in ("later", "alternate"):
        return (architecture.layer(window),) * count
    first, is_later = fields.integer("max_window_layers"), architecture.sliding == "later"
    seen = (i >= first if is_later else i % 2 == 0 and i < first for i in range(count))
    return tuple(architecture.layer(window if has_window else 0) for has_window in seen)


def _turned(architecture: Architecture, fields: Fields, config: ModelConfig) -> list[int]:
    """Whether each layer has rope: 1 or 0."""
    count = len(config.layers)
    if "position_embedding_type" in architecture.reads:
        return [int(fields.get("position_embedding_type") == "rope")] * count
    if not architecture.still_every:
        return [1] * count
    every = fields.integer("no_rope_layer_interval", architecture.still_every, least=1)
    return fields.integers("no_rope_layers", architecture.turned(count, every), most=1)


def _typed_layers(
    architecture: Architecture, fields: Fields, types: Sequence[str], count: int
) -> tuple[Layer, ...]:
    known, mixers = ("sliding_attention", "full_attention"), architecture.mixers
    types = [known[1] if kind == "attention" else kind for kind in types]
    if odd := {*types} & {*_RECURRENT} - {*mixers}:
        kinds = " and ".join(sorted(odd))
        raise UnsupportedError(f"{fields.where}: Doppler does not know layers of type {kinds}")
    if len(types) != count or not {*types} <= {*known, *mixers}:
        named = [*known, *mixers]
        raise FormatError(f"{fields.where}: layer_types must name {count} layers of {named}")
    window = fields.integer("sliding_window") if known[0] in types else 0
    return tuple(
        Layer(mixer=mixers[kind])
        if kind in mixers
        else architecture.layer(window if kind == known[0] else 0)
        for kind in types
    )

"""Hugging Face's config.json -> ModelConfig, as transformers 4 and 5 write it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from doppler.config.layer import MOST_LAYERS, Experts, Layer, need_head_dim
from doppler.config.model import Activation, ModelConfig
from doppler.config.rope import STANDING, Rope, yarn_magnitude
from doppler.errors import FormatError, UnsupportedError
from doppler.formats.architectures import Architecture, ExpertKeys, of_hf
from doppler.formats.hf_layers import with_own_widths
from doppler.formats.hf_quantization import refuse_quantised
from doppler.formats.scales import Scales
from doppler.formats.still_layers import with_still_layers
from doppler.inputs.fields import LARGEST_INT, SMALLEST_FLOAT, Fields, shown

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
    "num_kv_shared_layers": (0,),
    "hidden_size_per_layer_input": (0,),
    "enable_moe_block": (False,),
}
SCALES = ("embedding_multiplier", "attention_multiplier", "residual_multiplier", "logits_scaling")
_RECURRENT = ("mamba", "linear_attention")  # types of layers that attend to nothing
_CLAMP = 7.0  # of the activation that has one


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
    fields = Fields({**architecture.hf_defaults, **tied, **text}, where)
    clamped = architecture.activation == "swiglu_clamped"
    neutral = NEUTRAL | {"swiglu_limit": (_CLAMP,) if clamped else (0,)}
    neutral |= architecture.hf_needs
    if "attn_q" not in architecture.biases:  # those that always have some do not look at it
        neutral |= {"attention_bias": (False,), "qkv_bias": (False,)}
    elif "attn_output" in architecture.biases:
        neutral |= {"attention_bias": (True,)}
    for key, known in neutral.items():
        if not architecture.may_have(key, SCALES):
            _need(fields, key, known)
    config = _config(architecture, fields)
    return architecture, with_still_layers(config, _turned(architecture, fields, config))


def _need(fields: Fields, key: str, known: tuple[Any, ...]) -> None:
    """Raises UnsupportedError for a setting that changes the arithmetic."""
    if fields.has(key) and fields.get(key) not in known:
        raise UnsupportedError(
            f"{fields.where}: {fields.prefix}{key} is {shown(fields.get(key))}, which Doppler "
            "cannot do"
        )


def _config(architecture: Architecture, fields: Fields) -> ModelConfig:
    hidden, heads = fields.integer("hidden_size"), fields.integer("num_attention_heads", least=1)
    head_dim, keys = fields.integer("head_dim", hidden // heads), _expert_keys(architecture, fields)
    layers = _layers(architecture, fields)
    if architecture.layers_differ:
        layers = with_own_widths(fields, layers)
    return ModelConfig(
        architecture=architecture.name,
        hidden=hidden,
        heads=heads,
        kv_heads=fields.integer("num_key_value_heads", heads),
        head_dim=head_dim,
        ffn=fields.integer(keys.ffn if keys else architecture.hf_ffn),
        vocab=fields.integer("vocab_size"),
        context=fields.integer("max_position_embeddings"),
        **_scales(architecture, fields, head_dim).fields(fields.number("rms_norm_eps")),
        activation=_activation(architecture, fields),
        ropes=_ropes(architecture, fields, head_dim, layers),
        layers=layers,
        norm_offset=architecture.hf_norm_offset,
        biases=architecture.biases,
        qk_norm=architecture.qk_norm,
        norm_after_rope=architecture.norm_after_rope,
        post_norms=architecture.post_norms,
        tied=fields.flag("tie_word_embeddings", False),
        rope_pairs=architecture.hf_pairs,
        sinks=architecture.sinks,
        experts=_experts(keys, fields),
        value_norm=architecture.value_norm,
        per_layer=fields.integer("hidden_size_per_layer_input", 0, least=0),
        layer_scales=architecture.layer_scales,
        logit_cap=fields.number("final_logit_softcapping", 0.0, least=0),
    )


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
    return keys.experts(fields.integer(count), fields.integer(keys.used), normed, beside)


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
        return _typed_layers(architecture, fields, count)
    if architecture.sliding == "pattern":
        every = fields.integer("_sliding_window_pattern", architecture.global_every, least=1)
        every = fields.integer("sliding_window_pattern", every, least=1)
        return architecture.layers(count, fields.integer("sliding_window"), every)
    slides = architecture.sliding != "none" and fields.flag("use_sliding_window", True)
    window = fields.integer("sliding_window", 0) if slides else 0
    first = fields.integer("max_window_layers") if architecture.sliding == "later" else 0
    return tuple(architecture.layer(window if i >= first else 0) for i in range(count))


def _turned(architecture: Architecture, fields: Fields, config: ModelConfig) -> list[int]:
    """Whether each layer has rope: 1 or 0."""
    count = len(config.layers)
    if "position_embedding_type" in architecture.reads:
        return [int(fields.get("position_embedding_type") == "rope")] * count
    if not architecture.still_every:
        return [1] * count
    every = fields.integer("no_rope_layer_interval", architecture.still_every, least=1)
    return fields.integers("no_rope_layers", architecture.turned(count, every), most=1)


def _typed_layers(architecture: Architecture, fields: Fields, count: int) -> tuple[Layer, ...]:
    types, known = fields.texts("layer_types"), ("sliding_attention", "full_attention")
    types = [known[1] if kind == "attention" else kind for kind in types]
    if odd := {*types} & {*_RECURRENT}:
        kinds = " and ".join(sorted(odd))
        raise UnsupportedError(f"{fields.where}: Doppler does not know layers of type {kinds}")
    if len(types) != count or not {*types} <= {*known}:
        raise FormatError(f"{fields.where}: layer_types must name {count} layers of {list(known)}")
    window = fields.integer("sliding_window") if known[0] in types else 0
    return tuple(architecture.layer(window if kind == known[0] else 0) for kind in types)


def _ropes(
    architecture: Architecture, fields: Fields, head_dim: int, layers: tuple[Layer, ...]
) -> tuple[Rope, ...]:
    """(local, global) where layers differ, one rope otherwise.

    transformers 5 has `rope_parameters`, by layer type or plain; 4 has `rope_theta`, `rope_scaling`
    (of the global layers) and `rope_local_base_freq`. Where both are there, people added
    `rope_scaling` for longer contexts, and it counts.
    """
    old, new = fields.table("rope_scaling"), fields.table("rope_parameters")
    plain = Fields({"rope_theta": fields.get("rope_theta")}, fields.where)
    local_base = fields.get("rope_local_base_freq") or architecture.local_base
    local = Fields({"rope_theta": local_base}, fields.where)
    if new.has("full_attention"):
        plain = new.table("full_attention")
        local = new.table("sliding_attention") if new.has("sliding_attention") else local
        if not architecture.local_base and new.has("sliding_attention"):
            _need(new, "sliding_attention", (new.get("full_attention"),))
    elif len(new):
        plain = new.over(plain)
    if len(old):
        plain = old.over(Fields({"rope_theta": plain.get("rope_theta")}, fields.where))
    if not architecture.local_base:
        return (_rope(architecture, plain, fields, head_dim),)
    wide = (layer.head_dim for layer in layers if layer.rope == 1 and layer.head_dim)
    full = _rope(architecture, plain, fields, next(wide, head_dim))
    return _rope(architecture, local, fields, head_dim), full


def _rope(architecture: Architecture, data: Fields, fields: Fields, head_dim: int) -> Rope:
    """The rope of heads of that width."""
    if data.get("rope_type") == "proportional":
        need_head_dim(fields.where, head_dim)  # or there might be any number of factors
        share = data.number("partial_rotary_factor", 1.0, least=0, most=1)
        turned = int(share * head_dim // 2)
        factor = data.number("factor", 1.0, least=SMALLEST_FLOAT)
        factors = (factor,) * turned + (STANDING,) * (head_dim // 2 - turned)
        return Rope(data.number("rope_theta"), "factors", factors=factors)
    if "alpha" in architecture.reads and data.has("alpha"):
        return _stretched_rope(data, head_dim)
    rope, key = _whole_rope(data, fields), "llama_4_scaling_beta"
    growth = data.number(key, 0.0) if key in architecture.reads and rope.scaling == "yarn" else 0.0
    _need(data, key, (growth,))
    return replace(rope, width=_rope_width(architecture, data, fields, head_dim), growth=growth)


def _rope_width(architecture: Architecture, data: Fields, fields: Fields, head_dim: int) -> int:
    """Dimensions of a head that turn: 0 where all do, as they must in most architectures."""
    key = "partial_rotary_factor"
    if key not in architecture.reads:
        _need(data, key, (1,))
        return 0
    width = int(head_dim * data.number(key, fields.number(key, 1.0), least=0, most=1))
    if width == 0:
        raise data.error(key, "so large that two dimensions of a head turn")
    return 0 if width == head_dim else width


def _stretched_rope(data: Fields, head_dim: int) -> Rope:
    """One whose base alone is changed, by `alpha`; that is called dynamic and is not."""
    data.choice("rope_type" if data.has("rope_type") else "type", ("dynamic",))
    alpha = data.number("alpha", least=SMALLEST_FLOAT)
    return Rope(data.number("rope_theta") * alpha ** (head_dim / max(head_dim - 2, 1)))


def _whole_rope(data: Fields, fields: Fields) -> Rope:
    _need(data, "mrope_section", (1,))
    base = data.number("rope_theta")
    kind = data.text("rope_type", data.text("type", ""))
    if not kind and data.number("factor", 1.0) != 1:
        raise data.error("rope_type", "given where there is a factor")
    if kind in ("", "default"):
        return Rope(base)
    if kind == "linear":
        return Rope(base, "linear", data.number("factor"))
    if kind == "llama3":
        return Rope(
            base,
            "llama3",
            data.number("factor"),
            data.number("low_freq_factor"),
            data.number("high_freq_factor"),
            int(data.number("original_max_position_embeddings", most=LARGEST_INT)),
        )
    if kind in ("longrope", "su") or data.has("long_factor"):
        return _longrope(base, data, fields)
    if kind == "yarn":
        return _yarn(base, data, fields)
    raise UnsupportedError(f"{data.where}: rope type {shown(kind)} is not one that Doppler knows")


def _longrope(base: float, data: Fields, fields: Fields) -> Rope:
    """A divisor for each pair, another one for contexts that are longer than the original.

    In either, cos and sin are as large as is given, or follows from how much longer one may be.
    """
    key, longest = "original_max_position_embeddings", fields.integer("max_position_embeddings")
    original = data.integer(key, fields.integer(key, longest), least=2)
    factor = data.number("factor", longest / original)
    usual = math.sqrt(1 + math.log(max(factor, 1.0)) / math.log(original))
    return Rope(
        base,
        "factors",
        original_context=original,
        factors=_divisors(data, "short_factor"),
        long_factors=_divisors(data, "long_factor"),
        magnitude=data.number("attention_factor", usual),
    )


def _divisors(data: Fields, key: str) -> tuple[float, ...]:
    divisors = data.numbers(key)
    if not divisors or min(divisors) <= 0:
        raise data.error(key, "a list of positive numbers")
    return tuple(divisors)


def _yarn(base: float, data: Fields, fields: Fields) -> Rope:
    """YaRN as transformers reads it: what makes scores larger is given, or follows the factor."""
    factor, key = data.number("factor"), "original_max_position_embeddings"
    context = fields.integer("max_position_embeddings")
    return Rope(
        base,
        "yarn",
        factor,
        original_context=int(data.number(key, context, most=LARGEST_INT)),
        beta_fast=data.number("beta_fast", 32.0),
        beta_slow=data.number("beta_slow", 1.0),
        whole_pairs=data.flag("truncate", True),
        magnitude=data.number("attention_factor", _usual_magnitude(data, factor)),
    )


def _usual_magnitude(data: Fields, factor: float) -> float:
    """That of YaRN, or a quotient of two, where shares of the growth are given for both."""
    over, under = (data.number(key, 0.0, least=0) for key in ("mscale", "mscale_all_dim"))
    if over and under:
        return yarn_magnitude(factor, over) / yarn_magnitude(factor, under)
    return yarn_magnitude(factor)

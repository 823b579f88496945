"""GGUF metadata -> ModelConfig."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from doppler.config.layer import MOST_EXPERTS, MOST_HEAD_DIM, MOST_LAYERS, Experts, Layer
from doppler.config.mixers import DeltaNet, ShortConv
from doppler.config.model import ModelConfig
from doppler.config.rope import Rope, yarn_magnitude
from doppler.errors import FormatError, UnsupportedError
from doppler.formats.architecture import Architecture
from doppler.formats.architectures import of_gguf
from doppler.formats.delta_net import delta_of_gguf
from doppler.formats.gguf import Gguf
from doppler.formats.gguf_keys import Keys
from doppler.formats.gguf_layers import widths_of
from doppler.formats.scales import Scales
from doppler.formats.still_layers import with_still_layers
from doppler.inputs.fields import Fields

NEUTRAL: dict[str, tuple[float, ...]] = {  # keys that change the arithmetic -> when they do not
    "attn_logit_softcapping": (0,),
    "router_logit_softcapping": (0,),
    "final_logit_softcapping": (0,),
    "attention.scale": (0,),
    "attention.output_scale": (0, 1),
    "attention.temperature_length": (0,),
    "attention.temperature_scale": (0,),
    "attention.clamp_kqv": (0,),
    "attention.max_alibi_bias": (0,),
    "attention.shared_kv_layers": (0,),
    "attention.causal": (True,),
    "use_parallel_residual": (False,),
    "embedding_scale": (0, 1),
    "logit_scale": (0, 1),
    "residual_scale": (0, 1),
    "rope.scaling.alpha": (0, 1),
    "rope.scaling.yarn_log_multiplier": (0,),
    "rope.dimension_sections": (0,),
    "expert_shared_count": (0,),
    "expert_shared_feed_forward_length": (0,),
    "expert_group_count": (0, 1),
    "expert_weights_scale": (0, 1),
    "expert_gating_func": (0, 1, 3),  # softmax, of all or of those used
    "swiglu_clamp_exp": (0,),
    "leading_dense_block_count": (0,),
    "moe_every_n_layers": (0, 1),
    "interleave_moe_layer_step": (0, 1),
    "full_attention_interval": (0, 1),
    "nextn_predict_layers": (0,),
}
SCALES = ("embedding_scale", "attention.scale", "residual_scale", "logit_scale")
_SIGMOID, _SOFTMAX_OF_USED = 2, 3  # of expert_gating_func
_SCALINGS = ("none", "linear", "yarn")
_MAGNITUDE_FACTOR, _MAGNITUDE = "rope.scaling.attn_factor", "rope.scaling.yarn_attn_factor"
ROPE_FACTORS = "rope_freqs.weight"  # one divisor of the inverse frequency for each pair
# The same for contexts up to the original one, and for longer ones.
SHORT_FACTORS, LONG_FACTORS = "rope_factors_short.weight", "rope_factors_long.weight"
MOST_PAIRS = MOST_HEAD_DIM // 2


def config_from_gguf(
    gguf: Gguf, rope_factors: tuple[float, ...], long_factors: tuple[float, ...] = ()
) -> tuple[Architecture, ModelConfig]:
    """The config of a file whose `rope_freqs.weight` holds `rope_factors` (empty: it has none).

    Where it has `long_factors`, for long contexts, the others are for short ones.

    Raises UnsupportedError for an architecture or a setting that Doppler does not know, FormatError
    for keys that are missing or make no sense.
    """
    name = Fields(gguf.metadata, gguf.name).text("general.architecture")
    keys = Keys(gguf.metadata, gguf.name).below(f"{name}.")
    architecture = of_gguf(name, keys.integer("expert_count", 0) > 0, gguf.name)
    usual = {f"{name}.{key}": value for key, value in architecture.gguf_defaults.items()}
    keys = Keys({**usual, **gguf.metadata}, gguf.name).below(f"{name}.")
    for key, neutral in NEUTRAL.items():
        if not architecture.may_have(key, SCALES):
            keys.need(key, neutral)
    hidden = keys.integer("embedding_length", least=1)
    heads = keys.integer("attention.head_count", least=1)
    count = layers_of(architecture, keys)
    widths = widths_of(architecture, gguf, keys, _layers(architecture, keys, count))
    config = ModelConfig(
        architecture=architecture.name,
        hidden=hidden,
        heads=heads,
        kv_heads=widths.kv_heads,
        head_dim=widths.head_dim,
        ffn=widths.ffn,
        vocab=_vocab(gguf),
        context=keys.integer("context_length"),
        **_scales(architecture, keys, widths.head_dim).fields(
            _short(keys.number("attention.layer_norm_rms_epsilon"))
        ),
        activation=architecture.activation,
        ropes=tuple(
            replace(rope, width=_rope_width(architecture, keys, widths.head_dim))
            for rope in _ropes(architecture, keys, widths.layers, rope_factors, long_factors)
        ),
        layers=widths.layers,
        biases=_biases(architecture, gguf),
        qk_norm=architecture.qk_norm
        and (not architecture.qk_norm_if or "blk.0.attn_q_norm.weight" in gguf.tensors),
        norm_after_rope=architecture.norm_after_rope,
        norm_over_heads=architecture.norm_over_heads,
        pre_norms=architecture.pre_norms,
        post_norms=architecture.post_norms,
        tied="output.weight" not in gguf.tensors,
        rope_pairs=architecture.gguf_pairs,
        sinks=architecture.sinks,
        experts=_experts(architecture, keys),
        value_norm=architecture.value_norm,
        per_layer=keys.integer("embedding_length_per_layer_input", 0, least=0),
        layer_scales=architecture.layer_scales,
        logit_cap=_short(keys.number("final_logit_softcapping", 0.0, least=0)),
        score_cap=_short(keys.number("attn_logit_softcapping", 0.0, least=0)),
        output_gate=architecture.output_gate,
        delta_net=_delta(architecture, keys, widths.layers),
        short_conv=_short_conv(keys, widths.layers),
    )
    return architecture, with_still_layers(config, _turned(architecture, keys, count))


def layers_of(architecture: Architecture, keys: Keys) -> int:
    """How many there are: but for those that draft tokens, which come last."""
    count = keys.integer("block_count", least=1, most=MOST_LAYERS)
    if "nextn_predict_layers" not in architecture.reads:
        return count
    return count - keys.integer("nextn_predict_layers", 0, most=count - 1)


def _delta(architecture: Architecture, keys: Keys, layers: tuple[Layer, ...]) -> DeltaNet | None:
    """Of the layers that are one."""
    if not any(layer.mixer == "delta" for layer in layers):
        return None
    return delta_of_gguf(keys, architecture.gguf_tiled)


def _short_conv(keys: Keys, layers: tuple[Layer, ...]) -> ShortConv | None:
    """Of the layers that have one."""
    if not any(layer.mixer == "conv" for layer in layers):
        return None
    return ShortConv(keys.integer("shortconv.l_cache"))


def _scales(architecture: Architecture, keys: Keys, head_dim: int) -> Scales:
    """Four numbers, of which 0 is the same as none; where there are none they follow from widths.

    llama.cpp, too, has scores divided by the root of the width where their number is 0.
    """
    if architecture.scaled:
        usual = dict.fromkeys(SCALES, 1.0) | {"attention.scale": head_dim**-0.5}
        return Scales(*(_short(keys.number(key, 0.0, least=0)) or usual[key] for key in SCALES))
    hidden, count = keys.integer("embedding_length"), keys.integer("block_count")
    embedding = math.sqrt(hidden) if architecture.embedding_scaled else 1.0
    scores = architecture.query_scalars.get(count, head_dim) ** -0.5
    return Scales(embedding, scores if architecture.scores_scaled else 1.0)


def _turned(architecture: Architecture, keys: Keys, count: int) -> list[int]:
    """Whether each layer has rope: 1 or 0."""
    key = "rope.scaling.finetuned"  # which is for Granite whether there is rope
    if key in architecture.reads:
        return [int(keys.flag(key, True))] * count
    return architecture.turned(count) if architecture.still_every else [1] * count


def _short(value: float) -> float:
    """1e-6 rather than the 9.999999974752427e-07 that its float32 reads as; the same in float32."""
    return float(str(np.float32(value)))


def _experts(architecture: Architecture, keys: Keys) -> Experts | None:
    """llama.cpp's rule: shares of those used mostly add up to one, unless a file says otherwise."""
    own = architecture.experts
    if own is None or not keys.integer("expert_count", 0):
        return None
    normed = keys.flag("expert_weights_norm", own.gguf_normed)
    gating, sigmoid = keys.get("expert_gating_func"), own.sigmoid
    if sigmoid:
        keys.need("expert_gating_func", (0, _SIGMOID))
    normed = normed or gating == _SOFTMAX_OF_USED
    beside = 0
    if own.beside:  # older files have one width only
        beside = keys.integer(own.gguf_beside, 0) or keys.integer("feed_forward_length")
    if own.shared:
        shared = keys.integer("expert_shared_count", 0, most=MOST_EXPERTS)
        beside = shared * keys.integer("expert_feed_forward_length")
    factor = (_short(keys.number("expert_weights_scale", 0.0)) or 1.0) if own.factor else 1.0
    count, used = keys.integer("expert_count"), keys.integer("expert_used_count")
    return own.experts(count, used, normed, beside, factor)


def _biases(architecture: Architecture, gguf: Gguf) -> tuple[str, ...]:
    """Those that the architecture always has, or those that the first layer has."""
    return tuple(
        name
        for name in architecture.biases
        if not architecture.biases_if or f"blk.0.{name}.bias" in gguf.tensors
    )


def _vocab(gguf: Gguf) -> int:
    embedding = gguf.tensors.get("token_embd.weight")
    if embedding is None:
        raise FormatError(f"{gguf.name}: tensor 'token_embd.weight' is missing")
    return embedding.shape[0]


def _layers(architecture: Architecture, keys: Keys, count: int) -> tuple[Layer, ...]:
    """Files of some converters say which layers slide: every n-th does not, or a flag for each."""
    if architecture.attends_every:
        return _mixed(architecture, keys, count)
    if architecture.sliding != "pattern":
        window = keys.integer("attention.sliding_window", 0)
        is_told = architecture.sliding not in ("later", "alternate")
        if not is_told and 0 < window < keys.integer("context_length"):
            keys.need("attention.sliding_window", (0,))  # nothing says from which layer on
        return (architecture.layer(window if is_told else 0),) * count
    window, key = keys.integer("attention.sliding_window"), "attention.sliding_window_pattern"
    slides = keys.each(key, count)
    if slides is None:
        every = keys.integer(key, architecture.global_every)
        return architecture.layers(count, window, every or count + 1)  # 0: all of them slide
    return tuple(architecture.layer(window if slide else 0) for slide in slides)


def _mixed(architecture: Architecture, keys: Keys, count: int) -> tuple[Layer, ...]:
    """A flag for each layer, those that draft tokens among them; or every n-th attends."""
    recurrent = keys.each("attention.recurrent_layers", keys.integer("block_count"))
    if recurrent is not None:
        return architecture.mixed(not it for it in recurrent[:count])
    every = keys.integer("full_attention_interval", architecture.attends_every, least=1)
    return architecture.mixed((i + 1) % every == 0 for i in range(count))


def _ropes(
    architecture: Architecture,
    keys: Keys,
    layers: tuple[Layer, ...],
    factors: tuple[float, ...],
    long_factors: tuple[float, ...],
) -> tuple[Rope, ...]:
    """(of layers with a window, of others), or one for all; linear is what needs no type.

    Where scaling is of layers without a window, these are first.
    """
    if architecture.rope_factors and not factors:
        raise FormatError(f"{keys.where}: {ROPE_FACTORS} is missing; the file is incomplete")
    base = keys.number("rope.freq_base", 10_000.0)
    known = (*_SCALINGS, "longrope") if long_factors else _SCALINGS
    kind = keys.choice("rope.scaling.type", known, "linear")
    if kind == "yarn":
        rope = _yarn(architecture, keys, base)
        if factors:
            raise UnsupportedError(f"{keys.where}: yarn rope and {ROPE_FACTORS} at once")
    else:
        for key in (_MAGNITUDE_FACTOR, _MAGNITUDE):
            if not (long_factors and key == "rope.scaling.attn_factor"):
                keys.need(key, (1,))
        keys.need("attention.temperature_scale", (0,))
        factor = _linear_factor(keys) if kind == "linear" else 1.0
        rope = Rope(base)
        if factors:
            rope = Rope(base, "factors", factors=tuple(divisor * factor for divisor in factors))
            if long_factors:
                rope = _longrope(keys, rope, tuple(divisor * factor for divisor in long_factors))
        elif factor != 1:
            rope = Rope(base, "linear", factor)
    if not architecture.local_base:
        keys.need("rope.freq_base_swa", (0, base))
        return (rope, Rope(base)) if any(layer.rope for layer in layers) else (rope,)
    return Rope(keys.number("rope.freq_base_swa", architecture.local_base)), rope


def _longrope(keys: Keys, rope: Rope, long_factors: tuple[float, ...]) -> Rope:
    """A rope with divisors for short contexts, with those for long ones."""
    context = keys.integer("context_length")
    return replace(
        rope,
        long_factors=long_factors,
        original_context=keys.integer("rope.scaling.original_context_length", context),
        magnitude=_short(keys.number("rope.scaling.attn_factor", 1.0)),
    )


def _rope_width(architecture: Architecture, keys: Keys, head_dim: int) -> int:
    """Dimensions of a head that turn; 0 for all."""
    if "rope.dimension_count" not in architecture.reads:
        return 0
    width = keys.integer("rope.dimension_count", head_dim, least=1)
    return 0 if width == head_dim else width


def _linear_factor(keys: Keys) -> float:
    """By the key of today or an older one; 0 stands for none."""
    old = keys.number("rope.scale_linear", 0.0, least=0)
    return keys.number("rope.scaling.factor", old, least=0) or 1.0


def _yarn(architecture: Architecture, keys: Keys, base: float) -> Rope:
    """As llama.cpp's converters write it: the magnitude, or a factor of the usual one."""
    factor = keys.number("rope.scaling.factor")
    given = keys.number(_MAGNITUDE_FACTOR, 1.0)
    if keys.number("rope.scaling.yarn_ext_factor", 1.0) >= 0:  # less stands for what is usual
        keys.need("rope.scaling.yarn_ext_factor", (1,))
    # Scores may grow less: in models that let queries grow with their positions instead.
    less = yarn_magnitude(factor, keys.number("rope.scaling.yarn_log_multiplier", 0.0, least=0))
    is_whole = architecture.yarn_magnitude_given and keys.has(_MAGNITUDE_FACTOR)
    usual = given if is_whole else given * yarn_magnitude(factor) / less
    context = keys.integer("context_length")
    return Rope(
        base,
        "yarn",
        factor,
        original_context=keys.integer("rope.scaling.original_context_length", context),
        beta_fast=keys.number("rope.scaling.yarn_beta_fast", 32.0),
        beta_slow=keys.number("rope.scaling.yarn_beta_slow", 1.0),
        whole_pairs=architecture.yarn_whole_pairs,
        magnitude=keys.number(_MAGNITUDE, usual),
        growth=_short(keys.number("attention.temperature_scale", 0.0)),
    )

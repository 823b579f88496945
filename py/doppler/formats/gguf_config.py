"""GGUF metadata -> ModelConfig."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from doppler.config import MOST_LAYERS, Experts, Layer, ModelConfig, Rope, yarn_magnitude
from doppler.errors import FormatError, UnsupportedError
from doppler.formats.architectures import Architecture, of_gguf
from doppler.formats.gguf import Gguf
from doppler.inputs.fields import Fields, shown

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
_SOFTMAX_OF_USED = 3  # of expert_gating_func
_SCALINGS = ("none", "linear", "yarn")
ROPE_FACTORS = "rope_freqs.weight"  # one divisor of the inverse frequency for each pair
MOST_PAIRS = 128  # of the widest head


class _Keys(Fields):
    """The architecture's own keys. What has one value a layer counts where all are the same."""

    def get(self, key: str) -> Any:
        value = super().get(key)
        if not isinstance(value, np.ndarray) or not value.size:
            return value
        if (value != value[0]).any():
            raise UnsupportedError(f"{self.where}: {self.prefix}{key} differs between layers")
        return value[0].item()

    def each(self, key: str) -> list[Any] | None:
        """One value a layer; None where there is none or one for all."""
        value = super().get(key)
        return value.tolist() if isinstance(value, np.ndarray) else None

    def need(self, key: str, neutral: tuple[float, ...]) -> None:
        """Raises UnsupportedError for a value that changes the arithmetic."""
        value = self.get(key)
        known = value is None or (isinstance(value, (bool, int, float)) and value in neutral)
        if not known:
            raise UnsupportedError(
                f"{self.where}: {self.prefix}{key} is {shown(value)}, which Doppler cannot do"
            )


def config_from_gguf(
    gguf: Gguf, rope_factors: tuple[float, ...]
) -> tuple[Architecture, ModelConfig]:
    """The config of a file whose `rope_freqs.weight` holds `rope_factors` (empty: it has none).

    Raises UnsupportedError for an architecture or a setting that Doppler does not know, FormatError
    for keys that are missing or make no sense.
    """
    name = Fields(gguf.metadata, gguf.name).text("general.architecture")
    keys = _Keys(gguf.metadata, gguf.name).below(f"{name}.")
    architecture = of_gguf(name, keys.integer("expert_count", 0) > 0, gguf.name)
    for key, neutral in NEUTRAL.items():
        keys.need(key, neutral)
    hidden = keys.integer("embedding_length", least=1)
    heads = keys.integer("attention.head_count", least=1)
    count = keys.integer("block_count", least=1, most=MOST_LAYERS)
    head_dim = _head_dim(keys, hidden // heads)
    config = ModelConfig(
        architecture=architecture.name,
        hidden=hidden,
        heads=heads,
        kv_heads=keys.integer("attention.head_count_kv", heads),
        head_dim=head_dim,
        ffn=_ffn(architecture, keys),
        vocab=_vocab(gguf),
        context=keys.integer("context_length"),
        norm_eps=_short(keys.number("attention.layer_norm_rms_epsilon")),
        query_scale=architecture.query_scalars.get(count, head_dim) ** -0.5,
        activation=architecture.activation,
        ropes=_ropes(architecture, keys, rope_factors),
        layers=_layers(architecture, keys, count),
        embedding_scale=math.sqrt(hidden) if architecture.embedding_scaled else 1.0,
        biases=architecture.biases,
        qk_norm=architecture.qk_norm,
        post_norms=architecture.post_norms,
        tied="output.weight" not in gguf.tensors,
        rope_pairs=architecture.gguf_pairs,
        sinks=architecture.sinks,
        experts=_experts(architecture, keys),
    )
    return architecture, config


def _short(value: float) -> float:
    """1e-6 rather than the 9.999999974752427e-07 that its float32 reads as; the same in float32."""
    return float(str(np.float32(value)))


def _head_dim(keys: _Keys, default: int) -> int:
    """The width of a head, which rope must turn as a whole."""
    rotated = keys.integer("rope.dimension_count", 0)
    head_dim = keys.integer("attention.key_length", rotated or default, least=1)
    if rotated not in (0, head_dim):
        raise UnsupportedError(f"{keys.where}: rope turns {rotated} of {head_dim} dimensions only")
    if keys.integer("attention.value_length", head_dim) != head_dim:
        raise UnsupportedError(f"{keys.where}: keys and values have different widths")
    for key in (
        "attention.key_length_swa",
        "attention.value_length_swa",
        "rope.dimension_count_swa",
    ):
        keys.need(key, (0, head_dim))
    return head_dim


def _ffn(architecture: Architecture, keys: _Keys) -> int:
    """The width of the FFN, or of each expert, which has a key of its own where they differ."""
    own = keys.integer("expert_feed_forward_length", 0) if architecture.experts else 0
    return own or keys.integer("feed_forward_length")


def _experts(architecture: Architecture, keys: _Keys) -> Experts | None:
    """llama.cpp's rule: shares of those used add up to one, unless a file says otherwise."""
    if architecture.experts is None:
        return None
    normed = keys.flag("expert_weights_norm", True)
    normed = normed or keys.get("expert_gating_func") == _SOFTMAX_OF_USED
    return Experts(keys.integer("expert_count"), keys.integer("expert_used_count"), normed)


def _vocab(gguf: Gguf) -> int:
    embedding = gguf.tensors.get("token_embd.weight")
    if embedding is None:
        raise FormatError(f"{gguf.name}: tensor 'token_embd.weight' is missing")
    return embedding.shape[0]


def _layers(architecture: Architecture, keys: _Keys, count: int) -> tuple[Layer, ...]:
    """Files of some converters say which layers slide: every n-th does not, or a flag for each."""
    if architecture.sliding != "pattern":
        window = keys.integer("attention.sliding_window", 0)
        if architecture.sliding == "later" and 0 < window < keys.integer("context_length"):
            keys.need("attention.sliding_window", (0,))  # nothing says from which layer on
        return (architecture.layer(0 if architecture.sliding == "later" else window),) * count
    window, key = keys.integer("attention.sliding_window"), "attention.sliding_window_pattern"
    slides = keys.each(key)
    if slides is None:
        every = keys.integer(key, architecture.global_every)
        return architecture.layers(count, window, every or count + 1)  # 0: all of them slide
    if len(slides) != count:
        raise FormatError(
            f"{keys.where}: {keys.prefix}{key} is of {len(slides)} layers, the model of {count}"
        )
    return tuple(architecture.layer(window if slide else 0) for slide in slides)


def _ropes(architecture: Architecture, keys: _Keys, factors: tuple[float, ...]) -> tuple[Rope, ...]:
    """(of layers with a window, of others), or one for all; linear is what needs no type."""
    base = keys.number("rope.freq_base", 10_000.0)
    kind = keys.choice("rope.scaling.type", _SCALINGS, "linear")
    if kind == "yarn":
        rope = _yarn(architecture, keys, base)
        if factors:
            raise UnsupportedError(f"{keys.where}: yarn rope and {ROPE_FACTORS} at once")
    else:
        for key in ("rope.scaling.attn_factor", "rope.scaling.yarn_attn_factor"):
            keys.need(key, (1,))
        factor = _linear_factor(keys) if kind == "linear" else 1.0
        rope = Rope(base)
        if factors:
            rope = Rope(base, "factors", factors=tuple(divisor * factor for divisor in factors))
        elif factor != 1:
            rope = Rope(base, "linear", factor)
    if not architecture.local_base:
        keys.need("rope.freq_base_swa", (0, base))
        return (rope,)
    return Rope(keys.number("rope.freq_base_swa", architecture.local_base)), rope


def _linear_factor(keys: _Keys) -> float:
    """By the key of today or an older one; 0 stands for none."""
    old = keys.number("rope.scale_linear", 0.0, least=0)
    return keys.number("rope.scaling.factor", old, least=0) or 1.0


def _yarn(architecture: Architecture, keys: _Keys, base: float) -> Rope:
    """As llama.cpp reads it: factors of the magnitude may be given, by two keys."""
    factor = keys.number("rope.scaling.factor")
    given = keys.number("rope.scaling.attn_factor", 1.0)
    given *= keys.number("rope.scaling.yarn_attn_factor", 1.0)
    if keys.number("rope.scaling.yarn_ext_factor", 1.0) >= 0:  # less stands for what is usual
        keys.need("rope.scaling.yarn_ext_factor", (1,))
    context = keys.integer("context_length")
    return Rope(
        base,
        "yarn",
        factor,
        original_context=keys.integer("rope.scaling.original_context_length", context),
        beta_fast=keys.number("rope.scaling.yarn_beta_fast", 32.0),
        beta_slow=keys.number("rope.scaling.yarn_beta_slow", 1.0),
        whole_pairs=architecture.yarn_whole_pairs,
        magnitude=given * yarn_magnitude(factor),
    )

"""GGUF metadata -> ModelConfig."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from doppler.config import Experts, Layer, ModelConfig, Rope, yarn_magnitude
from doppler.errors import FormatError, UnsupportedError
from doppler.formats.architectures import Architecture, checked_count, of_gguf
from doppler.formats.gguf import Gguf

_REFUSED: dict[str, tuple[float, ...]] = {  # keys that change the arithmetic -> when they do not
    "attn_logit_softcapping": (0,),
    "final_logit_softcapping": (0,),
    "attention.scale": (0,),
    "attention.causal": (True,),
    "embedding_scale": (0, 1),
    "logit_scale": (0, 1),
    "residual_scale": (0, 1),
    "rope.scale_linear": (0, 1),
    "expert_shared_count": (0,),
    "expert_group_count": (0, 1),
    "expert_weights_scale": (0, 1),
    "expert_gating_func": (0, 1, 3),  # softmax, of all or of those used
    "leading_dense_block_count": (0,),
}
ROPE_FACTORS = "rope_freqs.weight"  # one divisor of the inverse frequency for each pair


def config_from_gguf(
    gguf: Gguf, rope_factors: tuple[float, ...]
) -> tuple[Architecture, ModelConfig]:
    """The config of a file whose `rope_freqs.weight` holds `rope_factors` (empty: it has none).

    Raises UnsupportedError for an architecture or a setting that Doppler does not know, FormatError
    for keys that are missing or make no sense.
    """
    keys = _Keys(gguf)
    architecture = keys.architecture
    for key, neutral in _REFUSED.items():
        if keys.get(key) not in (None, *neutral):
            raise UnsupportedError(
                f"{gguf.name}: {architecture.gguf_name}.{key} is {keys.get(key)!r:.60}, which "
                "Doppler cannot do"
            )
    hidden, heads = keys.integer("embedding_length"), keys.integer("attention.head_count")
    count = keys.integer("block_count")
    head_dim = _head_dim(keys, hidden, heads)
    config = ModelConfig(
        architecture=architecture.name,
        hidden=hidden,
        heads=heads,
        kv_heads=keys.integer("attention.head_count_kv", heads),
        head_dim=head_dim,
        ffn=_ffn(keys),
        vocab=_vocab(gguf),
        context=keys.integer("context_length"),
        norm_eps=_short(keys.number("attention.layer_norm_rms_epsilon")),
        query_scale=architecture.query_scalars.get(count, head_dim) ** -0.5,
        activation=architecture.activation,
        ropes=_ropes(keys, rope_factors),
        layers=_layers(keys, checked_count(count)),
        embedding_scale=math.sqrt(hidden) if architecture.embedding_scaled else 1.0,
        biases=architecture.biases,
        qk_norm=architecture.qk_norm,
        post_norms=architecture.post_norms,
        tied="output.weight" not in gguf.tensors,
        rope_pairs=architecture.gguf_pairs,
        sinks=architecture.sinks,
        experts=_experts(keys),
    )
    return architecture, config


class _Keys:
    """The architecture's own keys, without their prefix."""

    def __init__(self, gguf: Gguf) -> None:
        self.file = gguf.name
        self._metadata = gguf.metadata
        name = gguf.metadata.get("general.architecture")
        has_experts = bool(gguf.metadata.get(f"{name}.expert_count"))
        self.architecture: Architecture = of_gguf(name, has_experts, gguf.name)

    def get(self, key: str) -> Any:
        value = self._metadata.get(f"{self.architecture.gguf_name}.{key}")
        if isinstance(value, np.ndarray) and value.size:  # one value a layer
            if (value != value[0]).any():
                raise UnsupportedError(f"{self.file}: {key} differs between layers")
            return value[0].item()
        return value

    def list(self, key: str) -> list[Any] | None:
        """One value a layer; None where there is none or one for all."""
        value = self._metadata.get(f"{self.architecture.gguf_name}.{key}")
        return value.tolist() if isinstance(value, np.ndarray) else None

    def integer(self, key: str, default: int | None = None) -> int:
        value = self.get(key)
        if value is None and default is not None:
            return default
        if type(value) is not int or value < 0:
            raise FormatError(self._message(key, value, "an integer"))
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self.get(key)
        if value is None and default is not None:
            return default
        if type(value) not in (int, float) or not math.isfinite(value):
            raise FormatError(self._message(key, value, "a number"))
        return float(value)

    def _message(self, key: str, value: Any, kind: str) -> str:
        name = f"{self.architecture.gguf_name}.{key}"
        return f"{self.file}: {name} is {value!r:.60}, and must be {kind}"


def _short(value: float) -> float:
    """1e-6 rather than the 9.999999974752427e-07 that its float32 reads as; the same in float32."""
    return float(str(np.float32(value)))


def _head_dim(keys: _Keys, hidden: int, heads: int) -> int:
    if heads == 0:
        raise FormatError(f"{keys.file}: the model has no attention heads")
    rotated = keys.integer("rope.dimension_count", 0)
    head_dim = keys.integer("attention.key_length", rotated or hidden // heads)
    if head_dim == 0:
        raise FormatError(f"{keys.file}: attention heads have no dimensions")
    if rotated not in (0, head_dim):
        raise UnsupportedError(f"{keys.file}: rope turns {rotated} of {head_dim} dimensions only")
    if keys.integer("attention.value_length", head_dim) != head_dim:
        raise UnsupportedError(f"{keys.file}: keys and values have different widths")
    return head_dim


def _ffn(keys: _Keys) -> int:
    """The width of the FFN, or of each expert, which has a key of its own where they differ."""
    if keys.architecture.experts is not None and keys.get("expert_feed_forward_length"):
        return keys.integer("expert_feed_forward_length")
    return keys.integer("feed_forward_length")


def _experts(keys: _Keys) -> Experts | None:
    """llama.cpp's rule: shares of those used add up to one, unless a file says otherwise."""
    if keys.architecture.experts is None:
        return None
    normed = keys.get("expert_weights_norm") is not False
    return Experts(keys.integer("expert_count"), keys.integer("expert_used_count"), normed)


def _vocab(gguf: Gguf) -> int:
    embedding = gguf.tensors.get("token_embd.weight")
    if embedding is None:
        raise FormatError(f"{gguf.name}: tensor 'token_embd.weight' is missing")
    return embedding.shape[0]


def _layers(keys: _Keys, count: int) -> tuple[Layer, ...]:
    """Files of some converters say which layers slide: every n-th does not, or a flag for each."""
    architecture = keys.architecture
    if architecture.sliding == "all":
        return (architecture.layer(keys.integer("attention.sliding_window", 0)),) * count
    if architecture.sliding != "pattern":
        return (architecture.layer(0),) * count
    window = keys.integer("attention.sliding_window")
    slides = keys.list("attention.sliding_window_pattern")
    if slides is None:
        every = keys.integer("attention.sliding_window_pattern", architecture.global_every)
        return architecture.layers(count, window, max(every, 1))
    if len(slides) != count:
        raise FormatError(
            f"{keys.file}: sliding_window_pattern is of {len(slides)} layers, the model of {count}"
        )
    return tuple(architecture.layer(window if slide else 0) for slide in slides)


def _ropes(keys: _Keys, factors: tuple[float, ...]) -> tuple[Rope, ...]:
    architecture = keys.architecture
    base = keys.number("rope.freq_base", 10_000.0)
    kind = keys.get("rope.scaling.type") or "none"
    if kind not in ("none", "linear", "yarn") or (kind != "none" and factors):
        raise UnsupportedError(f"{keys.file}: rope scaling {kind!r} is not one that Doppler knows")
    rope = Rope(base)
    if kind == "linear":
        rope = Rope(base, "linear", keys.number("rope.scaling.factor"))
    elif kind == "yarn":
        rope = _yarn(keys, base)
    elif factors:
        rope = Rope(base, "factors", factors=factors)
    if not architecture.local_base:
        return (rope,)
    return Rope(keys.number("rope.freq_base_swa", architecture.local_base)), rope


def _yarn(keys: _Keys, base: float) -> Rope:
    """As llama.cpp reads it: a factor of the magnitude may be given."""
    factor = keys.number("rope.scaling.factor")
    given = keys.number("rope.scaling.attn_factor", 1.0)
    return Rope(
        base,
        "yarn",
        factor,
        original_context=keys.integer("rope.scaling.original_context_length"),
        beta_fast=keys.number("rope.scaling.yarn_beta_fast", 32.0),
        beta_slow=keys.number("rope.scaling.yarn_beta_slow", 1.0),
        whole_pairs=keys.architecture.yarn_whole_pairs,
        magnitude=given * yarn_magnitude(factor),
    )

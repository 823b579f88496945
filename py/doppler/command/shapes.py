"""Full shapes of published models, for `doppler synth`: data that their files would have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from doppler.config.layer import EXPERT_PARTS, Experts, Layer
from doppler.config.mixers import DeltaNet, Mixer, ShortConv
from doppler.config.model import ModelConfig
from doppler.config.rope import STANDING, Rope, yarn_magnitude


def _gemma(
    hidden: int, heads: int, kv_heads: int, ffn: int, vocab: int, **more: int
) -> ModelConfig:
    """Gemma 3: five layers with a window, then one without. GGUF stores 1 + w of the norms."""
    scaling = Rope(1e6, "linear", 8.0) if more["factor"] > 1 else Rope(1e6)
    return ModelConfig(
        architecture="gemma3",
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=256,
        ffn=ffn,
        vocab=vocab,
        context=more["context"],
        norm_eps=1e-6,
        query_scale=256**-0.5,
        activation="gelu_tanh",
        ropes=(Rope(1e4), scaling),
        layers=tuple(
            Layer(0, 1) if i % 6 == 5 else Layer(more["window"], 0) for i in range(more["layers"])
        ),
        embedding_scale=hidden**0.5,
        qk_norm=True,
        post_norms=True,
    )


def _gemma4(hidden: int, heads: int, kv_heads: int, ffn: int, **more: int) -> ModelConfig:
    """Gemma 4: every `every`-th layer sees all keys, with wider heads, of which a quarter turns.

    With `experts`, each `expert_ffn` wide, `ffn` is the width of what is beside them.
    """
    kinds = [(i + 1) % more["every"] == 0 for i in range(more["layers"])]
    small = "per_layer" in more  # those that have embeddings of layers
    own = more["layers"] - more.get("shared", 0)
    experts = None
    if "experts" in more:
        experts = Experts(more["experts"], more["used"], beside=ffn, own_norms=True, scaled=True)
    layers = []
    for index, is_global in enumerate(kinds):
        window = 0 if is_global else 512 if small else 1024
        if index >= own:
            source = max(i for i in range(own) if kinds[i] is is_global)
            wide = more.get("shared_ffn", 0)
            layers.append(Layer(window, int(is_global), ffn=wide, shares=source))
        elif is_global:
            pairs = more.get("global_kv_heads", 0)
            layers.append(Layer(0, 1, 512, kv_heads=pairs, are_values=pairs > 0))
        else:
            layers.append(Layer(window, 0))
    return ModelConfig(
        architecture="gemma4",
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=256,
        ffn=more.get("expert_ffn", ffn),
        vocab=262144,
        context=131072 if small else 262144,
        norm_eps=1e-6,
        query_scale=1.0,
        activation="gelu_tanh",
        ropes=(Rope(1e4), Rope(1e6, "factors", factors=(1.0,) * 64 + (STANDING,) * 192)),
        layers=tuple(layers),
        embedding_scale=hidden**0.5,
        qk_norm=True,
        post_norms=True,
        experts=experts,
        value_norm=True,
        per_layer=more.get("per_layer", 0),
        layer_scales=True,
        logit_cap=30.0,
    )


def _llama(hidden: int, heads: int, head_dim: int, layers: int) -> ModelConfig:
    """Llama 3.2, as GGUF has it: q and k permuted for interleaved pairs."""
    return ModelConfig(
        architecture="llama",
        hidden=hidden,
        heads=heads,
        kv_heads=8,
        head_dim=head_dim,
        ffn=8192,
        vocab=128256,
        context=131072,
        norm_eps=1e-5,
        query_scale=head_dim**-0.5,
        activation="silu",
        ropes=(Rope(5e5, "llama3", 32.0, 1.0, 4.0, 8192),),
        layers=(Layer(),) * layers,
        rope_pairs="interleaved",
    )


def _lfm2(hidden: int, ffn: int, attending: tuple[int, ...], layers: int) -> ModelConfig:
    """LFM2 or LFM2.5: all layers but those `attending` have a convolution of three taps."""
    mixers: list[Mixer] = ["attention" if i in attending else "conv" for i in range(layers)]
    return ModelConfig(
        architecture="lfm2",
        hidden=hidden,
        heads=hidden // 64,
        kv_heads=8,
        head_dim=64,
        ffn=ffn,
        vocab=65536,
        context=128_000,
        norm_eps=1e-5,
        query_scale=64**-0.5,
        activation="silu",
        ropes=(Rope(1e6),),
        layers=tuple(Layer(mixer=mixer) for mixer in mixers),
        qk_norm=True,
        short_conv=ShortConv(3),
    )


def _lfm2_moe() -> ModelConfig:
    """LFM2 8B-A1B: two layers have a dense FFN, four times as wide as an expert."""
    plain = _lfm2(2048, 1792, (2, 6, 10, 14, 18, 21), 24)
    first = (replace(layer, dense=True, ffn=7168) for layer in plain.layers[:2])
    return replace(
        plain,
        architecture="lfm2moe",
        layers=(*first, *plain.layers[2:]),
        experts=Experts(32, 4, sigmoid=True, biased=True),
    )


def _qwen35(hidden: int, heads: int, ffn: int, value_heads: int, layers: int) -> ModelConfig:
    """Qwen3.5, dense, as GGUF has it: three layers of Gated DeltaNet, then one of attention.

    config.json of Qwen3.5-0.8B, 2B and 4B; a quarter of each head's dimensions turn.
    """
    return ModelConfig(
        architecture="qwen35",
        hidden=hidden,
        heads=heads,
        kv_heads=heads // 4,
        head_dim=256,
        ffn=ffn,
        vocab=248320,
        context=262144,
        norm_eps=1e-6,
        query_scale=256**-0.5,
        activation="silu",
        ropes=(Rope(1e7, width=64),),
        layers=tuple(Layer() if i % 4 == 3 else Layer(mixer="delta") for i in range(layers)),
        qk_norm=True,
        output_gate=True,
        delta_net=DeltaNet(16, value_heads, 128, 128, 4, tiled=True),
    )


_MISTRAL = ModelConfig(
    architecture="mistral",
    hidden=4096,
    heads=32,
    kv_heads=8,
    head_dim=128,
    ffn=14336,
    vocab=32768,
    context=32768,
    norm_eps=1e-5,
    query_scale=128**-0.5,
    activation="silu",
    ropes=(Rope(1e6),),
    layers=(Layer(),) * 32,
    tied=False,
    rope_pairs="interleaved",
)
_MIXTRAL = replace(_MISTRAL, architecture="mixtral", vocab=32000, experts=Experts(8, 2))
_GPT_OSS = ModelConfig(
    architecture="gpt-oss",
    hidden=2880,
    heads=64,
    kv_heads=8,
    head_dim=64,
    ffn=2880,
    vocab=201088,
    context=131072,
    norm_eps=1e-5,
    query_scale=64**-0.5,
    activation="swiglu_clamped",
    ropes=(
        Rope(
            150_000.0,
            "yarn",
            32.0,
            original_context=4096,
            whole_pairs=False,
            magnitude=yarn_magnitude(32.0),
        ),
    ),
    layers=tuple(Layer(0 if i % 2 else 128) for i in range(24)),
    biases=("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate_inp", *EXPERT_PARTS),
    tied=False,
    sinks=True,
    experts=Experts(32, 4),
)
SHAPES: Mapping[str, ModelConfig] = {
    "gemma-3-270m": _gemma(640, 4, 1, 2048, 262144, layers=18, window=512, context=32768, factor=1),
    "gemma-3-1b": _gemma(1152, 4, 1, 6912, 262144, layers=26, window=512, context=32768, factor=1),
    "gemma-3-4b": _gemma(
        2560, 8, 4, 10240, 262208, layers=34, window=1024, context=131072, factor=8
    ),
    "gemma-4-e2b": _gemma4(
        1536, 8, 1, 6144, layers=35, every=5, shared=20, shared_ffn=12288, per_layer=256
    ),
    "gemma-4-e4b": _gemma4(2560, 8, 2, 10240, layers=42, every=6, shared=18, per_layer=256),
    "gemma-4-12b": _gemma4(3840, 16, 8, 15360, layers=48, every=6, global_kv_heads=1),
    "gemma-4-26b-a4b": _gemma4(
        2816,
        16,
        8,
        2112,
        layers=30,
        every=6,
        global_kv_heads=2,
        experts=128,
        used=8,
        expert_ffn=704,
    ),
    "gemma-4-31b": _gemma4(5376, 32, 16, 21504, layers=60, every=6, global_kv_heads=4),
    "llama-3.2-1b": _llama(2048, 32, 64, 16),
    "llama-3.2-3b": _llama(3072, 24, 128, 28),
    "lfm2-350m": _lfm2(1024, 4608, (2, 5, 8, 10, 12, 14), 16),
    "lfm2-1.2b": _lfm2(2048, 8192, (2, 5, 8, 10, 12, 14), 16),
    "lfm2.5-230m": _lfm2(1024, 2560, (2, 4, 6, 8, 10, 12), 14),
    "qwen3.5-0.8b": _qwen35(1024, 8, 3584, 16, 24),
    "qwen3.5-2b": _qwen35(2048, 8, 6144, 16, 24),
    "qwen3.5-4b": _qwen35(2560, 16, 9216, 32, 32),
    "lfm2-8b-a1b": _lfm2_moe(),
    "mistral-7b": _MISTRAL,
    "mixtral-8x7b": _MIXTRAL,
    "gpt-oss-20b": _GPT_OSS,
}

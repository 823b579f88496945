"""The architectures that Doppler runs, as a table; nothing else knows their names.

`gguf_config` and `hf_config` read the two kinds of metadata with it; what an architecture computes
(which norms, which scale, which layers slide) are its fields.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from doppler.config.layer import Experts, Layer
from doppler.config.model import Activation, RopePairs
from doppler.errors import UnsupportedError
from doppler.formats.unknown import unknown

_LLAMA_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
# Of experts, "*" being the number of one; stacked ones have the names of formats/experts.py.
_EXPERTS_LAYER = _LLAMA_LAYER | {
    "mlp.gate": "ffn_gate_inp",
    "mlp.experts.*.gate_proj": "ffn_gate.*",
    "mlp.experts.*.up_proj": "ffn_up.*",
    "mlp.experts.*.down_proj": "ffn_down.*",
    "mlp.experts.gate_up_proj": "ffn_gate_up_exps",
    "mlp.experts.down_proj": "ffn_down_exps",
}
_SHARED_EXPERT_LAYER = _EXPERTS_LAYER | {
    "mlp.shared_expert.gate_proj": "ffn_gate",
    "mlp.shared_expert.up_proj": "ffn_up",
    "mlp.shared_expert.down_proj": "ffn_down",
    "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
}
_MIXTRAL_LAYER = _EXPERTS_LAYER | {
    "block_sparse_moe.gate": "ffn_gate_inp",
    "block_sparse_moe.experts.*.w1": "ffn_gate.*",
    "block_sparse_moe.experts.*.w3": "ffn_up.*",
    "block_sparse_moe.experts.*.w2": "ffn_down.*",
}
_GPT_OSS_LAYER = _LLAMA_LAYER | {
    "self_attn.sinks": "attn_sinks",
    "mlp.router": "ffn_gate_inp",
    "mlp.experts.gate_up_proj": "ffn_gate_up_columns",
    "mlp.experts.down_proj": "ffn_down_columns",
}
_GEMMA3_LAYER = _LLAMA_LAYER | {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
_GEMMA4_LAYER = _GEMMA3_LAYER | {
    "per_layer_input_gate": "inp_gate",
    "per_layer_projection": "proj",
    "post_per_layer_input_norm": "post_norm",
    "layer_scalar": "layer_output_scale",
}
_GEMMA4_EXPERTS = {
    "router.proj": "ffn_gate_inp",
    "router.scale": "ffn_gate_inp_norm",
    "router.per_expert_scale": "ffn_exps_scale",
    "experts.gate_up_proj": "ffn_gate_up_exps",
    "experts.down_proj": "ffn_down_exps",
    "pre_feedforward_layernorm_2": "pre_ffw_norm_2",
    "post_feedforward_layernorm_1": "post_ffw_norm_1",
    "post_feedforward_layernorm_2": "post_ffw_norm_2",
}
_FUSED_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_up_proj": "ffn_gate_up",
    "mlp.down_proj": "ffn_down",
}
_HEAD_NORMS = {"self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm"}
_QWEN_DEFAULTS = {
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "rope_theta": 10_000.0,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
}


@dataclass(frozen=True)
class ExpertKeys:
    """Where metadata says how many experts there are, how wide, and how they are added up.

    Keys are config.json's, but for those of `gguf`.
    """

    enabled: str | None = None  # a flag without which there are none; None: there always are
    count: tuple[str, ...] = ("num_local_experts", "num_experts")  # whichever is there
    used: str = "num_experts_per_tok"
    ffn: str = "intermediate_size"
    normed: str | None = None  # None: shares of those used always add up to one
    gguf_normed: bool = True  # where GGUF says nothing
    # Width of a dense FFN beside them; None: there is none.
    beside: str | None = None
    gguf_beside: str = "feed_forward_length"
    gated: bool = False  # as config.Experts has it, like the next
    own_norms: bool = False
    scaled: bool = False

    def experts(self, count: int, used: int, normed: bool, beside: int) -> Experts:
        """Those of a model with such numbers."""
        return Experts(count, used, normed, beside, self.gated, self.own_norms, self.scaled)


@dataclass(frozen=True)
class Architecture:
    """What a checkpoint's metadata leaves to be known. Bases are of rope, windows in tokens."""

    name: str
    hf_types: tuple[str, ...]  # model_type in config.json
    hf_layer: Mapping[str, str]  # module of a layer -> its GGUF name
    hf_defaults: Mapping[str, Any]  # what config.json may omit
    gguf_pairs: RopePairs
    activation: Activation
    hf_pairs: RopePairs = "half"
    gguf: str = ""  # general.architecture, and the prefix of its keys; empty: the name
    # Tensors of a layer, by name or by name and kind ("ffn_gate_inp.scale" -> "NAME.weight").
    gguf_renamed: Mapping[str, str] = field(default_factory=dict)
    hf_ffn: str = "intermediate_size"  # where there are no experts
    hf_needs: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)  # settings it must have
    hf_norm_offset: float = 0.0  # GGUF has the offset added already
    hf_activation: str = ""  # what config.json calls the activation; empty: as all do
    biases: tuple[str, ...] = ()  # matrices of a layer that have one
    embedding_scaled: bool = False  # embeddings × √hidden
    scaled: bool = False  # the metadata has four numbers of formats/scales.py
    qk_norm: bool = False
    norm_after_rope: bool = False
    post_norms: bool = False
    sinks: bool = False
    experts: ExpertKeys | None = None
    # Which layers see a window only, where there is one: all but every n-th, all, or those from
    # config.json's max_window_layers on (of which GGUF knows nothing).
    sliding: Literal["none", "pattern", "all", "later"] = "none"
    global_every: int = 0  # the n of the pattern
    local_base: float = 0.0  # of the layers with a window; 0: there is one rope for all
    yarn_whole_pairs: bool = True  # where GGUF says nothing
    query_scalars: Mapping[int, float] = field(default_factory=dict)  # by layers; else head_dim
    scores_scaled: bool = True  # by that; else not at all
    rope_factors: bool = False  # its GGUF files always have divisors of the frequencies
    value_norm: bool = False
    layer_scales: bool = False
    layers_differ: bool = False  # in widths, where metadata says so, and in whose keys they read
    still_every: int = 0  # n of every n-th layer that is without rope, where nothing says which
    reads: tuple[str, ...] = ()  # keys of metadata that must be neutral of other architectures

    def allows(self, has_experts: bool) -> bool:
        """Whether there are such models with experts, or without."""
        if self.experts is None:
            return not has_experts
        return has_experts or self.experts.enabled is not None

    def may_have(self, key: str, scales: Collection[str]) -> bool:
        """Whether a key that is neutral of others may not be; `scales` are those of scales.py."""
        return key in self.reads or (self.scaled and key in scales)

    @property
    def gguf_name(self) -> str:
        """general.architecture."""
        return self.gguf or self.name

    def layers(self, count: int, window: int, every: int | None = None) -> tuple[Layer, ...]:
        """Those of a pattern, where layer i (from 0) is global if (i + 1) % every == 0."""
        every = every or self.global_every
        return tuple(self.layer(0 if (i + 1) % every == 0 else window) for i in range(count))

    def turned(self, count: int, every: int | None = None) -> list[int]:
        """Of each layer: 1 where it has rope, 0 where not, as layer i has if (i + 1) % every == 0.

        For architectures that have such layers.
        """
        every = every or self.still_every
        return [int((i + 1) % every != 0) for i in range(count)]

    def layer(self, window: int) -> Layer:
        """One that sees a window, or all keys (0); of two ropes, the first is for windows."""
        return Layer(window, int(self.local_base > 0 and window == 0))


ARCHITECTURES = (
    Architecture(
        name="gemma3",
        hf_types=("gemma3_text", "gemma3"),
        hf_layer=_GEMMA3_LAYER | _HEAD_NORMS,
        hf_defaults={
            "vocab_size": 262208,
            "hidden_size": 2304,
            "intermediate_size": 9216,
            "num_hidden_layers": 26,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "hidden_activation": "gelu_pytorch_tanh",
            "max_position_embeddings": 131072,
            "rms_norm_eps": 1e-6,
            "tie_word_embeddings": True,
            "query_pre_attn_scalar": 256,
            "sliding_window": 4096,
            "rope_theta": 1_000_000.0,
        },
        hf_norm_offset=1.0,
        gguf_pairs="half",
        activation="gelu_tanh",
        embedding_scaled=True,
        qk_norm=True,
        post_norms=True,
        sliding="pattern",
        global_every=6,
        local_base=10_000.0,
        query_scalars={62: 168.0},  # the 27B: hidden / heads
    ),
    Architecture(
        name="gemma4",
        hf_types=("gemma4_text", "gemma4", "gemma4_unified_text", "gemma4_unified"),
        hf_layer=_GEMMA4_LAYER | _GEMMA4_EXPERTS | _HEAD_NORMS,
        hf_defaults={
            "vocab_size": 262144,
            "hidden_size": 2304,
            "intermediate_size": 9216,
            "num_hidden_layers": 30,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "hidden_activation": "gelu_pytorch_tanh",
            "max_position_embeddings": 131072,
            "rms_norm_eps": 1e-6,
            "tie_word_embeddings": True,
            "sliding_window": 512,
            "hidden_size_per_layer_input": 256,
            "global_head_dim": 512,
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
                "full_attention": {
                    "rope_type": "proportional",
                    "partial_rotary_factor": 0.25,
                    "rope_theta": 1_000_000.0,
                },
            },
        },
        gguf_pairs="half",
        gguf_renamed={
            "ffn_gate_inp.scale": "ffn_gate_inp_norm.weight",
            "ffn_down_exps.scale": "ffn_exps_scale.weight",
        },
        activation="gelu_tanh",
        embedding_scaled=True,
        qk_norm=True,
        post_norms=True,
        sliding="pattern",
        global_every=6,
        local_base=10_000.0,
        scores_scaled=False,
        experts=ExpertKeys(
            enabled="enable_moe_block",
            used="top_k_experts",
            ffn="moe_intermediate_size",
            beside="intermediate_size",
            own_norms=True,
            scaled=True,
        ),
        value_norm=True,
        layer_scales=True,
        layers_differ=True,
        rope_factors=True,
        reads=(
            "final_logit_softcapping",
            "attention_k_eq_v",
            "enable_moe_block",
            "num_kv_shared_layers",
            "hidden_size_per_layer_input",
            "attention.shared_kv_layers",
        ),
    ),
    Architecture(
        name="llama",
        hf_types=("llama",),
        hf_layer=_LLAMA_LAYER,
        hf_defaults={
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-6,
            "hidden_act": "silu",
            "tie_word_embeddings": False,
            "rope_theta": 10_000.0,
        },
        gguf_pairs="interleaved",
        activation="silu",
    ),
    Architecture(  # whose GGUF files are llama's
        name="mistral",
        hf_types=("mistral",),
        hf_layer=_LLAMA_LAYER,
        hf_defaults={
            "vocab_size": 32000,
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "max_position_embeddings": 131072,
            "rms_norm_eps": 1e-6,
            "hidden_act": "silu",
            "tie_word_embeddings": False,
            "sliding_window": 4096,
            "rope_theta": 10_000.0,
        },
        gguf="llama",
        gguf_pairs="interleaved",
        activation="silu",
        sliding="all",
    ),
    Architecture(
        name="qwen2",
        hf_types=("qwen2",),
        hf_layer=_LLAMA_LAYER,
        hf_defaults=_QWEN_DEFAULTS,
        gguf_pairs="half",
        activation="silu",
        biases=("attn_q", "attn_k", "attn_v"),
        sliding="later",
    ),
    Architecture(
        name="qwen2moe",
        hf_types=("qwen2_moe",),
        hf_layer=_SHARED_EXPERT_LAYER,
        hf_defaults={
            **_QWEN_DEFAULTS,
            "num_experts": 60,
            "num_experts_per_tok": 4,
            "moe_intermediate_size": 1408,
            "shared_expert_intermediate_size": 5632,
            "norm_topk_prob": False,
        },
        gguf_pairs="half",
        gguf_renamed={
            "ffn_gate_shexp": "ffn_gate",
            "ffn_up_shexp": "ffn_up",
            "ffn_down_shexp": "ffn_down",
        },
        activation="silu",
        biases=("attn_q", "attn_k", "attn_v"),
        experts=ExpertKeys(
            ffn="moe_intermediate_size",
            normed="norm_topk_prob",
            gguf_normed=False,
            beside="shared_expert_intermediate_size",
            gguf_beside="expert_shared_feed_forward_length",
            gated=True,
        ),
        sliding="later",
        reads=("shared_expert_intermediate_size", "expert_shared_feed_forward_length"),
    ),
    Architecture(
        name="qwen3",
        hf_types=("qwen3",),
        hf_layer=_LLAMA_LAYER | _HEAD_NORMS,
        hf_defaults={**_QWEN_DEFAULTS, "head_dim": 128},
        gguf_pairs="half",
        activation="silu",
        qk_norm=True,
        sliding="later",
    ),
    Architecture(
        name="qwen3moe",
        hf_types=("qwen3_moe",),
        hf_layer=_EXPERTS_LAYER | _HEAD_NORMS,
        hf_defaults={
            **_QWEN_DEFAULTS,
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "moe_intermediate_size": 768,
            "norm_topk_prob": False,
        },
        gguf_pairs="half",
        activation="silu",
        qk_norm=True,
        experts=ExpertKeys(ffn="moe_intermediate_size", normed="norm_topk_prob"),
        sliding="all",
    ),
    Architecture(
        name="mixtral",
        hf_types=("mixtral",),
        hf_layer=_MIXTRAL_LAYER,
        hf_defaults={
            "max_position_embeddings": 131072,
            "rms_norm_eps": 1e-5,
            "hidden_act": "silu",
            "tie_word_embeddings": False,
            "rope_theta": 1_000_000.0,
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
        },
        gguf="llama",
        gguf_pairs="interleaved",
        activation="silu",
        experts=ExpertKeys(),
        sliding="all",
    ),
    Architecture(
        name="granite",
        hf_types=("granite",),
        hf_layer=_LLAMA_LAYER,
        hf_defaults={
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-6,
            "hidden_act": "silu",
            "tie_word_embeddings": False,
            "rope_theta": 10_000.0,
        },
        gguf_pairs="interleaved",
        activation="silu",
        scaled=True,
        # The FFN of Granite 4 is what a mixture would have for all tokens.
        reads=("rope.scaling.finetuned", "expert_shared_feed_forward_length"),
    ),
    Architecture(  # Granite 4 without Mamba, whose GGUF files are granite's
        name="granitemoehybrid",
        hf_types=("granitemoehybrid",),
        hf_layer=_LLAMA_LAYER
        | {"shared_mlp.input_linear": "ffn_gate_up", "shared_mlp.output_linear": "ffn_down"},
        hf_defaults={
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-6,
            "hidden_act": "silu",
            "tie_word_embeddings": False,
            "rope_theta": 10_000.0,
            "shared_intermediate_size": 1024,
            "num_local_experts": 8,
            "layer_types": ["mamba"],
        },
        hf_ffn="shared_intermediate_size",
        hf_needs={"num_local_experts": (0,)},
        gguf="granite",
        gguf_pairs="interleaved",
        activation="silu",
        scaled=True,
        reads=("position_embedding_type",),
    ),
    Architecture(
        name="smollm3",
        hf_types=("smollm3",),
        hf_layer=_LLAMA_LAYER,
        hf_defaults={
            "vocab_size": 128256,
            "hidden_size": 2048,
            "intermediate_size": 11008,
            "num_hidden_layers": 36,
            "num_attention_heads": 16,
            "num_key_value_heads": 4,
            "max_position_embeddings": 32768,
            "rms_norm_eps": 1e-6,
            "hidden_act": "silu",
            "tie_word_embeddings": True,
            "rope_theta": 2_000_000.0,
        },
        gguf_pairs="interleaved",
        activation="silu",
        hf_needs={"use_sliding_window": (False,)},  # those without rope would slide
        still_every=4,
        reads=("no_rope_layers",),
    ),
    Architecture(
        name="phi3",
        hf_types=("phi3",),
        hf_layer=_FUSED_LAYER,
        hf_defaults={
            "vocab_size": 32064,
            "hidden_size": 3072,
            "intermediate_size": 8192,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "max_position_embeddings": 4096,
            "original_max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5,
            "hidden_act": "silu",
            "tie_word_embeddings": False,
            "rope_theta": 10_000.0,
        },
        gguf_pairs="half",
        gguf_renamed={"ffn_up": "ffn_gate_up"},
        activation="silu",
        sliding="all",
        reads=("partial_rotary_factor", "rope.dimension_count"),
    ),
    Architecture(
        name="ernie4_5",
        hf_types=("ernie4_5",),
        hf_layer=_LLAMA_LAYER,
        hf_defaults={
            "vocab_size": 103424,
            "hidden_size": 1024,
            "intermediate_size": 3072,
            "num_hidden_layers": 18,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "head_dim": 128,
            "max_position_embeddings": 131072,
            "rms_norm_eps": 1e-5,
            "hidden_act": "silu",
            "tie_word_embeddings": True,
            "rope_theta": 500_000.0,
        },
        hf_pairs="interleaved",
        gguf_pairs="interleaved",
        activation="silu",
    ),
    Architecture(
        name="hunyuan-dense",
        hf_types=("hunyuan_v1_dense",),
        hf_layer=_LLAMA_LAYER
        | {"self_attn.query_layernorm": "attn_q_norm", "self_attn.key_layernorm": "attn_k_norm"},
        hf_defaults={
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-5,
            "hidden_act": "silu",
            "tie_word_embeddings": False,
            "rope_theta": 10_000.0,
        },
        gguf_pairs="half",
        activation="silu",
        qk_norm=True,
        norm_after_rope=True,
        reads=("use_qk_norm", "alpha"),
    ),
    Architecture(
        name="mistral3",
        hf_types=("ministral3",),
        hf_layer=_LLAMA_LAYER,
        hf_defaults={
            "vocab_size": 131072,
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 34,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "max_position_embeddings": 262144,
            "rms_norm_eps": 1e-5,
            "hidden_act": "silu",
            "tie_word_embeddings": False,
        },
        gguf_pairs="interleaved",
        activation="silu",
        sliding="all",
        reads=(
            "llama_4_scaling_beta",
            "attention.temperature_scale",
            "rope.scaling.yarn_log_multiplier",
        ),
    ),
    Architecture(
        name="gpt-oss",
        hf_types=("gpt_oss",),
        hf_layer=_GPT_OSS_LAYER,
        hf_defaults={
            "head_dim": 64,
            "max_position_embeddings": 131072,
            "rms_norm_eps": 1e-5,
            "hidden_act": "silu",
            "tie_word_embeddings": False,
            "rope_theta": 150_000.0,
            "sliding_window": 128,
            "num_local_experts": 128,
            "num_experts_per_tok": 4,
            "attention_bias": True,
        },
        gguf_pairs="half",
        gguf_renamed={"post_attention_norm": "ffn_norm"},
        hf_activation="silu",
        activation="swiglu_clamped",
        biases=(
            "attn_q",
            "attn_k",
            "attn_v",
            "attn_output",
            "ffn_gate_inp",
            "ffn_gate",
            "ffn_up",
            "ffn_down",
        ),
        sinks=True,
        experts=ExpertKeys(),
        sliding="pattern",
        global_every=2,
        yarn_whole_pairs=False,
    ),
)


def of_gguf(name: Any, has_experts: bool, where: str) -> Architecture:
    """The first architecture of that general.architecture; UnsupportedError where there is none."""
    alike = [a for a in reversed(ARCHITECTURES) if a.allows(has_experts)]
    known = {a.gguf_name: a for a in alike}
    if isinstance(name, str) and name not in known and name in {a.gguf_name for a in ARCHITECTURES}:
        kind = "with" if has_experts else "without"
        raise UnsupportedError(f"{where}: Doppler does not know {name} {kind} experts")
    return _find(known, name, where)


def of_hf(model_type: Any, where: str) -> Architecture:
    """The architecture of that model_type; UnsupportedError where there is none."""
    return _find({kind: a for a in ARCHITECTURES for kind in a.hf_types}, model_type, where)


def _find(known: Mapping[str, Architecture], name: Any, where: str) -> Architecture:
    if name == "clip":
        raise UnsupportedError(
            f"{where} holds the part that sees or hears (clip, often called mmproj) of a model; "
            "choose the file of its text model"
        )
    if not isinstance(name, str) or name not in known:
        raise unknown(name, {a.name for a in ARCHITECTURES}, where)
    return known[name]

"""The architectures that Doppler runs, as a table; nothing else knows their names.

`gguf_config` and `hf_config` read the two kinds of metadata with it; NUMERICS of each architecture
(which norms, which scale, which layers slide) are its fields.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from doppler.config import Activation, Layer, ModelConfig, RopePairs
from doppler.errors import FormatError, UnsupportedError

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
_GEMMA3_LAYER = _LLAMA_LAYER | {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
}
_QWEN3_LAYER = _LLAMA_LAYER | {
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
}
_OUTER = {
    "embed_tokens.weight": "token_embd.weight",
    "norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_QWEN_DEFAULTS = {
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "rope_theta": 10_000.0,
}
_TEXT_PREFIXES = ("language_model.model.", "model.language_model.", "language_model.", "model.")
MOST_LAYERS = 4096  # no model has as many; a damaged count must not fill the memory
_IGNORED = ("vision_tower.", "multi_modal_projector.", "vision_model.")


@dataclass(frozen=True)
class Architecture:
    """What a checkpoint's metadata leaves to be known. Bases are of rope, windows in tokens."""

    name: str  # general.architecture in GGUF, and the prefix of its keys
    hf_types: tuple[str, ...]  # model_type in config.json
    hf_layer: Mapping[str, str]  # module of a layer -> its GGUF name
    hf_defaults: Mapping[str, Any]  # what config.json may omit
    hf_norm_offset: float  # GGUF has the offset added already
    gguf_pairs: RopePairs
    activation: Activation
    biases: tuple[str, ...] = ()  # matrices of a layer that have one
    embedding_scaled: bool = False  # embeddings × √hidden
    qk_norm: bool = False
    post_norms: bool = False
    global_every: int = 0  # every n-th layer sees all keys, the others a window; 0: all see all
    local_base: float = 0.0  # of the layers with a window
    query_scalars: Mapping[int, float] = field(default_factory=dict)  # by layers; else head_dim

    def layers(self, count: int, window: int, every: int | None = None) -> tuple[Layer, ...]:
        """Layer i (from 0) is global where (i + 1) % every == 0; ropes are (local, global)."""
        if count > MOST_LAYERS:
            raise FormatError(f"config: {count} layers are more than the {MOST_LAYERS} that can be")
        every = self.global_every if every is None else every
        if not every:
            return (Layer(),) * count
        return tuple(
            Layer(window=0, rope=1) if (i + 1) % every == 0 else Layer(window=window, rope=0)
            for i in range(count)
        )


ARCHITECTURES = (
    Architecture(
        name="gemma3",
        hf_types=("gemma3_text", "gemma3"),
        hf_layer=_GEMMA3_LAYER,
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
        global_every=6,
        local_base=10_000.0,
        query_scalars={62: 168.0},  # the 27B: hidden / heads
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
        hf_norm_offset=0.0,
        gguf_pairs="interleaved",
        activation="silu",
    ),
    Architecture(
        name="qwen2",
        hf_types=("qwen2",),
        hf_layer=_LLAMA_LAYER,
        hf_defaults=_QWEN_DEFAULTS,
        hf_norm_offset=0.0,
        gguf_pairs="half",
        activation="silu",
        biases=("attn_q", "attn_k", "attn_v"),
    ),
    Architecture(
        name="qwen3",
        hf_types=("qwen3",),
        hf_layer=_QWEN3_LAYER,
        hf_defaults={**_QWEN_DEFAULTS, "head_dim": 128},
        hf_norm_offset=0.0,
        gguf_pairs="half",
        activation="silu",
        qk_norm=True,
    ),
)


def of_gguf(name: Any, where: str) -> Architecture:
    """The architecture of that general.architecture; UnsupportedError where there is none."""
    return _find({a.name: a for a in ARCHITECTURES}, name, where)


def of_hf(model_type: Any, where: str) -> Architecture:
    """The architecture of that model_type; UnsupportedError where there is none."""
    return _find({kind: a for a in ARCHITECTURES for kind in a.hf_types}, model_type, where)


def _find(known: Mapping[str, Architecture], name: Any, where: str) -> Architecture:
    if not isinstance(name, str) or name not in known:
        raise UnsupportedError(
            f"{where}: Doppler does not know the architecture {name!r}; it knows {', '.join(known)}"
        )
    return known[name]


def gguf_names(architecture: Architecture, names: Iterable[str], where: str) -> dict[str, str]:
    """Hugging Face tensor names -> GGUF names. What belongs to no text model is left out.

    Raises UnsupportedError for a tensor that the architecture does not have (a bias, say): to leave
    it out would change the model.
    """
    renamed: dict[str, str] = {}
    for name in names:
        short = _without_prefix(name)
        if short.startswith(_IGNORED) or short.endswith("rotary_emb.inv_freq"):
            continue
        gguf = _OUTER.get(short) or _layer_name(architecture, short)
        if gguf is None:
            raise UnsupportedError(
                f"{where}: tensor {name!r} is none that a {architecture.name} model has here; "
                "Doppler does not support this variant"
            )
        renamed[name] = gguf
    return renamed


def _without_prefix(name: str) -> str:
    prefix = next((p for p in _TEXT_PREFIXES if name.startswith(p)), "")
    return name[len(prefix) :]


def _layer_name(architecture: Architecture, short: str) -> str | None:
    """layers.3.self_attn.q_proj.weight -> blk.3.attn_q.weight; None for what it does not know."""
    parts = short.split(".")
    if len(parts) < 4 or parts[0] != "layers" or not parts[1].isdigit():
        return None
    module = architecture.hf_layer.get(".".join(parts[2:-1]))
    has = parts[-1] == "weight" or (parts[-1] == "bias" and module in architecture.biases)
    return f"blk.{int(parts[1])}.{module}.{parts[-1]}" if module and has else None


def check_tensors(config: ModelConfig, shapes: Mapping[str, tuple[int, ...]], where: str) -> None:
    """FormatError for a tensor that is missing or misshapen, UnsupportedError for an unknown one.

    `shapes` are by GGUF name.
    """
    wanted = config.tensor_shapes()
    for name, shape in wanted.items():
        if name not in shapes:
            raise FormatError(
                f"{where}: tensor {name!r} of shape {shape} is missing; the file is incomplete"
            )
        if shapes[name] != shape:
            raise FormatError(
                f"{where}: tensor {name!r} has shape {shapes[name]}, the config asks for {shape}"
            )
    for name in shapes:
        if name not in wanted:
            raise UnsupportedError(
                f"{where}: tensor {name!r} is none that a {config.architecture} model has here; "
                "Doppler does not support this variant"
            )

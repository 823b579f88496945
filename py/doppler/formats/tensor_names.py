"""Tensors by GGUF's names, whatever a checkpoint calls them; and whether all of them are there."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import TypeVar

from doppler.config.model import ModelConfig
from doppler.errors import FormatError, UnsupportedError
from doppler.formats.architecture import Architecture
from doppler.formats.hf_quantization import quantised_as, what_to_do
from doppler.inputs.fields import shown

T = TypeVar("T")

_OUTER = {
    "embed_tokens.weight": "token_embd.weight",
    "norm.weight": "output_norm.weight",
    "embedding_norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    "embed_tokens_per_layer.weight": "per_layer_token_embd.weight",
    "per_layer_model_projection.weight": "per_layer_model_proj.weight",
    "per_layer_projection_norm.weight": "per_layer_proj_norm.weight",
}
_TEXT_PREFIXES = (
    "language_model.model.",
    "model.language_model.",
    "model.text_model.",
    "language_model.",
    "model.",
)
# Of what sees or hears beside the text model, or drafts its tokens; and what is computed.
_OTHER_PARTS = (
    *("vision_tower.", "vision_model.", "vision_encoder.", "visual.", "vision_embed_tokens."),
    *("multi_modal_projector.", "mm_projector.", "vision_projector.", "mlp1.", "connector."),
    *("audio_tower.", "audio_model.", "audio_encoder.", "audio_projector.", "image_newline"),
    *("embed_vision.", "embed_audio.", "vision_embedder.", "mtp."),
)
_COMPUTED = (
    *("rotary_emb.inv_freq", "rotary_emb.cos_cached", "rotary_emb.sin_cached"),
    *(".attn.bias", ".attn.masked_bias", ".masked_bias", "position_ids", ".causal_mask"),
)
_OTHER_GGUF_PARTS = ("v.", "mm.", "a.")
_COMPUTED_GGUF = (
    *("attn_rot_embd.weight", "rope_freqs.weight"),
    *("rope_factors_short.weight", "rope_factors_long.weight"),
)
_LAYER = re.compile(r"layers\.([0-9]{1,6})\.(.+)")
_PREDICTS = re.compile(r"(layers\.[0-9]{1,6})\.eh_proj\.weight")
_BLOCK = re.compile(r"blk\.([0-9]{1,6})\.")
_KEYS = ("attn_k", "attn_v", "attn_k_norm")
_KINDS = {".": ("weight", "bias"), "_": ("bias", "blocks", "scales")}
_EXPERT = re.compile(r"(?<=experts\.)[0-9]{1,6}(?=\.)")


def gguf_names(architecture: Architecture, names: Iterable[str], where: str) -> dict[str, str]:
    """Hugging Face tensor names -> GGUF names. What belongs to no text model is left out.

    Raises UnsupportedError for a tensor that the architecture does not have (a bias, say): to leave
    it out would change the model.
    """
    renamed: dict[str, str] = {}
    shorts = {name: _without_prefix(name) for name in names}
    beyond = _predicting(shorts.values())
    for name, short in shorts.items():
        if short.startswith(_OTHER_PARTS) or short.endswith(_COMPUTED):
            continue
        if beyond and _is_of(short, beyond):
            continue
        gguf = _gguf_name(architecture, short)
        if gguf is None:
            if (kind := quantised_as(name)) is not None:
                raise UnsupportedError(f"{where}: tensor {shown(name)}: {what_to_do(kind)}")
            raise UnsupportedError(f"{where}: {_odd(architecture.name, name)}")
        renamed[name] = gguf
    return renamed


def weight_of_module(architecture: Architecture, module: str) -> str | None:
    """The GGUF name of a Hugging Face module's weight; None for one that the architecture does not
    have. It may be that of a tensor which holds several of the model's.
    """
    return _gguf_name(architecture, _without_prefix(f"{module}.weight"))


def is_beside_text(module: str) -> bool:
    """Whether a Hugging Face module is of what sees or hears beside the text model."""
    return _without_prefix(f"{module}.").startswith(_OTHER_PARTS)


def _gguf_name(architecture: Architecture, short: str) -> str | None:
    return _OUTER.get(short) or _layer_name(architecture, short)


def _predicting(names: Iterable[str]) -> set[str]:
    """Layers, as names begin, that predict further tokens: from embeddings beside states."""
    return {match[1] for name in names if (match := _PREDICTS.fullmatch(name))}


def _is_of(name: str, layers: Collection[str]) -> bool:
    """Whether a tensor is of one of those layers."""
    return ".".join(name.split(".", 2)[:2]) in layers


def is_of_other_part(name: str) -> bool:
    """Whether a GGUF file's tensor is of what sees or hears beside the text model."""
    return name.startswith(_OTHER_GGUF_PARTS)


def is_of_text_model(name: str) -> bool:
    """Whether a GGUF file's tensor is learnt and of the text model."""
    return not is_of_other_part(name) and not name.endswith(_COMPUTED_GGUF)


def is_of_layers(name: str, count: int | None) -> bool:
    """Whether a GGUF file's tensor is of the first `count` layers, or of none: others may follow,
    which draft tokens (None: no others may).
    """
    match = _BLOCK.match(name)
    return match is None or count is None or int(match[1]) < count


def our_name(architecture: Architecture, name: str) -> str:
    """A GGUF file's tensor name -> ours, which are GGUF's, but that a few mean something else."""
    parts, renamed = name.split("."), architecture.gguf_renamed
    if len(parts) > 2 and parts[0] == "blk":
        own = ".".join(parts[2:])
        parts[2] = renamed.get(parts[2], parts[2])
        if own in renamed:
            parts[2:] = [renamed[own]]
    elif len(parts) == 2:
        parts[0] = renamed.get(parts[0], parts[0])
    return ".".join(parts)


def _without_prefix(name: str) -> str:
    prefix = next((p for p in _TEXT_PREFIXES if name.startswith(p)), "")
    return name[len(prefix) :]


def _layer_name(architecture: Architecture, short: str) -> str | None:
    """layers.3.self_attn.q_proj.weight -> blk.3.attn_q.weight; None for what it does not know."""
    match = _LAYER.fullmatch(short)
    if match is None:
        return None
    layer, path = match.groups()
    expert = _EXPERT.search(path)
    path = _EXPERT.sub("*", path)
    path, kind = (path, "weight") if path in architecture.hf_layer else _kind_of(path)
    module = architecture.hf_layer.get(path)
    if module is None or (kind == "bias" and not _has_bias(architecture, module)):
        return None
    if kind in ("blocks", "scales") and not module.endswith("_columns"):
        return None
    number = str(int(expert[0])) if expert else ""
    return f"blk.{int(layer)}.{module.replace('*', number)}.{kind}"


def _kind_of(path: str) -> tuple[str, str]:
    """(module, kind of tensor); a parameter that is no module's is its own weight."""
    for separator in (".", "_"):
        head, _, kind = path.rpartition(separator)
        if head and kind in _KINDS[separator]:
            return head, kind
    return path, "weight"


def _has_bias(architecture: Architecture, module: str) -> bool:
    return any(module.startswith(name) for name in architecture.biases)


def without_unread(config: ModelConfig, contents: Mapping[str, T]) -> dict[str, T]:
    """Without the keys and values that some files hold of layers which read those of others."""
    unread = {
        f"blk.{index}.{name}.weight"
        for index, layer in enumerate(config.layers)
        for name in (_KEYS if layer.shares >= 0 else ())
    }
    return {name: content for name, content in contents.items() if name not in unread}


def check_tensors(config: ModelConfig, shapes: Mapping[str, tuple[int, ...]], where: str) -> None:
    """FormatError for a tensor that is missing or misshapen, UnsupportedError for an unknown one.

    `shapes` are by GGUF name.
    """
    wanted = set()
    for name, shape in config.each_shape():  # ends at the first one missing, whatever is claimed
        wanted.add(name)
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
            raise UnsupportedError(f"{where}: {_odd(config.architecture, name)}")


def _odd(architecture: str, name: str) -> str:
    return (
        f"tensor {shown(name)} is none that a {architecture} model has here; Doppler does not "
        "support this variant"
    )

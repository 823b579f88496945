"""Widths of heads and FFN in a GGUF file, and whose keys a layer reads: alike in all, or not."""

from __future__ import annotations

from dataclasses import dataclass, replace

from doppler.config.layer import Layer
from doppler.errors import UnsupportedError
from doppler.formats.architecture import Architecture
from doppler.formats.dense_layers import with_dense_layers
from doppler.formats.gguf import Gguf
from doppler.formats.gguf_keys import Keys
from doppler.formats.hf_layers import Sources, reading

_KV_HEADS, _FFN = "attention.head_count_kv", "feed_forward_length"
_EXPERT_FFN = "expert_feed_forward_length"
_KEY, _SLIDING_KEY = "attention.key_length", "attention.key_length_swa"


@dataclass(frozen=True)
class Widths:
    """Those of a model, and its layers with what they have of their own."""

    head_dim: int
    kv_heads: int
    ffn: int
    layers: tuple[Layer, ...]


def widths_of(
    architecture: Architecture, gguf: Gguf, keys: Keys, layers: tuple[Layer, ...]
) -> Widths:
    """The widths of layers of which windows and ropes are known.

    Raises UnsupportedError where they differ and the architecture's do not.
    """
    if architecture.layers_differ:
        return _of_each(gguf, keys, layers)
    heads = keys.integer("attention.head_count", least=1)
    default = keys.integer("embedding_length", least=1) // heads
    own = keys.integer(_EXPERT_FFN, 0) if architecture.experts else 0
    ffn = own or keys.integer(_FFN)
    if "conv" in architecture.mixers.values():
        kv_heads, layers = _with_convolutions(keys, layers)
    else:
        kv_heads = keys.integer(_KV_HEADS, heads)
    if architecture.experts and architecture.experts.first_dense:
        dense = keys.integer("leading_dense_block_count", 0)
        layers = with_dense_layers(layers, dense, keys.integer(_FFN), ffn)
    if architecture.experts is None:
        keys.need("expert_shared_feed_forward_length", (0, ffn))
    return Widths(_head_dim(architecture, keys, default), kv_heads, ffn, layers)


def _with_convolutions(keys: Keys, layers: tuple[Layer, ...]) -> tuple[int, tuple[Layer, ...]]:
    """(key heads of those that attend, layers): those without key heads convolve instead."""
    counts = keys.widths(_KV_HEADS, len(layers), least=0)
    kinds = {*counts} - {0}
    if len(kinds) > 1:
        raise UnsupportedError(f"{keys.where}: {keys.prefix}{_KV_HEADS} differs between layers")
    found = (layer if n else Layer(mixer="conv") for layer, n in zip(layers, counts, strict=True))
    return max(kinds, default=1), tuple(found)


def _head_dim(architecture: Architecture, keys: Keys, default: int) -> int:
    """The width of a head, which rope must turn as a whole, unless an architecture's may not."""
    rotated = keys.integer("rope.dimension_count", 0)
    if "rope.dimension_count" in architecture.reads:
        rotated = 0
    head_dim = keys.integer(_KEY, rotated or default, least=1)
    if rotated not in (0, head_dim):
        raise UnsupportedError(f"{keys.where}: rope turns {rotated} of {head_dim} dimensions only")
    if keys.integer("attention.value_length", head_dim) != head_dim:
        raise UnsupportedError(f"{keys.where}: keys and values have different widths")
    for key in (_SLIDING_KEY, "attention.value_length_swa", "rope.dimension_count_swa"):
        keys.need(key, (0, head_dim))
    return head_dim


def _of_each(gguf: Gguf, keys: Keys, layers: tuple[Layer, ...]) -> Widths:
    """Those of the first layer, and what others have instead.

    No key says which keys are values too: the tensors of those values are missing.
    """
    kv_heads, ffn = keys.widths(_KV_HEADS, len(layers)), keys.widths(_FFN, len(layers))
    if keys.integer("expert_count", 0):
        ffn = [keys.integer(_EXPERT_FFN, least=1)] * len(layers)
    whole = keys.integer(_KEY, least=1)
    sliding = keys.integer(_SLIDING_KEY, whole, least=1)
    for key, width in (("value_length", whole), ("value_length_swa", sliding)):
        keys.need(f"attention.{key}", (0, width))
    for key, width in (("dimension_count", whole), ("dimension_count_swa", sliding)):
        keys.need(f"rope.{key}", (0, width))
    widths = [sliding if layer.window else whole for layer in layers]
    shared = keys.integer("attention.shared_kv_layers", 0, most=len(layers) - 1)
    first, found = len(layers) - shared, list[Layer]()
    sources: Sources = {}
    for index, layer in enumerate(layers):
        own = replace(layer, ffn=_if_other(ffn[index], ffn[0]))
        if index >= first:
            found.append(reading(sources, own, keys.where))
            continue
        sources[layer.window, layer.rope] = index
        head_dim, heads = (
            _if_other(widths[index], widths[0]),
            _if_other(kv_heads[index], kv_heads[0]),
        )
        are_values = f"blk.{index}.attn_v.weight" not in gguf.tensors
        found.append(replace(own, head_dim=head_dim, kv_heads=heads, are_values=are_values))
    return Widths(widths[0], kv_heads[0], ffn[0], tuple(found))


def _if_other(width: int, usual: int) -> int:
    """0 for what need not be said."""
    return 0 if width == usual else width

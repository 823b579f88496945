"""What differs between layers in config.json: widths of heads and FFN, and whose keys are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from doppler.config.layer import Layer
from doppler.errors import FormatError, UnsupportedError
from doppler.inputs.fields import Fields, shown

_WIDTHS = ("head_dim", "num_key_value_heads")  # that per_layer_config has, by layer


def with_own_widths(fields: Fields, layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """Layers, of which windows and ropes are known, with the rest of what config.json says.

    transformers 5 has `per_layer_config`; files as published have `global_head_dim` and
    `num_global_key_value_heads`, of layers without a window.
    """
    return _sharing(fields, [_wide(fields, index, layer) for index, layer in enumerate(layers)])


def _wide(fields: Fields, index: int, layer: Layer) -> Layer:
    own, is_global = fields.table("per_layer_config").table(str(index)), layer.window == 0
    for key in own:
        if key not in _WIDTHS:
            raise UnsupportedError(
                f"{own.where}: {own.prefix}{shown(key)[1:-1]} is of one layer, which Doppler "
                "cannot do"
            )
    pairs = fields.flag("attention_k_eq_v", False)
    head_dim, kv_heads = fields.integer("head_dim", 0), fields.integer("num_key_value_heads", 0)
    own_dim, own_heads = own.integer("head_dim", head_dim), own.integer(_WIDTHS[1], kv_heads)
    if is_global and not fields.has("per_layer_config"):
        own_dim = fields.integer("global_head_dim", head_dim)
        own_heads = fields.integer("num_global_key_value_heads", kv_heads) if pairs else kv_heads
    return replace(
        layer,
        head_dim=0 if own_dim == head_dim else own_dim,
        kv_heads=0 if own_heads == kv_heads else own_heads,
        are_values=pairs and is_global,
    )


def _sharing(fields: Fields, layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """The last ones read the keys of the last below them that has its own and sees as many."""
    count = fields.integer("num_kv_shared_layers", 0, least=0, most=len(layers) - 1)
    if not count:
        return tuple(layers)
    ffn = fields.integer("intermediate_size")
    ffn = 2 * ffn if fields.flag("use_double_wide_mlp", False) else 0
    own = layers[:-count]
    return (*own, *(replace(reading(own, it, fields.where), ffn=ffn) for it in layers[-count:]))


def reading(own: Sequence[Layer], layer: Layer, where: str) -> Layer:
    """A layer that reads the keys and values of the last of `own` that is of its kind.

    Raises FormatError where there is none.
    """
    alike = (
        index
        for index in reversed(range(len(own)))
        if (own[index].window, own[index].rope) == (layer.window, layer.rope)
    )
    source = next(alike, None)
    if source is None:
        raise FormatError(f"{where}: no layer has the keys that others are to share with it")
    return replace(layer, head_dim=0, kv_heads=0, are_values=False, shares=source)

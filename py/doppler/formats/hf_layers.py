"""What differs between layers in config.json: widths of heads and FFN, and whose keys are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from doppler.config.layer import Layer
from doppler.errors import FormatError, UnsupportedError
from doppler.inputs.fields import Fields, shown

Sources = dict[tuple[int, int], int]  # by window and rope: the last layer that has keys
_WIDTHS = ("head_dim", "num_key_value_heads")  # that per_layer_config has, by layer


def with_own_widths(fields: Fields, layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """Layers, of which windows and ropes are known, with the rest of what config.json says.

    transformers 5 has `per_layer_config`; files as published have `global_head_dim` and
    `num_global_key_value_heads`, of layers without a window. The last layer has none: transformers
    does without one that is said to be there.
    """
    if layers[-1].window:
        raise UnsupportedError(f"{fields.where}: layer_types ends with a layer that slides")
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
    sources: Sources = {(layer.window, layer.rope): index for index, layer in enumerate(own)}
    rest = (reading(sources, layer, fields.where) for layer in layers[-count:])
    return (*own, *(replace(layer, ffn=ffn) for layer in rest))


def reading(sources: Sources, layer: Layer, where: str) -> Layer:
    """A layer that reads the keys and values of the last one of its kind that has some.

    Raises FormatError where there is none.
    """
    source = sources.get((layer.window, layer.rope))
    if source is None:
        raise FormatError(f"{where}: no layer has the keys that others are to share with it")
    return replace(layer, head_dim=0, kv_heads=0, are_values=False, shares=source)

"""What LFM2's config.json says otherwise than others: which layers attend, and the FFN's width."""

from __future__ import annotations

from collections.abc import Sequence

from doppler.config.layer import Layer
from doppler.config.mixers import ShortConv
from doppler.inputs.fields import LARGEST_INT, Fields


def short_conv(fields: Fields, layers: Sequence[Layer]) -> ShortConv | None:
    """Of the layers that have one."""
    if not any(layer.mixer == "conv" for layer in layers):
        return None
    return ShortConv(fields.integer("conv_L_cache"))


def layer_types(fields: Fields, count: int) -> list[str]:
    """As newer files have them; in older ones there are the indices of layers that attend."""
    attending = {*fields.integers("full_attn_idxs", list(range(count)))}
    return ["full_attention" if i in attending else "conv" for i in range(count)]


def adjusted(fields: Fields, ffn: int) -> int:
    """The width of an FFN of which config.json has one without gates: two thirds, rounded up.

    As transformers computes it, with floats.
    """
    if not fields.flag("block_auto_adjust_ff_dim"):
        return ffn
    width = int(2 * ffn / 3)
    key, multiple = "block_ffn_dim_multiplier", fields.integer("block_multiple_of", least=1)
    if fields.has(key):
        width = int(fields.number(key, least=0) * width)
        width = -(-width // multiple) * multiple
    if width > LARGEST_INT:
        raise fields.error(key, f"so small that FFNs are at most {LARGEST_INT} wide")
    return width

"""The first layers of a mixture, whose FFNs may be dense, and wider than an expert."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from doppler.config.layer import Layer


def with_dense_layers(
    layers: Sequence[Layer], count: int, ffn: int, expert_ffn: int
) -> tuple[Layer, ...]:
    """Layers, of which the first `count` have an FFN of `ffn`, no experts of `expert_ffn` each."""
    own = 0 if ffn == expert_ffn else ffn
    dense = (replace(layer, dense=True, ffn=own) for layer in layers[:count])
    return (*dense, *layers[count:])

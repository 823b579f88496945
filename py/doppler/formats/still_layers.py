"""Layers that rope does not turn: they have a rope of their own, whose pairs stand still."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from doppler.config.model import ModelConfig
from doppler.config.rope import STANDING, Rope
from doppler.errors import FormatError


def with_still_layers(config: ModelConfig, turned: Sequence[int]) -> ModelConfig:
    """The config whose layers are not turned where there is a 0 in `turned`, a number a layer.

    Raises FormatError where these are not as many as layers.
    """
    if len(turned) != len(config.layers):
        raise FormatError(
            f"config: {len(turned)} layers are said to have rope or none; the model has "
            f"{len(config.layers)}"
        )
    if all(turned):
        return config
    still = Rope(1.0, "factors", factors=(STANDING,) * (config.head_dim // 2))
    layers = (
        layer if has_rope else replace(layer, rope=len(config.ropes))
        for layer, has_rope in zip(config.layers, turned, strict=True)
    )
    return replace(config, ropes=(*config.ropes, still), layers=tuple(layers))

"""The config of a manifest <-> ModelConfig: every field of the kind that its dataclass says.

Numbers stay as they are written, 10000 no less than 10000.0: a model's identity is the hash of its
text.
"""

from __future__ import annotations

from dataclasses import MISSING, asdict
from dataclasses import fields as fields_of
from typing import Any, get_args

from doppler.config.layer import MOST_LAYERS, Experts, Layer
from doppler.config.mixers import DeltaNet, ShortConv
from doppler.config.model import ModelConfig, RopePairs
from doppler.config.rope import Rope
from doppler.errors import FormatError
from doppler.inputs.fields import Fields, shown

_MOST_ROPES = 16
_PARTS = {"experts": Experts, "short_conv": ShortConv, "delta_net": DeltaNet}  # fields, if there
# Fields that came after the first manifests.
_LATER = (
    *("value_norm", "per_layer", "layer_scales", "logit_cap", "score_cap", "logit_scale"),
    *("norm_after_rope", "norm_over_heads", "pre_norms", "output_gate"),
    *("biases", "sinks", *_PARTS),
)


def config_of(fields: Fields) -> ModelConfig:
    """Raises FormatError or UnsupportedError for a field that is missing, unknown or wrong."""
    given = _plain(fields, ModelConfig, ("ropes", "layers", "biases", *_PARTS))
    fields.choice("rope_pairs", get_args(RopePairs), "half")
    ropes = fields.tables("ropes", most=_MOST_ROPES)
    given["ropes"] = tuple(
        Rope(
            **_plain(rope, Rope, ("factors", "long_factors")),
            factors=tuple(rope.numbers("factors", [])),
            long_factors=tuple(rope.numbers("long_factors", [])),
        )
        for rope in ropes
    )
    layers = fields.tables("layers", most=MOST_LAYERS)
    given["layers"] = tuple(Layer(**_plain(layer, Layer)) for layer in layers)
    given["biases"] = tuple(fields.texts("biases", []))
    for name, kind in _PARTS.items():
        if fields.has(name):
            given[name] = kind(**_plain(fields.table(name), kind))
    return ModelConfig(**given)


def data_of(config: ModelConfig) -> dict[str, Any]:
    """Plain data for the manifest; `config_of` reads it again.

    What older models do not have is left out of theirs: their identity is the data's hash, so a
    new field must be left out where it has its default.
    """
    data = asdict(config)
    if config.experts is not None:
        for name in ("beside", "gated", "own_norms", "scaled", "sigmoid", "biased", "factor"):
            if data["experts"][name] == getattr(Experts, name):
                del data["experts"][name]
    for name in _LATER:
        if data[name] == getattr(ModelConfig, name):
            del data[name]
    for layer, written in zip(config.layers, data["layers"], strict=True):
        for name in ("head_dim", "kv_heads", "ffn", "shares", "are_values", "dense", "mixer"):
            if getattr(layer, name) == getattr(Layer, name):
                del written[name]
    for rope in data["ropes"]:
        names = ["long_factors", "growth", "width"]
        if rope["scaling"] != "yarn":
            names += ["beta_fast", "beta_slow", "whole_pairs", "magnitude"]
        for name in names:
            if rope[name] == getattr(Rope, name):
                del rope[name]
    return data


def _plain(fields: Fields, kind: type[Any], apart: tuple[str, ...] = ()) -> dict[str, Any]:
    """The fields of a dataclass that are there, but for those `apart`."""
    names = {field.name for field in fields_of(kind)}
    for name in fields:
        if name not in names:
            raise FormatError(
                f"{fields.where}: {fields.prefix}{shown(name)[1:-1]} is a field that no config "
                "has; update Doppler, or convert the model again"
            )
    given = {}
    for field in fields_of(kind):
        if field.name in apart or (field.name not in fields and field.default is not MISSING):
            continue
        if field.type == "int":
            fields.integer(field.name)
        elif field.type == "float":
            fields.number(field.name)
        elif field.type == "bool":
            fields.flag(field.name)
        else:
            fields.text(field.name)
        given[field.name] = fields.get(field.name)
    return given

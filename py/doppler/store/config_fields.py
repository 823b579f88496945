"""The config of a manifest -> ModelConfig: every field of the kind that its dataclass says.

Numbers stay as they are written, 10000 no less than 10000.0: a model's identity is the hash of its
text.
"""

from __future__ import annotations

from dataclasses import MISSING
from dataclasses import fields as fields_of
from typing import Any, get_args

from doppler.config.layer import MOST_LAYERS, Experts, Layer
from doppler.config.model import ModelConfig, RopePairs
from doppler.config.rope import Rope
from doppler.errors import FormatError
from doppler.inputs.fields import Fields, shown

_MOST_ROPES = 16


def config_of(fields: Fields) -> ModelConfig:
    """Raises FormatError or UnsupportedError for a field that is missing, unknown or wrong."""
    given = _plain(fields, ModelConfig, ("ropes", "layers", "biases", "experts"))
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
    if fields.has("experts"):
        given["experts"] = Experts(**_plain(fields.table("experts"), Experts))
    return ModelConfig(**given)


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

"""How a model's files say that it is sampled: generation_config.json, or GGUF's general.sampling.

A GGUF file has the numbers of the former, as llama.cpp's converter takes them over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from doppler.inputs.fields import Fields
from doppler.sampling import ModelSampling

# Our names, and theirs.
_NUMBERS = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
_HF = {name: name for name in _NUMBERS} | {"greedy": "do_sample"}
_GGUF = dict(zip(_NUMBERS, ("temp", "top_k", "top_p", "min_p", "penalty_repeat"), strict=True))
_OFF = -1  # top_k, where 0 would mean no token at all


def sampling_from_hf(config: Fields) -> tuple[ModelSampling, tuple[str, ...]]:
    """Of generation_config.json; and what is wrong there, in a sentence each."""
    found, wrong = ModelSampling.of_files(_with_off(config), _HF)
    drawn = found.greedy  # do_sample, which is the opposite
    return (found if drawn is None else replace(found, greedy=not drawn)), wrong


def sampling_from_gguf(
    metadata: Mapping[str, Any], where: str
) -> tuple[ModelSampling, tuple[str, ...]]:
    """Of a GGUF file's metadata; and what is wrong there, in a sentence each."""
    fields = Fields(metadata, where).below("general.sampling.")
    values = {key: _shortest(fields.get(key)) for key in fields}
    return ModelSampling.of_files(_with_off(Fields(values, where, fields.prefix)), _GGUF)


def _with_off(fields: Fields) -> Fields:
    top_k = fields.get("top_k")
    off = type(top_k) is int and top_k == _OFF
    return Fields({"top_k": 0}, fields.where, fields.prefix).over(fields) if off else fields


def _shortest(value: Any) -> Any:
    """A float32 of a file as it was meant: 0.95, not 0.949999988079071."""
    if type(value) is not float:
        return value
    with np.errstate(over="ignore"):  # float64s, too, may stand there
        return float(str(np.float32(value)))

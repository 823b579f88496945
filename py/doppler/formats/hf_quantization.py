"""Checkpoints that are quantised in ways that Doppler does not read, told by their kind."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from doppler.errors import UnsupportedError
from doppler.inputs.fields import Fields, shown

_PLACES = ("quantization_config", "compression_config", "quantization")  # in config.json
_CALLED = {  # quant_method in config.json -> what people call it
    "aqlm": "AQLM",
    "auto-round": "AutoRound",
    "awq": "AWQ",
    "bitnet": "BitNet",
    "bitsandbytes": "bitsandbytes",
    "compressed-tensors": "compressed-tensors",
    "eetq": "EETQ",
    "fbgemm_fp8": "FP8 (FBGEMM)",
    "fp8": "FP8",
    "fp_quant": "FP-Quant",
    "gptq": "GPTQ",
    "higgs": "HIGGS",
    "hqq": "HQQ",
    "modelopt": "ModelOpt",
    "mxfp4": "MXFP4",
    "quanto": "Quanto",
    "quark": "Quark",
    "spqr": "SpQR",
    "torchao": "torchao",
    "vptq": "VPTQ",
}
_TENSORS = {  # how names of tensors end that only such checkpoints have
    r"\.(qweight|qzeros|g_idx)": "GPTQ or AWQ",
    r"\.weight_scale_inv": "FP8",
    r"\.(weight_packed|weight_scale|weight_zero_point|weight_global_scale|input_scale)": (
        "compressed-tensors or FP8"
    ),
    r"\.(absmax|quant_map|nested_absmax|quant_state\.\w+|SCB|weight_format)": "bitsandbytes",
    r"\.(scales|biases)": "MLX",
    r"\.(codebooks|codes)": "AQLM",
    r"\.(W_q|scale|zero|meta)": "HQQ",
    r"\.(weight\._data|weight\._scale|weight_qtype)": "Quanto",
    r"(_blocks|_scales)": "MXFP4",
}


def refuse_quantised(config: Mapping[str, Any], where: str, readable: tuple[str, ...]) -> None:
    """Raises UnsupportedError where config.json says that the weights are quantised.

    `readable` are the kinds, by quant_method, that Doppler reads in such a model.
    """
    outer = Fields(config, where)
    for fields in (outer, outer.table("text_config")):
        for place in _PLACES:
            settings = fields.table(place)
            kind = _kind(settings, place)
            if kind is not None and kind not in readable:
                raise UnsupportedError(f"{where}: {_told(_CALLED.get(kind, kind), settings)}")


def quantised_as(tensor: str) -> str | None:
    """The kind of quantised checkpoint that has a tensor of that name; None where it is not one."""
    for ending, kind in _TENSORS.items():
        if re.search(ending + "$", tensor):
            return kind
    return None


def what_to_do(kind: str) -> str:
    """What is said of weights of a kind."""
    return (
        f"the weights are quantised as {kind}, which Doppler does not read; take the checkpoint in "
        "BF16 or F16 that they were made from, or a GGUF file of the model"
    )


def _kind(settings: Fields, place: str) -> str | None:
    """By quant_method, where there is one; None where nothing is quantised."""
    lower = settings.get("load_in_4bit") or settings.get("load_in_8bit")
    if kind := settings.text("quant_method", "").lower():
        return (
            None if kind == "bitsandbytes" and settings.has("load_in_8bit") and not lower else kind
        )
    if lower:
        return "bitsandbytes"
    if settings.has("bits") or settings.has("group_size"):
        return "MLX"
    return "a kind without a name" if place == "quantization_config" and len(settings) else None


def _told(kind: str, settings: Fields) -> str:
    bits = settings.get("bits")
    called = kind if kind.isascii() and kind.isprintable() and len(kind) < 30 else shown(kind)
    return what_to_do(f"{called} of {bits} bits" if type(bits) is int and bits < 65 else called)

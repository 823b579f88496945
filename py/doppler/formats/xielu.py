"""The four numbers that xIELU has in each layer: in files apart, here a vector.

xIELU is a · x² + βx above 0, else (expm1(min(x, eps)) - x) · b + βx, where a = softplus(alpha_p)
and b = β + softplus(alpha_n). Checkpoints have alpha_p, alpha_n, β and eps as tensors of one number
each, some without a dimension; GGUF files have keys with a number a layer, which are not below the
architecture's name. "blk.0.xielu.weight" [4] is (a, b, β, eps).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from doppler.errors import FormatError
from doppler.formats.content import Computed, Content, Latest
from doppler.formats.gguf import Gguf
from doppler.formats.gguf_keys import Keys
from doppler.inputs.buffers import Buffers
from doppler.inputs.fields import Fields
from doppler.quantization.block_types import block_type, float32_bytes

NAMES = ("alpha_p", "alpha_n", "beta", "eps")
_PART = re.compile(r"blk\.([0-9]{1,6})\.xielu_(alpha_p|alpha_n|beta|eps)\.weight")


def with_xielu(tensors: Mapping[str, Content], buffers: Buffers) -> dict[str, Content]:
    """All tensors by name, those four together. Raises FormatError where one of them is missing."""
    found: dict[str, Content] = {}
    layers: dict[str, dict[str, Content]] = {}
    for name, content in tensors.items():
        match = _PART.fullmatch(name)
        if match is None:
            found[name] = content
        else:
            layers.setdefault(match[1], {})[match[2]] = content
    latest = Latest()
    for layer, parts in layers.items():
        first = next(iter(parts.values()))
        if len(parts) < len(NAMES) or any(len(it.shape) > 1 for it in parts.values()):
            raise FormatError(
                f"{first.source.name}: layer {layer} must have a number for each of "
                f"{', '.join(NAMES)} of its xIELU"
            )
        four = [replace(parts[name], shape=(1,)) for name in NAMES]
        found[f"blk.{layer}.xielu.weight"] = _together(four, latest, buffers)
    return found


def xielu_of_gguf(gguf: Gguf, count: int, buffers: Buffers) -> dict[str, Content]:
    """The vectors of `count` layers, from keys. Raises FormatError where there are not as many."""
    keys = Keys(gguf.metadata, gguf.name)
    each = [_numbers(keys, f"xielu.{part}", count) for part in NAMES]
    latest, found = Latest(), dict[str, Content]()
    for layer, four in enumerate(zip(*each, strict=True)):
        data = _vector(four, gguf.name)

        async def make(data: bytes = data) -> bytes:
            return data

        source = Computed(gguf.name, len(data), make, latest, buffers)
        own = f"blk.{layer}.xielu.weight"
        found[own] = Content("xielu", block_type("F32"), (4,), source, 0)
    return found


def _numbers(keys: Keys, key: str, count: int) -> list[float]:
    values = keys.each(key, count)
    if values is None:
        return [keys.number(key)] * count
    return [Fields({key: it}, keys.where, keys.prefix).number(key) for it in values]


def _together(parts: Sequence[Content], latest: Latest, buffers: Buffers) -> Content:
    first = parts[0]

    async def make() -> bytes:
        raws = [buffers.to_bytes(await it.source.read(it.offset, it.bytes)) for it in parts]
        floats = b"".join(
            float32_bytes(it.type.name, raw) for it, raw in zip(parts, raws, strict=True)
        )
        return _vector(np.frombuffer(floats, "<f4").tolist(), first.source.name)

    source = Computed(first.source.name, 16, make, latest, buffers)
    return Content(first.name, block_type("F32"), (4,), source, 0)


def _vector(numbers: Sequence[float], where: str) -> bytes:
    """alpha_p, alpha_n, β and eps -> the bytes of a, b, β, eps."""
    alpha_p, alpha_n, beta, eps = (np.float64(number) for number in numbers)
    values = [np.logaddexp(0.0, alpha_p), beta + np.logaddexp(0.0, alpha_n), beta, eps]
    with np.errstate(over="ignore"):
        vector = np.array(values).astype("<f4")
    if not np.isfinite(vector).all():
        raise FormatError(f"{where}: numbers of xIELU are not finite; the file is damaged")
    return vector.tobytes()

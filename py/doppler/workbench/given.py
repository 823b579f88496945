"""A kernel on arrays that a person gives, as JSON has them."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from doppler.errors import RequestError
from doppler.gpu.wgsl import Number
from doppler.inputs.fields import shown
from doppler.workbench.case import Array, Launch, named

TYPES: Mapping[str, type[np.generic]] = {
    "f32": np.float32,
    "f16": np.float16,
    "u32": np.uint32,
    "i32": np.int32,
    "u8": np.uint8,
}
NAMES = {np.dtype(kind): name for name, kind in TYPES.items()}


def launch_of(kernel: str, args: Mapping[str, Any]) -> Launch:
    """A launch of the kernel over the arrays of `args`, all of which are bound by their names."""
    constants, params = numbers_of("constants", args), numbers_of("params", args)
    tokens = args.get("tokens", 1)
    if type(tokens) is not int or tokens < 1:
        raise RequestError(f"tokens is {shown(tokens)}; it must be a whole number above 0")
    return Launch(kernel, constants, params, named(_object("arrays", args)), tokens)


def outputs_of(args: Mapping[str, Any]) -> list[str]:
    """Names of arrays that are to be told."""
    names, arrays = args.get("outputs"), _object("arrays", args)
    if not isinstance(names, list) or not names or not all(it in list(arrays) for it in names):
        raise RequestError("outputs must be a list of names of arrays")
    return names


def arrays_of(args: Mapping[str, Any], most: int) -> dict[str, Array]:
    """The arrays, of up to `most` bytes each. Raises RequestError where one cannot be made."""
    return {name: _array(name, it, most) for name, it in _object("arrays", args).items()}


def numbers_of(name: str, args: Mapping[str, Any]) -> dict[str, Number]:
    """An object of numbers by name."""
    values = _object(name, args)
    for key, value in values.items():
        if type(value) not in (int, float):
            raise RequestError(f"{name}: {shown(key)} is {shown(value)}; it must be a number")
    return values


def _object(name: str, args: Mapping[str, Any]) -> dict[str, Any]:
    values = args.get(name, {})
    if not isinstance(values, dict):
        raise RequestError(f"{name} must be an object")
    return values


def _array(name: str, given: Any, most: int) -> Array:
    kind, shape = TYPES.get(str(_field(given, "dtype"))), _field(given, "shape")
    if kind is None:
        raise RequestError(f"array {name}: dtype must be one of {', '.join(TYPES)}")
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
        raise RequestError(f"array {name}: shape must be a list of whole numbers")
    size = math.prod(shape) * np.dtype(kind).itemsize
    if size > most:
        raise RequestError(f"array {name} has {size} bytes, and a buffer has {most} at most")
    data = _field(given, "data")
    if data is None:
        return np.zeros(shape, kind)
    try:
        flat = _bytes(data, kind) if isinstance(data, str) else np.array(data, np.float64)
        with np.errstate(over="ignore"):
            return flat.astype(kind).reshape(shape)
    except (ValueError, TypeError, OverflowError) as error:
        raise RequestError(f"array {name}: {error}") from error


def _field(given: Any, name: str) -> Any:
    return given.get(name) if isinstance(given, dict) else None


def _bytes(text: str, kind: type[np.generic]) -> Array:
    try:
        return np.frombuffer(base64.b64decode(text, validate=True), kind)
    except binascii.Error as error:
        raise ValueError(f"data are not base64: {error}") from error

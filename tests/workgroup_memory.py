"""Bytes of workgroup memory that a kernel's source declares, for any values of its overrides."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from doppler.gpu.wgsl import Shader

SIZES = {
    "f16": 2,
    "f32": 4,
    "u32": 4,
    "atomic<u32>": 4,
    "vec2f": 8,
    "vec2u": 8,
    "vec4h": 8,
    "vec4f": 16,
    "vec4u": 16,
    "Token": 12,  # of delta.wgsl
}
_VARIABLE = re.compile(r"^var<workgroup> (\w+): (.+?);", re.MULTILINE)
_ARRAY = re.compile(r"array<(.+?), (.+)>")
_ALIAS = re.compile(r"^alias (\w+) = (.+?);", re.MULTILINE)
_NUMBER = re.compile(r"^(?:override|const) (\w+)(?:: \w+)? = ([^;]+);", re.MULTILINE)
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "max": np.maximum,
    "min": np.minimum,
    "u32": lambda value: value * 1,
}


def workgroup_bytes(shader: Shader, constants: Mapping[str, Any]) -> Any:
    """As WebGPU counts them: each variable rounded up to 16 bytes.

    Constants may be arrays of integers, one for each case; the answer then is one too.
    """
    numbers = {name: text for name, text in _NUMBER.findall(shader.source) if name not in constants}
    aliases = dict(_ALIAS.findall(shader.source))

    class Names(dict[str, Any]):
        def __missing__(self, name: str) -> Any:
            self[name] = _value(numbers[name], self)
            return self[name]

    names = Names({**constants, **_FUNCTIONS})
    total = 0
    for _, kind in _VARIABLE.findall(shader.source):
        array = _ARRAY.fullmatch(kind)
        element, count = array.groups() if array else (kind, "1")
        size = SIZES[aliases.get(element, element)] * _value(count, names)
        total += -(-size // 16) * 16
    return total


def _value(text: str, names: Mapping[str, Any]) -> Any:
    """A WGSL expression of unsigned integers."""
    python = re.sub(r"\b(\d+)u\b", r"\1", text).replace("||", "|").replace("/", "//")
    python = re.sub(r"(\w+ == \w+)", r"(\1)", python)
    return eval(python, {"__builtins__": {}}, names)

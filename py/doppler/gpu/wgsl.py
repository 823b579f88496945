"""What a WGSL file says about itself: bindings, overrides and the layout of its parameters.

The WGSL source is the only place where these are written down; nothing repeats them in Python.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

Access = Literal["uniform", "read-only-storage", "storage"]  # GPUBufferBindingType
Number = int | float

_BINDING = re.compile(
    r"@group\(0\)\s*@binding\((\d+)\)\s*var<(uniform|storage)(?:,\s*(read|read_write))?>\s*(\w+)\s*:"
)
_ARRAY_BINDING = re.compile(
    r"@group\(0\)\s*@binding\(\d+\)\s*var<storage,\s*(\w+)>\s*(\w+)\s*:\s*array<(\w+)>;"
)
_OVERRIDE = re.compile(r"^override\s+(\w+)\s*:", re.MULTILINE)
_PARAMS = re.compile(r"^struct Params\s*\{(.*?)\}", re.MULTILINE | re.DOTALL)
_FIELD = re.compile(r"(\w+)\s*:\s*(u32|i32|f32)\b")
_USES = re.compile(r"^// uses: (\w+)$", re.MULTILINE)
_DIRECTIVE = re.compile(r"^(?:enable|requires|diagnostic)\b.*;$", re.MULTILINE)
_REAL = "alias Real = f32;"
_COMMENT = re.compile(r"//.*$", re.MULTILINE)
_CODES = {"u32": "I", "i32": "i", "f32": "f"}


@dataclass(frozen=True)
class Binding:
    """`@group(0) @binding(index) var<...> name`."""

    index: int
    name: str
    access: Access


@dataclass(frozen=True)
class Shader:
    """A kernel's whole source and what it declares."""

    name: str
    source: str
    bindings: tuple[Binding, ...]
    overrides: frozenset[str]
    params: tuple[tuple[str, str], ...]  # (name, struct code) of each scalar of Params

    def pack(self, values: Mapping[str, Number]) -> bytes:
        """The bytes of `Params`; every field must be given, and nothing else."""
        names = [name for name, _ in self.params]
        if set(names) != set(values):
            raise KeyError(f"kernel {self.name} takes params {names}, not {sorted(values)}")
        return struct.pack(
            "<" + "".join(code for _, code in self.params), *(values[name] for name in names)
        )

    def variant(self, absent: Collection[str], half: bool) -> str:
        """The source with the `absent` bindings, runtime-sized arrays, as constants, or as private
        variables where they are written.

        A dispatch costs the browser's GPU process a third of a microsecond for each binding; a
        variant that never touches one is better off without it. A constant, unlike a variable, is
        the same for all threads: barriers may depend on it. `half` makes Real, in kernels that
        have that alias, f16.
        """
        source = f"enable f16;\n{self.source.replace(_REAL, 'alias Real = f16;')}"
        return _ARRAY_BINDING.sub(
            lambda m: _stand_in(*m.groups()) if m[2] in absent else m[0],
            source if half else self.source,
        )


def parse(name: str, sources: Mapping[str, str]) -> Shader:
    """The shader `name` with the files that it uses (`// uses: planes`) put before it."""
    text = sources[name]
    used = [sources[other] for other in _USES.findall(text)]
    directives = _DIRECTIVE.findall(text)  # WGSL wants them before everything else
    source = "\n".join([*directives, *used, _DIRECTIVE.sub("", text)])
    bare = _COMMENT.sub("", source)
    params = _PARAMS.search(bare)
    fields = _FIELD.findall(params.group(1)) if params else []
    return Shader(
        name,
        source,
        tuple(
            Binding(int(i), n, _access(space, mode)) for i, space, mode, n in _BINDING.findall(bare)
        ),
        frozenset(_OVERRIDE.findall(bare)),
        tuple((field, _CODES[kind]) for field, kind in fields),
    )


def _stand_in(mode: str, name: str, kind: str) -> str:
    """What has the type of an array binding and is none."""
    if mode == "read":
        return f"const {name} = array<{kind}, 1>();"
    return f"var<private> {name}: array<{kind}, 1>;"


def _access(space: str, mode: str) -> Access:
    if space == "uniform":
        return "uniform"
    return "storage" if mode == "read_write" else "read-only-storage"

"""What a WGSL file says about itself: bindings, overrides and the layout of its parameters.

The WGSL source is the only place where these are written down; nothing repeats them in Python.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from doppler.errors import DeviceError

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
FIELD_TYPES = {code: kind for kind, code in _CODES.items()}  # of a field of Params
_ENABLE = re.compile(r"^enable (\w+);", re.MULTILINE)
# The device's feature that lets a text enable an extension of WGSL of another name.
ENABLED_BY = {
    "f16": "shader-f16",
    "chromium_experimental_subgroup_matrix": "chromium-experimental-subgroup-matrix",
}


@dataclass(frozen=True)
class Binding:
    """`@group(0) @binding(index) var<...> name`."""

    index: int
    name: str
    access: Access


@dataclass(frozen=True)
class Shader:
    """A kernel's whole source, the files that it is made of, and what it declares."""

    name: str
    source: str
    directives: tuple[int, ...]  # lines of the kernel's file that come first
    uses: tuple[tuple[str, int], ...]  # (file, lines) of what comes next; then the kernel's file
    bindings: tuple[Binding, ...]
    overrides: frozenset[str]
    params: tuple[tuple[str, str], ...]  # (name, struct code) of each scalar of Params

    @property
    def enables(self) -> list[str]:
        """Extensions of WGSL that it needs."""
        return _ENABLE.findall(self.source)

    def pack(self, values: Mapping[str, Number]) -> bytes:
        """The bytes of `Params`; every field must be given, and nothing else."""
        names = [name for name, _ in self.params]
        if set(names) != set(values):
            raise KeyError(f"kernel {self.name} takes params {names}, not {sorted(values)}")
        return struct.pack(
            "<" + "".join(code for _, code in self.params), *(values[name] for name in names)
        )

    def place(self, line: int) -> tuple[str, int]:
        """The file that a line of `source` (from 1 on) came from, and its line there."""
        if line <= len(self.directives):
            return self.name, self.directives[line - 1]
        line -= len(self.directives)
        for file, lines in self.uses:
            if line <= lines:
                return file, line
            line -= lines
        return self.name, line

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
    """The shader `name` with the files that it uses (`// uses: dequantize`) put before it.

    Raises DeviceError where it uses a file that is not there.
    """
    text = sources[name]
    uses = _USES.findall(text)
    if unknown := [file for file in uses if file not in sources]:
        raise DeviceError(f"kernel {name} uses {', '.join(unknown)}, and there is no such file")
    directives = list(_DIRECTIVE.finditer(text))  # WGSL wants them before everything else
    parts = [*(sources[file] for file in uses), _DIRECTIVE.sub("", text)]
    source = "\n".join([*(match[0] for match in directives), *parts])
    bare = _COMMENT.sub("", source)
    params = _PARAMS.search(bare)
    fields = _FIELD.findall(params.group(1)) if params else []
    return Shader(
        name,
        source,
        tuple(text.count("\n", 0, match.start()) + 1 for match in directives),
        tuple((file, sources[file].count("\n") + 1) for file in uses),
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

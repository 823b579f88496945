"""Writes web/runtime/messages.d.ts: what the page and Doppler say to each other.

    .venv/bin/python scripts/messages.py           # after a change of api/messages.py or api/api.py
    .venv/bin/python scripts/messages.py --check   # exit code 1 where the file is not up to date

The modules of py/doppler/api are read, not run. Methods are the public coroutines of Api; after
them comes every type that they name, in the order in which it is first named.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "web" / "runtime" / "messages.d.ts"
TABLE = "Methods by name: what each takes, gives and tells."
HEADER = "// Written by scripts/messages.py from py/doppler/api: change it there.\n\n"
PLAIN = {
    "str": "string",
    "int": "number",
    "float": "number",
    "bool": "boolean",
    "Any": "any",
    "Never": "never",
}
WIDTH = 100
BASES = ("TypedDict",)  # which say nothing of the fields


@dataclass(frozen=True)
class Module:
    """A module of the package, as it is written."""

    body: list[ast.stmt]

    @classmethod
    def named(cls, name: str) -> Module:
        path = (ROOT / "py").joinpath(*name.split(".")).with_suffix(".py")
        return cls(ast.parse(path.read_text(encoding="utf-8"), str(path)).body)

    def find(self, name: str) -> Type:
        """A class or an alias, in the module that defines it. Raises LookupError."""
        for node, after in _with_next(self.body):
            match node:
                case ast.ClassDef() if node.name == name:
                    return Class(self, node)
                case ast.Assign(targets=[ast.Name(id=target)]) if target == name:
                    return Alias(self, name, node.value, _text(after))
                case ast.ImportFrom(module=str(source), names=names):
                    if name in {alias.name for alias in names}:
                        return Module.named(source).find(name)
        raise LookupError(f"{name} is defined nowhere")


@dataclass(frozen=True)
class Alias:
    """A type that has a name."""

    module: Module
    name: str
    value: ast.expr
    comment: str

    def needs(self) -> Iterator[str]:
        return _names(self.value)

    def __str__(self) -> str:
        return f"{_comment(self.comment)}export type {self.name} = {typescript(self.value)};\n"


@dataclass(frozen=True)
class Class:
    """A TypedDict, or a dataclass, which stands for an object of its fields."""

    module: Module
    node: ast.ClassDef

    @property
    def bases(self) -> list[str]:
        names = [base.id for base in self.node.bases if isinstance(base, ast.Name)]
        return [name for name in names if name not in BASES]

    def needs(self) -> Iterator[str]:
        yield from self.bases
        for field, _ in self._fields():
            yield from _names(field.annotation)

    def __str__(self) -> str:
        extends = f" extends {', '.join(self.bases)}" if self.bases else ""
        fields = "".join(self._field(field, text) for field, text in self._fields())
        comment = _comment(ast.get_docstring(self.node))
        return f"{comment}export interface {self.node.name}{extends} {{\n{fields}}}\n"

    def _fields(self) -> Iterator[tuple[ast.AnnAssign, str]]:
        for node, after in _with_next(self.node.body):
            if isinstance(node, ast.AnnAssign):
                yield node, _text(after)

    def _field(self, field: ast.AnnAssign, text: str) -> str:
        optional = "?" if self._may_lack(field) else ""
        name, kind = ast.unparse(field.target), typescript(field.annotation)
        return f"{_comment(text, 2)}  {name}{optional}: {kind};\n"

    def _may_lack(self, field: ast.AnnAssign) -> bool:
        """Whether an object need not have this: NotRequired, total=False, or a default."""
        total = any(ast.unparse(word) == "total=False" for word in self.node.keywords)
        marked = ast.unparse(field.annotation).startswith("NotRequired[")
        return total or marked or field.value is not None


Type = Alias | Class


@dataclass(frozen=True)
class Method:
    """A public coroutine of Api: `async def name(self, args, emit, files)`."""

    node: ast.AsyncFunctionDef

    @property
    def parts(self) -> dict[str, ast.expr]:
        """Types of the arguments, the result, and the events."""
        args, emit = self.node.args.args[1:3]
        match args.annotation, self.node.returns, emit.annotation:
            case ast.expr() as taken, ast.expr() as given, ast.Subscript(slice=events):
                return {"args": taken, "result": given, "events": events}
        raise TypeError(f"{self.node.name} does not say what it takes, gives and tells")

    def needs(self) -> Iterator[str]:
        for part in self.parts.values():
            yield from _names(part)

    def __str__(self) -> str:
        kinds = "; ".join(f"{name}: {typescript(part)}" for name, part in self.parts.items())
        comment = _comment(ast.get_docstring(self.node), 2)
        return f"{comment}  {self.node.name}: {{ {kinds} }};\n"


def methods(api: Module) -> list[Method]:
    """Those of Api, but for `call`, which runs them."""
    body = next(
        node.body for node in api.body if isinstance(node, ast.ClassDef) and node.name == "Api"
    )
    coroutines = [node for node in body if isinstance(node, ast.AsyncFunctionDef)]
    public = [node for node in coroutines if not node.name.startswith("_") and node.name != "call"]
    return [Method(node) for node in public]


def declarations() -> str:
    """The methods and every type that they need, as TypeScript."""
    api = Module.named("doppler.api.api")
    found = methods(api)
    text = "".join(map(str, found))
    parts = [f"{_comment(TABLE)}export interface Methods {{\n{text}}}\n"]
    parts += map(str, _reached([(api, name) for method in found for name in method.needs()]))
    return "\n".join(parts)


def _reached(wanted: list[tuple[Module, str]]) -> Iterator[Type]:
    """Types by their names in a module, and those that these need, each once."""
    seen = set(PLAIN)
    while wanted:
        module, name = wanted.pop(0)
        if name not in seen:
            seen.add(name)
            found = module.find(name)
            yield found
            wanted = [(found.module, needed) for needed in found.needs()] + wanted


def typescript(annotation: ast.expr) -> str:
    """A Python type as TypeScript has it."""
    match annotation:
        case ast.Constant(value=None):
            return "null"
        case ast.Constant(value=value):  # within Literal
            return json.dumps(value)
        case ast.Name(id=name):
            return PLAIN.get(name, name)
        case ast.Tuple(elts=parts):
            return " | ".join(map(typescript, parts))
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return f"{typescript(left)} | {typescript(right)}"
        case ast.Subscript(value=ast.Name(id="dict"), slice=ast.Tuple(elts=[key, value])):
            return f"Record<{typescript(key)}, {typescript(value)}>"
        case ast.Subscript(value=ast.Name(id="list"), slice=item):
            return f"({typescript(item)})[]"
        case ast.Subscript(value=ast.Name(id="Literal" | "NotRequired"), slice=inner):
            return typescript(inner)
    raise TypeError(f"{ast.unparse(annotation)} has no counterpart in TypeScript yet")


def _names(annotation: ast.expr) -> Iterator[str]:
    """The types that a type names; what brackets stand after is no type of ours."""
    match annotation:
        case ast.Name(id=name):
            yield name
        case ast.Subscript(slice=inner):
            yield from _names(inner)
        case ast.Tuple(elts=parts):
            for part in parts:
                yield from _names(part)
        case ast.BinOp(left=left, right=right):
            yield from _names(left)
            yield from _names(right)


def _with_next(body: list[ast.stmt]) -> Iterator[tuple[ast.stmt, ast.stmt | None]]:
    return zip(body, [*body[1:], None], strict=True)


def _text(node: ast.stmt | None) -> str:
    """A text that stands for itself: the comment of what is above it."""
    match node:
        case ast.Expr(value=ast.Constant(value=str(text))):
            return text
    return ""


def _comment(text: str | None, indent: int = 0) -> str:
    """As JSDoc, on one line where it fits; an empty line begins a paragraph."""
    if not text:
        return ""
    paragraphs = [" ".join(part.split()) for part in text.split("\n\n")]
    start, width = " " * indent, WIDTH - indent - len(" * ")
    if len(paragraphs) == 1 and len(paragraphs[0]) + len("/**  */") + indent <= WIDTH:
        return f"{start}/** {paragraphs[0]} */\n"
    lines = "\n\n".join(textwrap.fill(part, width) for part in paragraphs).splitlines()
    middle = "".join(f"{start} * {line}".rstrip() + "\n" for line in lines)
    return f"{start}/**\n{middle}{start} */\n"


def laid_out(text: str) -> str:
    """As prettier has it."""
    prettier = ROOT / "web" / "node_modules" / ".bin" / "prettier"
    command = [str(prettier), "--stdin-filepath", str(TARGET)]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    return done.stdout


def main() -> int:
    text = laid_out(HEADER + declarations())
    if "--check" not in sys.argv:
        TARGET.write_text(text, encoding="utf-8")
    elif TARGET.read_text(encoding="utf-8") != text:
        print("web/runtime/messages.d.ts is not up to date: run scripts/messages.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

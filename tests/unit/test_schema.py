"""One schema of page and worker: the TypeScript is written from it, and what is said held to it."""

from __future__ import annotations

import ast
from typing import Any

import pytest

import messages
from doppler.api.api import METHODS
from schema_watch import wrong_with

EXAMPLE = '''
class Base(TypedDict):
    """What all have."""

    id: str

class Found(Base, total=False):
    names: dict[str, list[Kind | None]]
    """By the letter
    they begin with."""

@dataclass(frozen=True)
class Given:
    size: NotRequired[float]
    kind: Kind = "a"

Kind = Literal["a", "b"]
"""One or the other."""
'''


def test_the_file_is_what_the_types_say() -> None:
    written = messages.laid_out(messages.HEADER + messages.declarations())
    assert written == messages.TARGET.read_text(), "run scripts/messages.py"


def test_methods_and_types_are_all_written() -> None:
    api = messages.Module.named("doppler.api.api")
    assert [method.node.name for method in messages.methods(api)] == list(METHODS)
    kinds = messages.Module.named("doppler.api.messages").body
    names = {node.name for node in kinds if isinstance(node, ast.ClassDef)}
    text = messages.declarations()
    assert {name for name in names if f"export interface {name} " not in text} == set()


@pytest.mark.parametrize(
    ("name", "text"),
    {
        "Base": "/** What all have. */\nexport interface Base {\n  id: string;\n}\n",
        "Found": (
            "export interface Found extends Base {\n"
            "  /** By the letter they begin with. */\n"
            "  names?: Record<string, (Kind | null)[]>;\n}\n"
        ),
        "Given": "export interface Given {\n  size?: number;\n  kind?: Kind;\n}\n",
        "Kind": '/** One or the other. */\nexport type Kind = "a" | "b";\n',
    }.items(),
)
def test_a_type_in_typescript(name: str, text: str) -> None:
    assert str(messages.Module(ast.parse(EXAMPLE).body).find(name)) == text


def test_what_has_no_counterpart_is_told() -> None:
    with pytest.raises(TypeError, match=r"set\[str\] has no counterpart"):
        messages.typescript(ast.parse("set[str]", mode="eval").body)
    with pytest.raises(LookupError, match="Lost is defined nowhere"):
        messages.Module(ast.parse(EXAMPLE).body).find("Lost")


def said(method: str, args: dict[str, Any], result: Any, *events: Any) -> list[str]:
    return list(wrong_with({"method": method, "args": args, "result": result, "events": events}))


PROGRESS = {"type": "progress", "stage": "download", "done": 1, "total": 2, "rate": 0.5}
WORK = {"label": "a", "kernel": "matvec", "bytes": 3, "flops": 4}


def test_what_is_as_the_types_say_passes() -> None:
    assert said("download", {"url": "x"}, {"id": "y"}, PROGRESS) == []
    assert said("plan", {}, [WORK]) == []  # of dataclasses
    assert said("tune", {}, {"refused": 0}) == []
    assert list(wrong_with({"method": "load", "args": {"no": 1}, "events": []})) == []  # refused


@pytest.mark.parametrize(
    ("call", "wrong"),
    [
        (("download", {"url": "x"}, {"id": 1}), "the result"),
        (("download", {"url": "x"}, {"id": "y", "more": 1}), "the result"),
        (("download", {"address": "x"}, {"id": "y"}), "the arguments"),
        (("download", {"url": "x"}, {"id": "y"}, {**PROGRESS, "stage": "lunch"}), "an event"),
        (("storage", {}, {"quota": 1, "used": 2}), "the result"),
        (("storage", {}, {"quota": 1, "used": 2, "persisted": True}, PROGRESS), "an event"),
        (("plan", {}, [WORK, {**WORK, "flops": "4"}]), "the result"),
        (("plan", {}, [WORK, {"label": "a"}]), "the result"),
        (("complete", {"sampling": {"greed": True}}, None), "the arguments"),
        (("tune", {"now": True}, {}), "the arguments"),
    ],
)
def test_what_is_not_is_found(call: tuple[Any, ...], wrong: str) -> None:
    assert said(*call)[0].startswith(f"{call[0]}: {wrong}")

"""What models write between the markers of a tool call, read by how it begins.

| begins with  | as in                               | after it                         |
|--------------|-------------------------------------|----------------------------------|
| `call:`      | Gemma 4                             | `NAME{key:value,...}`            |
| `<function=` | Qwen3-Coder, Qwen3.5                | `NAME>`, `<parameter=KEY>`, ...  |
| `[NAME(`     | LFM2                                | `KEY=VALUE, ...)]`               |
| `{` or `[`   | Hermes, Qwen, Mistral, Granite, Phi | JSON of a call, or of several    |
| `NAME[ARGS]` | Mistral since 2025                  | JSON of the arguments            |

Whatever else is written is a ValueError, which says what is wrong.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from doppler.errors import FormatError
from doppler.inputs.fields import is_text, parse_json, shown
from doppler.text.call_values import TOOL_NAME, Gemma, Python, after_space
from doppler.text.tools import Tools

LONGEST_NAME = 128

_MISTRAL = re.compile(r"([^\s\[\]{}<>]+)(?:\[CALL_ID\]([^\[]*))?\[ARGS\]")
_KINDS = {str: "string", bool: "boolean", dict: "object", list: "array", type(None): "null"}


@dataclass(frozen=True)
class Written:
    """A call as it was written. id: where the model gave it one."""

    name: str
    arguments: Mapping[str, Any]
    id: str | None = None


Grammar = Callable[[str, Tools], list[Written]]


def read_calls(text: str, tools: Tools) -> list[Written]:
    """The calls that stand between two markers, one at least."""
    body = text.strip()
    for begins, grammar in _GRAMMARS:
        if begins.match(body):
            return [_checked(call) for call in grammar(body, tools)]
    raise ValueError(f"it begins with {shown(body, 20)}")


def read_one(name: str, text: str) -> list[Written]:
    """The call of a tool that is named elsewhere, with its arguments as JSON."""
    return [_checked(Written(name, _object(text)))]


def read_bare(text: str, tools: Tools) -> list[Written]:
    """A call without any marker, as Llama 3 writes it: of a tool of the request, and all of text.

    {"name": ..., "parameters": {...}}
    """
    value = _json(text)
    if not isinstance(value, dict) or value.keys() - {"type", "name", "parameters", "arguments"}:
        raise ValueError("it is no call alone")
    call = _checked(_call(value))
    if call.name not in tools:
        raise ValueError(f"there is no tool {shown(call.name)}")
    return [call]


def _checked(call: Written) -> Written:
    """With a name that can be one, finite numbers, and text of whole characters."""
    if not call.name or len(call.name) > LONGEST_NAME or not call.name.isprintable():
        raise ValueError(f"{shown(call.name)} cannot be a tool's name")
    _need_finite(call.arguments)
    if not is_text(call.name + json.dumps(call.arguments, ensure_ascii=False)):
        raise ValueError("its text has halves of characters")
    return call


def _json(text: str) -> Any:
    """The value that is JSON's text."""
    try:
        holder = parse_json(f'{{"":{text}}}', "a call")
    except FormatError as error:
        raise ValueError(str(error).removeprefix("a call: ")) from error
    if holder.keys() != {""}:
        raise ValueError("its JSON is no single value")
    return holder[""]


def _need_finite(value: Any) -> None:
    """JSON has no NaN, and a page would read a number beyond every float as infinite."""
    if type(value) in (int, float) and not abs(value) <= sys.float_info.max:
        raise ValueError("it has a number that is too large, or none")
    inner: Iterable[Any] = value if isinstance(value, list) else ()
    if isinstance(value, Mapping):
        inner = value.values()
    for one in inner:
        _need_finite(one)


def _object(text: str) -> dict[str, Any]:
    value = _json(text) if text.strip() else {}
    if not isinstance(value, dict):
        raise ValueError(f"its arguments are no object: {shown(text, 20)}")
    return value


def _of_json(body: str, tools: Tools) -> list[Written]:
    value = _json(body)
    calls = value if isinstance(value, list) else [value]
    if not calls:
        raise ValueError("it is an empty list")
    return [_call(call) for call in calls]


def _call(value: Any) -> Written:
    """{name, arguments}, or parameters in their place; also as the function of an object."""
    if isinstance(value, dict) and isinstance(value.get("function"), dict):
        value = {**value["function"], "id": value.get("id")}
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise ValueError("it has no name")
    given = value.get("arguments", value.get("parameters"))
    if isinstance(given, str):
        given = _object(given)
    if given is not None and not isinstance(given, dict):
        raise ValueError(f"its arguments are no object: {shown(given, 20)}")
    own = value.get("id")
    return Written(value["name"], given or {}, own if isinstance(own, str) and own else None)


def _of_mistral(body: str, tools: Tools) -> list[Written]:
    head = _MISTRAL.match(body)
    assert head is not None
    return [Written(head[1], _object(body[head.end() :]), head[2] or None)]


def _of_elements(body: str, tools: Tools) -> list[Written]:
    """<function=NAME> <parameter=KEY> value </parameter> </function>, one or several."""
    calls, at = [], 0
    while at < len(body):
        name, at = _opening(body, at, "function")
        given: dict[str, Any] = {}
        while not body.startswith("</function>", at):
            key, at = _opening(body, at, "parameter")
            end = body.find("</parameter>", at)
            if end < 0:
                raise ValueError(f"its parameter {shown(key)} does not end")
            if key in given:
                raise ValueError(f"its parameter {shown(key)} stands twice")
            given[key] = _typed(body[at:end], tools.types_of(name, key))
            at = after_space(body, end + len("</parameter>"))
        calls.append(Written(name, given))
        at = after_space(body, at + len("</function>"))
    return calls


def _opening(body: str, at: int, kind: str) -> tuple[str, int]:
    """The name in `<kind=NAME>`, and where what follows it begins."""
    begin, end = f"<{kind}=", body.find(">", at)
    if not body.startswith(begin, at) or end < 0:
        raise ValueError(f"there is no {begin}...> at {shown(body[at:], 20)}")
    name = body[at + len(begin) : end].strip()
    return name, after_space(body, end + 1) if kind == "function" else end + 1


def _typed(text: str, types: frozenset[str]) -> Any:
    """A value between two elements, of a type that the tool says; as text where it says none."""
    value = text.removeprefix("\n").removesuffix("\n")
    try:
        found = _json(value.lower() if value in ("True", "False") else value)
    except ValueError:
        return value
    if type(found) is int and types & {"integer", "number"}:
        return found
    kind = _KINDS.get(type(found), "number")
    return found if kind != "string" and kind in types else value


def _of_gemma(body: str, tools: Tools) -> list[Written]:
    return [Written(*call) for call in Gemma(body).calls()]


def _of_python(body: str, tools: Tools) -> list[Written]:
    return [Written(*call) for call in Python(body).calls()]


_GRAMMARS: tuple[tuple[re.Pattern[str], Grammar], ...] = (
    (re.compile("call:"), _of_gemma),
    (re.compile("<function="), _of_elements),
    (re.compile(rf"(?:\[\s*)?{TOOL_NAME}\("), _of_python),
    (re.compile(r"[\[{]"), _of_json),
    (_MISTRAL, _of_mistral),
)

"""Tools that a model may call, and calls of them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from doppler.errors import RequestError
from doppler.inputs.fields import shown

ANY = frozenset[str]()  # types of a parameter of which nothing is known
MOST = 128  # tools of a request
LARGEST = 1 << 18  # characters of all of them, as JSON
NAME = re.compile(r"[A-Za-z0-9_.:/-]{1,128}")
_FIELDS = ("name", "description", "parameters", "response", "return", "strict")


@dataclass(frozen=True)
class ToolCall:
    """A call that a model wrote.

    raw: what it wrote, with its markers; of several between two markers the first has it.
    """

    id: str  # unlike those of other calls of a conversation: 9 letters and digits
    name: str
    arguments: Mapping[str, Any]
    raw: str


@dataclass(frozen=True)
class Tools:
    """What is known of the tools of a request: types of parameters, by tool and parameter."""

    types: Mapping[str, Mapping[str, frozenset[str]]]

    @classmethod
    def of(cls, tools: Sequence[Mapping[str, Any]] | None) -> Tools:
        """Of tools as Conversation has them."""
        functions = [tool["function"] for tool in tools or ()]
        return cls({f["name"]: _parameters(f.get("parameters")) for f in functions})

    def __bool__(self) -> bool:
        return bool(self.types)

    def __contains__(self, name: str) -> bool:
        return name in self.types

    def types_of(self, tool: str, parameter: str) -> frozenset[str]:
        """Names of JSON schema's types; ANY where nothing is said."""
        return self.types.get(tool, {}).get(parameter, ANY)


NO_TOOLS = Tools({})


def check_tools(value: Any) -> list[dict[str, Any]] | None:
    """The tools of a request, {type: "function", function: {name, ...}} each; None for none.

    Raises RequestError for what is no list of such objects, or too much.
    """
    if value is None or value == []:
        return None
    if not isinstance(value, list):
        raise RequestError("tools must be a list")
    if len(value) > MOST:
        raise RequestError(f"there are {len(value)} tools: {MOST} can be given at most")
    names = [_check_tool(tool, f"tools[{at}]") for at, tool in enumerate(value)]
    if len(set(names)) != len(names):
        raise RequestError("two tools have one name")
    try:
        size = len(json.dumps(value, ensure_ascii=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise RequestError(f"the tools cannot be written as JSON: {error}") from error
    if size > LARGEST:
        raise RequestError(f"the tools have {size:,} characters: {LARGEST:,} are read at most")
    return value


def _check_tool(tool: Any, where: str) -> str:
    """A tool's name."""
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(function, dict) or tool.get("type") != "function" or len(tool) != 2:
        raise RequestError(f'{where} must be {{type: "function", function: {{name, ...}}}} alone')
    for key in function:
        if key not in _FIELDS:
            raise RequestError(f"{where}: {shown(key)} is not one of {', '.join(_FIELDS)}")
    name = function.get("name")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise RequestError(
            f"{where}: name is {shown(name)}; it must have 1 to 128 letters, digits and _ . : / -"
        )
    if not isinstance(function.get("description", ""), str):
        raise RequestError(f"{where}: description must be a text")
    if not isinstance(function.get("parameters", {}), dict):
        raise RequestError(f"{where}: parameters must be a JSON schema, an object")
    return name


def _parameters(schema: Any) -> dict[str, frozenset[str]]:
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    if not isinstance(properties, Mapping):
        return {}
    return {name: _types(about) for name, about in properties.items()}


def _types(schema: Any, or_in: tuple[str, ...] = ("anyOf", "oneOf")) -> frozenset[str]:
    """Of a schema that says them itself, or in alternatives that do."""
    if not isinstance(schema, Mapping):
        return ANY
    said = schema.get("type")
    if isinstance(said, str):
        return frozenset((said,))
    if isinstance(said, Sequence):
        return frozenset(one for one in said if isinstance(one, str))
    others = [schema.get(key) for key in or_in]
    inner = [one for other in others if isinstance(other, Sequence) for one in other]
    return frozenset[str]().union(*(_types(one, ()) for one in inner))

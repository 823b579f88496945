"""A conversation as it is asked for, checked, and as a chat template reads it."""

from __future__ import annotations

import json
import keyword
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from doppler.errors import FormatError, RequestError
from doppler.inputs.fields import parse_json
from doppler.text.sandbox import Exceeded
from doppler.text.tools import check_tools

Message = dict[str, Any]

TEXTS = ("name", "tool_call_id", "reasoning_content")  # of a message, where it has them
OURS = frozenset(
    ("messages", "tools", "documents", "add_generation_prompt", "bos_token", "eos_token")
)


@dataclass(frozen=True)
class Conversation:
    """Messages, the oldest first, and what else a template is given.

    A content is a text, or None where there are tool calls in its place; the arguments of calls
    are objects. `tools` and `documents` are None where there are none; `options` are values of the
    template's own, such as enable_thinking.
    """

    messages: Sequence[Message]
    tools: Sequence[Mapping[str, Any]] | None = None
    documents: Sequence[Mapping[str, Any]] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, args: Mapping[str, Any]) -> Conversation:
        """Of `messages`, `tools`, `documents`, `template_options`. Raises RequestError."""
        messages = args.get("messages")
        if not isinstance(messages, list) or not messages:
            raise RequestError("messages must be a list of at least one {role, content}")
        return cls(
            [_message(message, f"message {index}") for index, message in enumerate(messages)],
            check_tools(args.get("tools")),
            _objects(args, "documents"),
            _options(args.get("template_options")),
        )

    def of(self, messages: Sequence[Message]) -> Conversation:
        """The same with other messages."""
        return replace(self, messages=messages)

    def values(self) -> dict[str, Any]:
        """What a template is given by these names."""
        return {
            **self.options,
            "messages": list(self.messages),
            "tools": self.tools,
            "documents": self.documents,
            "add_generation_prompt": True,
        }

    def without(self) -> Iterator[tuple[str, Conversation]]:
        """The same without each thing that a template may not know, and what that is."""
        if self.tools:
            yield "tools", replace(self, tools=None)
        if any(message.get("tool_calls") for message in self.messages):
            bare = [{k: v for k, v in m.items() if k != "tool_calls"} for m in self.messages]
            filled = [{**message, "content": message["content"] or ""} for message in bare]
            yield "calls of tools (tool_calls)", self.of(filled)
        others = [message for message in self.messages if message["role"] != "tool"]
        if len(others) < len(self.messages):
            yield "results of tools (messages of role tool)", self.of(others)

    def rendered(self, render: Callable[[Conversation], str]) -> str:
        """What `render` gives. Templates differ in what they can read:

        some want the arguments of calls as text, and some write None where there is no content.
        """
        try:
            text = render(self)
        except RequestError as error:
            too_much = isinstance(error.__cause__, Exceeded)  # and would be again
            if too_much or not any(message.get("tool_calls") for message in self.messages):
                raise
            return render(self.of([_with_text(message) for message in self.messages]))
        if any(message["content"] is None for message in self.messages):
            filled = [{**m, "content": m["content"] or ""} for m in self.messages]
            other = render(self.of(filled))
            return other if other.count("None") < text.count("None") else text
        return text


def _message(value: Any, where: str) -> Message:
    if not isinstance(value, dict) or not isinstance(value.get("role"), str):
        raise RequestError(f"{where} must be an object with a text as role")
    for key in TEXTS:
        if value.get(key) is not None and not isinstance(value[key], str):
            raise RequestError(f"{where}: {key} must be a text")
    kept = {key: part for key, part in value.items() if part is not None or key not in TEXTS}
    content = _content(value.get("content"), where)
    calls = value.get("tool_calls")
    if calls is None:
        kept.pop("tool_calls", None)
    else:
        kept["tool_calls"] = [_call(call, where) for call in _list(calls, f"{where}: tool_calls")]
    if content is None and not calls and not value.get("reasoning_content"):
        raise RequestError(f"{where} must have a text as content")
    return {**kept, "content": content}


def _content(value: Any, where: str) -> str | None:
    """A text, or the text of a list of parts."""
    if value is None or isinstance(value, str):
        return value
    texts = []
    for part in _list(value, f"{where}: content"):
        if not isinstance(part, dict) or not isinstance(part.get("text"), str):
            raise RequestError(
                f"{where}: each part of content must have a text: models here read text"
            )
        texts.append(part["text"])
    return "\n".join(texts)


def _call(value: Any, where: str) -> dict[str, Any]:
    """A tool call, its arguments as an object also where they came as JSON text.

    What an answer wrote (`raw`) is left out: the template writes it anew.
    """
    if not isinstance(value, dict):
        raise RequestError(f"{where}: each of tool_calls must be an object")
    value = {key: part for key, part in value.items() if key != "raw"}
    if not isinstance(value.get("id"), (str, type(None))):
        raise RequestError(f"{where}: the id of each of tool_calls must be a text")
    if "function" not in value:
        return {**value, **_arguments(value, where)}
    function = value["function"]
    if not isinstance(function, dict):
        raise RequestError(f"{where}: the function of each of tool_calls must be an object")
    return {**value, "function": {**function, **_arguments(function, where)}}


def _arguments(function: Mapping[str, Any], where: str) -> dict[str, Any]:
    if not isinstance(function.get("name"), str) or not function["name"]:
        raise RequestError(f"{where}: each of tool_calls must have a function with a name")
    given = function.get("arguments")
    if isinstance(given, str):
        try:
            given = parse_json(given, "a tool call's arguments") if given.strip() else {}
        except FormatError as error:
            raise RequestError(f"{where}: {error}") from error
    if given is not None and not isinstance(given, dict):
        raise RequestError(f"{where}: the arguments of a tool call must be an object")
    return {} if given is None else {"arguments": given}


def _with_text(message: Message) -> Message:
    """With arguments of calls as JSON text, and a text as content."""

    def of(part: Mapping[str, Any]) -> dict[str, Any]:
        given = part.get("arguments")
        text = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
        return {**part, "arguments": text} if "arguments" in part else dict(part)

    calls = [
        {**call, "function": of(call["function"])} if "function" in call else of(call)
        for call in message.get("tool_calls", ())
    ]
    return {
        **message,
        "content": message["content"] or "",
        **({"tool_calls": calls} if calls else {}),
    }


def _objects(args: Mapping[str, Any], name: str) -> list[dict[str, Any]] | None:
    value = args.get(name)
    if not value and isinstance(value, (list, type(None))):
        return None
    items = _list(value, name)
    if not all(isinstance(item, dict) for item in items):
        raise RequestError(f"{name} must be a list of objects")
    return items


def _options(value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise RequestError("template_options must be an object of names and values")
    for name in value:
        if name in OURS:
            raise RequestError(f"template_options cannot set {name}: it is given otherwise")
        if not name.isidentifier() or keyword.iskeyword(name) or name.startswith("_"):
            raise RequestError(f"template_options: {name!r:.60} cannot be a name in a template")
    return dict(value)


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise RequestError(f"{what} must be a list")
    return value

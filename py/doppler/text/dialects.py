"""What a template calls otherwise than OpenAI's messages do: found in its text, not by its model.

The first templates of Gemma 4 know no messages of role tool: results stand in the message that made
the calls (`tool_responses`), before what is said after them. GPT-OSS's has thoughts as `thinking`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from doppler.errors import FormatError
from doppler.inputs.fields import parse_json
from doppler.text.messages import Conversation, Message

_RESPONSES = "tool_responses"
_TOOL_ROLE = re.compile(r"""role['"]?[\])]*\s*(?:==|!=|in)\s*[^\])}%]{0,80}['"]tool['"]""")
_THOUGHTS = re.compile(r"""(?:\.|\[['"])(reasoning_content|reasoning|thinking)\b""")


def adapted(conversation: Conversation, template: str) -> Conversation:
    """The conversation under the names that `template` reads."""
    messages = list(conversation.messages)
    if _RESPONSES in template and not _TOOL_ROLE.search(template):
        messages = _with_responses(messages)
    names = set(_THOUGHTS.findall(template))
    if names and "reasoning_content" not in names:
        messages = [_with_thoughts(message, names) for message in messages]
    return conversation.of(messages)


def _with_thoughts(message: Message, names: set[str]) -> Message:
    """Thoughts by all of these names; some templates refuse them beside a content."""
    thought = message.get("reasoning_content")
    if not thought or message["content"]:
        return message
    return {**dict.fromkeys(names, thought), **message}


def _with_responses(messages: Sequence[Message]) -> list[Message]:
    """Results, and what is said after them, in the message that made the calls.

    What was said before a call comes in front of that. Where nothing follows yet it is among the
    thoughts: a content would end the turn, which is to go on.
    """
    made: list[Message] = []
    for message in messages:
        last = made[-1] if made else {}
        if message["role"] == "tool" and last.get("tool_calls"):
            responses = [*last.get(_RESPONSES, ()), _response(message, last["tool_calls"])]
            made[-1] = {**last, _RESPONSES: responses}
        elif message["role"] != "assistant" or _RESPONSES not in last:
            made.append(message)
        elif message.get("tool_calls"):
            made[-1:] = [_open(last), message]
        else:
            made[-1] = {**last, "content": _joined(last["content"], message["content"])}
    if made and messages[-1]["role"] == "tool":
        made[-1] = _open(made[-1])
    return made


def _open(message: Message) -> Message:
    """A message whose turn goes on."""
    if not message["content"]:
        return message
    thought = _joined(message.get("reasoning_content"), message["content"])
    return {**message, "content": None, "reasoning_content": thought}


def _joined(*texts: str | None) -> str:
    return "\n\n".join(text for text in texts if text)


def _response(message: Message, calls: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A result by the name of its tool: an object where it is JSON of one, else the text."""
    functions = {call.get("id"): call.get("function", call) for call in calls}
    called = functions.get(message.get("tool_call_id"), {})
    name = message.get("name") or called.get("name")
    content = message["content"] or ""
    try:
        response: Any = parse_json(content, "a result")
    except FormatError:
        response = content
    return {"name": name or "unknown", "response": response}

"""What of a conversation reaches the template, what is refused, and what is left out."""

from __future__ import annotations

import json
from typing import Any

import pytest

from doppler.errors import ContextError, RequestError
from doppler.text.fitting import ANSWER_ROOM, fitting
from doppler.text.messages import Conversation
from doppler.text.templates import ChatTemplate

CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": [1, "é"]}'}}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
ASKED = {"role": "user", "content": "hi"}
CALLING = {"role": "assistant", "content": None, "tool_calls": [CALL]}


def rendered(source: str, *messages: dict[str, Any], **args: Any) -> str:
    conversation = Conversation.from_json({"messages": list(messages), **args})
    return conversation.rendered(lambda it: ChatTemplate(source).render(it.values()))


def test_what_a_message_has_reaches_the_template() -> None:
    message = {"role": "tool", "content": "3", "tool_call_id": "c1", "name": "add", "own": [1]}
    thought = {"role": "assistant", "content": "a", "reasoning_content": "b"}
    source = "{% for m in messages %}{{ m | tojson }}{% endfor %}"
    assert rendered(source, message, thought) == "".join(map(json.dumps, (message, thought)))


def test_no_tools_and_no_documents_are_none() -> None:
    source = "{{ tools is none }}{{ documents is none }}{{ enable_thinking is defined }}"
    assert rendered(source, ASKED) == "TrueTrueFalse"
    assert rendered(source, ASKED, tools=[], documents=[]) == "TrueTrueFalse"
    given = {"tools": [TOOL], "documents": [{"title": "b"}]}
    options = {"enable_thinking": False}
    assert rendered(source, ASKED, **given, template_options=options) == "FalseFalseTrue"
    own = "{{ tools | tojson }}{{ documents | tojson }}{{ enable_thinking }}"
    text = json.dumps([TOOL]) + '[{"title": "b"}]False'
    assert rendered(own, ASKED, **given, template_options=options) == text


def test_arguments_of_calls_are_objects_or_text_as_the_template_wants() -> None:
    call = "{% set call = messages[0].tool_calls[0].function %}"
    assert rendered(call + "{{ call.arguments | tojson }}", CALLING) == '{"a": [1, "é"]}'
    assert rendered(call + "{{ call.arguments.a[0] }}", CALLING) == "1"
    assert rendered(call + "{{ 'x' + call.arguments }}", CALLING) == 'x{"a": [1, "é"]}'
    bare = {**CALLING, "tool_calls": [{"name": "add", "arguments": {"a": 1}}]}
    assert rendered("{{ 'x' + messages[0].tool_calls[0].arguments }}", bare) == 'x{"a": 1}'


def test_no_content_is_none_and_is_not_written_as_a_word() -> None:
    assert rendered("{{ messages[0].content is none }}", CALLING) == "True"
    assert rendered("[{{ messages[0].content | trim }}]", CALLING) == "[]"
    assert rendered("[{{ messages[0].content + '' }}]", CALLING) == "[]"


def test_parts_of_a_content_are_one_text() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert rendered("{{ messages[0].content }}", {"role": "user", "content": parts}) == "a\nb"


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ({"messages": []}, "a list of at least one"),
        ({"messages": ["hi"]}, "message 0 must be an object"),
        ({"messages": [ASKED, {"role": 1, "content": "a"}]}, "message 1 must be an object"),
        ({"messages": [{"role": "user"}]}, "message 0 must have a text as content"),
        ({"messages": [{"role": "user", "content": 5}]}, "message 0: content must be a list"),
        ({"messages": [{"role": "user", "content": [{"image": 1}]}]}, "models here read text"),
        ({"messages": [{**ASKED, "name": 1}]}, "message 0: name must be a text"),
        ({"messages": [{**ASKED, "tool_calls": {}}]}, "tool_calls must be a list"),
        ({"messages": [{**ASKED, "tool_calls": [1]}]}, "each of tool_calls must be an object"),
        (
            {"messages": [ASKED, {**ASKED, "tool_calls": [{"id": ["a"], "name": "f"}]}]},
            "message 1: the id of each of tool_calls must be a text",
        ),
        (
            {"messages": [{**ASKED, "tool_calls": [{"function": "g", "name": "f"}]}]},
            "message 0: the function of each of tool_calls must be an object",
        ),
        (
            {"messages": [{**ASKED, "tool_calls": [{"function": None, "name": "f"}]}]},
            "message 0: the function of each of tool_calls must be an object",
        ),
        (
            {"messages": [{**ASKED, "tool_calls": [{"name": "a", "arguments": "{"}]}]},
            "message 0: a tool call's arguments: its JSON is damaged",
        ),
        (
            {"messages": [{**ASKED, "tool_calls": [{"name": "a", "arguments": [1]}]}]},
            "message 0: the arguments of a tool call must be an object",
        ),
        (
            {"messages": [{**ASKED, "tool_calls": [{"function": {"arguments": {}}}]}]},
            "must have a function with a name",
        ),
        ({"messages": [ASKED], "tools": {}}, "tools must be a list"),
        ({"messages": [ASKED], "tools": ["a"]}, r"tools\[0\] must be"),
        ({"messages": [ASKED], "documents": "a"}, "documents must be a list"),
        ({"messages": [ASKED], "template_options": []}, "must be an object"),
        ({"messages": [ASKED], "template_options": {"tools": 1}}, "cannot set tools"),
        ({"messages": [ASKED], "template_options": {"messages": 1}}, "cannot set messages"),
        ({"messages": [ASKED], "template_options": {"a b": 1}}, "cannot be a name"),
        ({"messages": [ASKED], "template_options": {"if": 1}}, "cannot be a name"),
    ],
)
def test_what_is_no_conversation_is_told(args: dict[str, Any], told: str) -> None:
    with pytest.raises(RequestError, match=told):
        Conversation.from_json(args)


class Letters:
    """One token a letter of the contents, and how much was encoded."""

    def __init__(self) -> None:
        self.calls = self.tokens = 0

    def __call__(self, conversation: Conversation) -> list[int]:
        ids = list("".join(m["content"] for m in conversation.messages).encode())
        self.calls += 1
        self.tokens += len(ids)
        return ids


def turns(count: int, length: int, system: str = "") -> Conversation:
    roles = ["user", "assistant"] * count
    messages = [{"role": role, "content": "x" * length} for role in roles[:-1]]
    first = [{"role": "system", "content": system}] if system else []
    return Conversation(first + messages)


@pytest.mark.parametrize("system", ["", "s" * 20])
@pytest.mark.parametrize("length", [1, 7, 30, 100, 300])
@pytest.mark.parametrize("count", [1, 2, 3, 17, 81])
def test_the_oldest_turns_go_as_if_each_had_been_tried(
    count: int, length: int, system: str
) -> None:
    conversation, context = turns(count, length, system), 1000
    room = context - ANSWER_ROOM + 6  # a quarter is less
    every = [len(system) + length * (2 * left - 1) for left in range(count, 0, -1)]
    first = next((i for i, size in enumerate(every) if size <= room), count - 1)
    ids, dropped = fitting(conversation, Letters(), context, 4000)
    assert (len(ids), dropped) == (every[first], 2 * first)


def test_a_long_chat_is_not_encoded_once_a_turn() -> None:
    encode = Letters()
    conversation = turns(81, 500, "s")  # 161 messages
    ids, dropped = fitting(conversation, encode, 4096, 256)
    assert (len(ids), dropped) == (3501, 154)
    assert encode.calls < 8
    assert encode.tokens < 80_501 + 4 * 8192  # the whole once, then some of what fits


def test_what_cannot_fit_is_not_encoded_whole() -> None:
    """A template may take too long for a chat of which most is left out."""
    messages = [{"role": role, "content": "x" * 90} for role in ("user", "assistant") * 400]
    lengths: list[int] = []

    def encode(conversation: Conversation) -> list[int]:
        lengths.append(len(conversation.messages))
        return [0] * 30 * len(conversation.messages)

    ids, dropped = fitting(Conversation(messages), encode, 1024, 100)
    assert (len(ids), dropped) == (30 * 30, 770)
    assert max(lengths) < 80


def test_a_template_that_takes_too_much_is_not_tried_again() -> None:
    loop = ChatTemplate("{% for i in range(99999) %}" * 4 + "{% endfor %}" * 4)
    calls = [{"function": {"name": "f", "arguments": {}}}]
    asked = Conversation([{"role": "assistant", "content": "", "tool_calls": calls}])
    rendered = []

    def render(conversation: Conversation) -> str:
        rendered.append(conversation)
        return loop.render(conversation.values(), lambda: True)

    with pytest.raises(RequestError, match="was stopped"):
        asked.rendered(render)
    assert len(rendered) == 1


def test_a_last_message_that_is_too_long_is_told() -> None:
    with pytest.raises(
        ContextError, match=r"the last message has 300 tokens, .* context holds 256"
    ):
        fitting(turns(3, 300), Letters(), 256, 100)
    assert fitting(turns(3, 240), Letters(), 256, 100) == (list(b"x" * 240), 4)


def tools_of(*functions: Any, **more: Any) -> dict[str, Any]:
    tools = [{"type": "function", "function": function, **more} for function in functions]
    return {"messages": [ASKED], "tools": tools}


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (tools_of({}), r"tools\[0\]: name is None"),
        (tools_of({"name": "a"}, {"name": "a b"}), r"tools\[1\]: name is 'a b'; it must have"),
        (tools_of({"name": "a" * 129}), "it must have 1 to 128 letters"),
        (tools_of({"name": "a"}, {"name": "a"}), "two tools have one name"),
        (tools_of({"name": "a", "descriptoin": ""}), "'descriptoin' is not one of name, descr"),
        (tools_of({"name": "a", "description": 1}), "description must be a text"),
        (tools_of({"name": "a", "parameters": []}), "parameters must be a JSON schema"),
        (tools_of({"name": "a"}, own=1), r"tools\[0\] must be"),
        ({"messages": [ASKED], "tools": [{"name": "a"}]}, r"tools\[0\] must be"),
        (tools_of(*({"name": f"a{at}"} for at in range(129))), "129 tools: 128 can be given"),
        (tools_of({"name": "a", "description": "x" * (1 << 18)}), "characters: 262,144 are read"),
    ],
)
def test_what_is_no_tool_is_told(args: dict[str, Any], told: str) -> None:
    with pytest.raises(RequestError, match=told):
        Conversation.from_json(args)


def test_what_an_answer_wrote_is_not_given_to_a_template() -> None:
    answered = {**CALLING, "tool_calls": [{**CALL, "raw": "<tool_call>"}]}
    source = "{{ messages[0].tool_calls[0] | tojson }}"
    assert rendered(source, answered) == rendered(source, CALLING)

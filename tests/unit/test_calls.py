"""Calls of tools: read in every grammar however the text is cut; what is none stays text."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import pytest

from doppler.text.answer import Output, Shown
from doppler.text.markers import CALLS, HARMONY, INSIDE, PAIRS
from doppler.text.tokenizer import Tokenizer
from doppler.text.tools import NO_TOOLS, ToolCall, Tools
from small_tokenizers import byte_level, tokenizer_of

ENDS = ["<|im_end|>", "<|constrain|>"]
PROPERTIES: dict[str, Any] = {
    "city": {"type": "string"},
    "days": {"type": "integer"},
    "near": {"type": ["number", "null"]},
    "deep": {"anyOf": [{"type": "object"}, {"type": "array"}]},
    "dry": {"type": "boolean"},
    "any": {},
}
TOOLS = Tools.of(
    [
        {
            "type": "function",
            "function": {
                "name": "weather",
                "parameters": {"type": "object", "properties": PROPERTIES},
            },
        },
        {"type": "function", "function": {"name": "now"}},
    ]
)
HERMES = "{% for tool in tools %}<tool_call>{{ tool }}</tool_call>{% endfor %}"
LLAMA = 'Answer with {"name": function name, "parameters": its arguments}.'


@dataclass(frozen=True)
class Answer:
    """What came of an answer, and what was told on the way."""

    output: Output
    heard: list[Shown | ToolCall]

    @property
    def calls(self) -> list[tuple[str, Any]]:
        return [(call.name, call.arguments) for call in self.output.calls]

    def text(self, part: str) -> str:
        return "".join(it.text for it in self.heard if isinstance(it, Shown) and it.part == part)


def model(*controls: str, template: str | None = None, defined: tuple[str, ...] = ()) -> Tokenizer:
    """With the tokens of `controls`, the first of ENDS as its end."""
    eos = (256 + len(controls),)
    return tokenizer_of(byte_level([*controls, *ENDS], defined), eos=eos, chat_template=template)


def answered(tokenizer: Tokenizer, answer: str, tools: Tools = TOOLS) -> Answer:
    ids = tokenizer.encode("hi<|im_end|><|start|>assistant")
    heard: list[Shown | ToolCall] = []
    output = Output(tokenizer.reader(ids, tools), [], heard.append)
    tokens = tokenizer.encode(answer)
    for token in tokens:
        output.push(token)
    output.finish()
    found = Answer(output, heard)
    said = found.text("answer")
    assert output.text == (said.rstrip() if output.ends_with_call else said)
    assert [it for it in heard if isinstance(it, ToolCall)] == output.calls
    assert [it.token for it in heard if isinstance(it, Shown) and it.token is not None] == tokens
    return found


MODELS = {
    "gemma": model("<|tool_call>", "<tool_call|>", '<|"|>', "<|channel>", "<channel|>"),
    "lfm": model("<|tool_call_start|>", "<|tool_call_end|>"),
    "qwen": model("<think>", "</think>", defined=("<tool_call>", "</tool_call>")),
    "hermes": model(template=HERMES),
    "mistral": model("[TOOL_CALLS]", *INSIDE),
    "phi": model("<|tool_call|>", "<|/tool_call|>"),
    "granite": model("<|tool_call|>"),
    "llama": model("<|python_tag|>", template=LLAMA),
    "harmony": model(*HARMONY),
}
CITY = {"city": "Paris"}
JSON = '{"name": "weather", "arguments": {"city": "Paris"}}'
# of a model, what it writes: the calls, and what is said beside them
READ: list[tuple[str, str, list[tuple[str, Any]], str]] = [
    (
        "gemma",
        'So.<|tool_call>call:weather{city:<|"|>Paris<|"|>}<tool_call|><|im_end|>',
        [("weather", CITY)],
        "So.",
    ),
    ("gemma", "<|tool_call>call:now{}<tool_call|>", [("now", {})], ""),
    (
        "gemma",
        '<|tool_call>call:weather{any:<|"|>a, "b" {c:[]} é🙂\n<|"|>,days:-3,near:1.5e2,'
        'deep:{a:[1,true,null,<|"|><|"|>],b:{}},dry:false}<tool_call|>',
        [
            (
                "weather",
                {
                    "any": 'a, "b" {c:[]} é🙂\n',
                    "days": -3,
                    "near": 150.0,
                    "deep": {"a": [1, True, None, ""], "b": {}},
                    "dry": False,
                },
            )
        ],
        "",
    ),
    (
        "gemma",
        "<|channel>thought\nHm.<channel|><|tool_call>call:now{}<tool_call|>"
        "<|tool_call>call:now{ a : 1 , b:[ 2 ] }<tool_call|>",
        [("now", {}), ("now", {"a": 1, "b": [2]})],
        "",
    ),
    ("gemma", '<|tool_call>call:now{<|"|>a b<|"|>:1}', [("now", {"a b": 1})], ""),  # cut off
    ("qwen", f"<tool_call>\n{JSON}\n</tool_call><|im_end|>", [("weather", CITY)], ""),
    (
        "qwen",
        f"<think>\nHm.\n</think>\n\nSure.\n<tool_call>\n{JSON}\n</tool_call>\n<tool_call>\n"
        '{"name": "now", "arguments": {}}\n</tool_call><|im_end|>',
        [("weather", CITY), ("now", {})],
        "Sure.",
    ),
    ("qwen", f"<tool_call>{JSON}</tool_call>\nDone.", [("weather", CITY)], "Done."),
    ("qwen", f"<tool_call>{JSON}<|im_end|>", [("weather", CITY)], ""),
    (
        "qwen",
        '<tool_call>{"name": "now", "arguments": "{\\"a\\": 1}"}</tool_call>',
        [("now", {"a": 1})],
        "",
    ),
    ("qwen", '<tool_call>{"name": "now"}</tool_call>', [("now", {})], ""),
    (
        "qwen",
        "<tool_call>\n<function=weather>\n<parameter=city>\nPa\nris </b>\n</parameter>\n"
        "<parameter=days>\n3\n</parameter>\n<parameter=near>\n2.5\n</parameter>\n"
        '<parameter=deep>\n{"a": [1]}\n</parameter>\n<parameter=dry>\nTrue\n</parameter>\n'
        "<parameter=any>\n5\n</parameter>\n</function>\n</tool_call>",
        [
            (
                "weather",
                {
                    "city": "Pa\nris </b>",
                    "days": 3,
                    "near": 2.5,
                    "deep": {"a": [1]},
                    "dry": True,
                    "any": "5",
                },
            )
        ],
        "",
    ),
    (
        "qwen",
        "<tool_call><function=weather><parameter=city>7</parameter><parameter=days>soon"
        "</parameter><parameter=near>null</parameter></function></tool_call>",
        [("weather", {"city": "7", "days": "soon", "near": None})],
        "",
    ),
    ("qwen", "<tool_call><function=now></function></tool_call>", [("now", {})], ""),
    ("hermes", f"Well:\n<tool_call>\n{JSON}\n</tool_call>", [("weather", CITY)], "Well:"),
    (
        "hermes",
        f"<think>a</think><tool_call>{JSON}</tool_call> <tool_call>{JSON}</tool_call> <tool",
        [("weather", CITY)] * 2,
        "<tool",
    ),
    (
        "mistral",
        '[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Paris"}, "id": "abc123XYZ"}, '
        '{"name": "now", "arguments": {}}]<|im_end|>',
        [("weather", CITY), ("now", {})],
        "",
    ),
    (
        "mistral",
        'I look.[TOOL_CALLS]weather[ARGS]{"city": "Paris"}[TOOL_CALLS]now[CALL_ID]abc[ARGS]{}',
        [("weather", CITY), ("now", {})],
        "I look.",
    ),
    (
        "lfm",
        "<|tool_call_start|>[weather(city=\"Paris\", days=-3, any='it\\'s \\\\ \\u00e9\\n'), "
        "now()]<|tool_call_end|>Done.<|im_end|>",
        [("weather", {**CITY, "days": -3, "any": "it's \\ é\n"}), ("now", {})],
        "Done.",
    ),
    (
        "lfm",
        '<|tool_call_start|>a.now(deep={"a": [1.5, True, None], "b": {}})<|tool_call_end|>',
        [("a.now", {"deep": {"a": [1.5, True, None], "b": {}}})],
        "",
    ),
    (
        "lfm",
        '<|tool_call_start|>[get-weather(x-y=1), 2d/a:b.c(x="\\U0001F600 \\ud83d\\ude00")]'
        "<|tool_call_end|>",
        [("get-weather", {"x-y": 1}), ("2d/a:b.c", {"x": "😀 😀"})],
        "",
    ),
    ("lfm", "<|tool_call_start|>2d-a(x=1)<|tool_call_end|>", [("2d-a", {"x": 1})], ""),
    ("phi", f"<|tool_call|>[{JSON}]<|/tool_call|>", [("weather", CITY)], ""),
    ("granite", f"<|tool_call|>[{JSON}]<|im_end|>", [("weather", CITY)], ""),
    (
        "llama",
        '{"name": "weather", "parameters": {"city": "Paris"}}<|im_end|>',
        [("weather", CITY)],
        "",
    ),
    (
        "llama",
        '<|python_tag|>{"type": "function", "name": "now", "parameters": {}}',
        [("now", {})],
        "",
    ),
    (
        "harmony",
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary"
        ' to=functions.weather <|constrain|>json<|message|>{"city": "Paris"}<|call|>',
        [("weather", CITY)],
        "",
    ),
    (
        "harmony",
        " to=browser.search<|channel|>commentary json<|message|><|call|>",
        [("browser.search", {})],
        "",
    ),
]


@pytest.mark.parametrize(("name", "answer", "calls", "said"), READ)
def test_a_call_is_read(name: str, answer: str, calls: list[tuple[str, Any]], said: str) -> None:
    found = answered(MODELS[name], answer)
    assert (found.calls, found.output.text) == (calls, said)
    assert found.output.notes == ()
    assert found.output.ends_with_call == (not said or said.startswith(("S", "W", "I")))
    raw = "".join(call.raw for call in found.output.calls)
    closes = [mark.closes for mark in CALLS if mark.closes]
    for text in closes:
        raw = raw.replace(text, "")
    assert found.text("tool_call") == raw  # all but what ends it is told as it comes


# of a model, what it writes, and what is told of it
TEXT: list[tuple[str, str, str]] = [
    ("gemma", "<|tool_call>call:now<tool_call|>", "it has no arguments"),
    ("gemma", "<|tool_call>call:now{a}<tool_call|>", "there is no key at"),
    ("gemma", "<|tool_call>call:now{a:b}<tool_call|>", "there is no value at 'b}'"),
    ("gemma", "<|tool_call>call:now{a:1,a:2}<tool_call|>", "the key 'a' stands twice"),
    ("gemma", '<|tool_call>call:now{a:<|"|>b}<tool_call|>', "a string does not end"),
    ("gemma", "<|tool_call>call:now{a:1 b:2}<tool_call|>", "there is no ',' at"),
    ("gemma", "<|tool_call>call:now{}x<tool_call|>", "there is no 'call:' at 'x'"),
    ("gemma", "<|tool_call>call:{}<tool_call|>", "'' cannot be a tool's name"),
    ("gemma", "<|tool_call>call:now{a:" + "[" * 500 + "<tool_call|>", "nested too deeply"),
    ("gemma", "<|tool_call>call:now{a:1e999}<tool_call|>", "too large"),
    ("gemma", "<|tool_call>call:now{a:" + "9" * 5000 + "}<tool_call|>", "too large"),
    ("gemma", "<|tool_call>call:now{a:[-1" + "0" * 400 + "]}<tool_call|>", "too large"),
    ("gemma", "<|tool_call>now{}<tool_call|>", "it begins with 'now{}'"),
    ("gemma", "<|tool_call><tool_call|>", "it begins with ''"),
    ("gemma", "<|tool_call>call:now{a:", "there is no value"),
    ("qwen", "<tool_call>{name: now}</tool_call>", "its JSON is damaged"),
    ("qwen", '<tool_call>{"arguments": {}}</tool_call>', "it has no name"),
    ("qwen", '<tool_call>{"name": "now", "arguments": [1]}</tool_call>', "are no object: [1]"),
    ("qwen", '<tool_call>{"name": "now", "arguments": "a"}</tool_call>', "its JSON is damaged"),
    ("qwen", '<tool_call>{"name": "now", "name": "now"}</tool_call>', "stands twice"),
    ("qwen", '<tool_call>{"name": "now"}, "a": 1</tool_call>', "no single value"),
    ("qwen", '<tool_call>{"name": "now", "arguments": {"a": NaN}}</tool_call>', "or none"),
    ("qwen", '<tool_call>{"name": "now", "arguments": {"a": "\\ud800"}}</tool_call>', "halves"),
    (
        "qwen",
        '<tool_call>{"name": "now", "arguments": {"a": [1' + "0" * 400 + "]}}</tool_call>",
        "too large",
    ),
    (
        "qwen",
        '<tool_call>{"name": "now", "arguments": {"a": 1' + "0" * 5000 + "}}</tool_call>",
        "a number has too many digits",
    ),
    (
        "qwen",
        "<tool_call><function=weather><parameter=days>1" + "0" * 400 + "</parameter></function>"
        "</tool_call>",
        "too large",
    ),
    ("qwen", '<tool_call>{"name": "a\\nb"}</tool_call>', "cannot be a tool's name"),
    ("qwen", "<tool_call>" + "[" * 999 + "</tool_call>", "nested too deeply"),
    ("qwen", "<tool_call>[]</tool_call>", "an empty list"),
    ("qwen", "<tool_call>[1]</tool_call>", "it has no name"),
    ("qwen", "<tool_call><function=now></tool_call>", "there is no <parameter=...>"),
    ("qwen", "<tool_call><function=now><parameter=a>1</function></tool_call>", "does not end"),
    (
        "qwen",
        "<tool_call><function=now><parameter=a>1</parameter><parameter=a>2</parameter></function>"
        "</tool_call>",
        "stands twice",
    ),
    ("qwen", "<tool_call><function=now", "there is no <function=...>"),
    ("qwen", '<tool_call>{"name": "now", "argu<|im_end|>', "its JSON is damaged"),
    ("lfm", "<|tool_call_start|>[now(1)]<|tool_call_end|>", "there is no argument at '1)]'"),
    ("lfm", "<|tool_call_start|>[now(a=1, a=2)]<|tool_call_end|>", "stands twice"),
    ("lfm", "<|tool_call_start|>[now(a=b)]<|tool_call_end|>", "there is no value at 'b)]'"),
    ("lfm", "<|tool_call_start|>[now(a=1+1)]<|tool_call_end|>", "there is no ',' at"),
    ("lfm", "<|tool_call_start|>[now(a='b)]<|tool_call_end|>", "there is no value at"),
    ("lfm", "<|tool_call_start|>now() or so<|tool_call_end|>", "more follows: 'or so'"),
    ("lfm", "<|tool_call_start|>now(a=" + "{'a':" * 99 + "<|tool_call_end|>", "too deeply"),
    ("lfm", "<|tool_call_start|>now(a=1e999)<|tool_call_end|>", "too large"),
    ("lfm", "<|tool_call_start|>now(a=1" + "0" * 400 + ")<|tool_call_end|>", "too large"),
    ("lfm", "<|tool_call_start|>now(a=-" + "9" * 5000 + ")<|tool_call_end|>", "too large"),
    ("mistral", "[TOOL_CALLS]now[ARGS]" + '{"a": 1' + "0" * 400 + "}", "too large"),
    ("lfm", "<|tool_call_start|>now(a='\\ud800')<|tool_call_end|>", "halves"),
    ("hermes", "<tool_call>nothing</tool_call>", "it begins with 'nothing'"),
    ("hermes", '<tool_call>{"name": "now"', "its JSON is damaged"),
    ("mistral", "[TOOL_CALLS]now{}", "it begins with 'now{}'"),
    ("mistral", "[TOOL_CALLS]now[ARGS][1]", "its arguments are no object"),
    ("phi", f"<|tool_call|>{JSON[:-2]}<|/tool_call|>", "its JSON is damaged"),
    (
        "harmony",
        "<|channel|>commentary to=python<|message|>print(1)<|call|>",
        "its JSON is damaged",
    ),
]


@pytest.mark.parametrize(("name", "answer", "told"), TEXT)
def test_what_is_no_call_is_text_with_a_note(name: str, answer: str, told: str) -> None:
    found = answered(MODELS[name], answer)
    assert found.output.text == answer.removesuffix("<|im_end|>").removesuffix("<|call|>")
    assert found.calls == []
    (note,) = found.output.notes
    assert note.startswith("what was written as a tool call is text: ")
    assert told in note
    assert len(note) < 300
    assert not found.output.ends_with_call


@pytest.mark.parametrize(
    ("name", "answer", "tools"),
    [
        ("hermes", f"<tool_call>{JSON}</tool_call>", NO_TOOLS),  # asked how one is written
        ("llama", '{"name": "weather", "parameters": {}}', NO_TOOLS),
        ("llama", '{"name": "other", "parameters": {}}', TOOLS),
        ("llama", '{"name": "weather", "parameters": {}, "own": 1}', TOOLS),
        ("llama", '{"name": "weather", "parameters": {}} and so on', TOOLS),
        ("llama", '{"name": "Ada", "born": 1815}', TOOLS),
        ("llama", '{ "nam', TOOLS),
        ("llama", "{", TOOLS),
        ("llama", '{"names": []}', TOOLS),
        ("llama", "So: " + JSON, TOOLS),
        ("qwen", JSON, TOOLS),
        ("gemma", f"<tool_call>{JSON}</tool_call>", TOOLS),  # none of its own marks
        ("harmony", "<|channel|>final<|message|>to=me {}<|return|>", TOOLS),
    ],
)
def test_what_only_looks_like_a_call_is_text(name: str, answer: str, tools: Tools) -> None:
    found = answered(MODELS[name], answer, tools)
    said = answer.removeprefix("<|channel|>final<|message|>").removesuffix("<|return|>")
    assert (found.calls, found.output.text, found.output.notes) == ([], said, ())


def test_calls_between_tokens_are_read_without_tools_too() -> None:
    assert answered(MODELS["qwen"], f"<tool_call>{JSON}</tool_call>", NO_TOOLS).calls == [
        ("weather", CITY)
    ]


def test_a_marker_that_is_spelled_where_there_is_a_token_is_text() -> None:
    tokenizer = MODELS["gemma"]
    output = Output(tokenizer.reader([], TOOLS), [], lambda it: None)
    text = "<|tool_call>call:now{}<tool_call|>"
    for letter in text:
        output.push(tokenizer.encode(letter)[0])
    output.finish()
    assert (output.text, output.calls) == (text, [])


def test_a_quote_that_is_spelled_is_in_the_string() -> None:
    tokenizer = MODELS["gemma"]
    quote, spelled = '<|"|>', [tokenizer.encode(letter)[0] for letter in '<|"|>']
    begin, end = (tokenizer.encode(text) for text in (f"<|tool_call>call:now{{a:{quote}", quote))
    output = Output(tokenizer.reader([], TOOLS), [], lambda it: None)
    for token in [*begin, *spelled, *end, *tokenizer.encode("}<tool_call|>")]:
        output.push(token)
    assert [call.arguments for call in output.calls] == [{"a": quote}]
    assert output.calls[0].raw == f"<|tool_call>call:now{{a:{quote * 3}}}<tool_call|>"


@pytest.mark.parametrize(("name", "answer", "calls", "said"), READ)
def test_no_half_of_a_mark_is_ever_said(
    name: str, answer: str, calls: list[tuple[str, Any]], said: str
) -> None:
    """While an answer comes, nothing is shown of it that is no part of what it says in the end."""
    tokenizer = MODELS[name]
    begun = tokenizer.encode("<|im_end|><|start|>assistant")
    output = Output(tokenizer.reader(begun, TOOLS), [], lambda it: None)
    for token in tokenizer.encode(answer):
        output.push(token)
        assert said.startswith(output.text.rstrip())


def test_a_call_inside_reasoning_does_not_end_it() -> None:
    found = answered(MODELS["qwen"], f"<think>Hm. <tool_call>{JSON}</tool_call> So.</think>Yes.")
    assert found.calls == [("weather", CITY)]
    assert (found.output.reasoning, found.output.text) == ("Hm.\n\nSo.", "Yes.")


def test_ids_of_calls() -> None:
    """Nine letters and digits, the same for the same answer; a model's own is kept."""
    first, second = (answered(MODELS["qwen"], READ[6][1]).output.calls for _ in range(2))
    assert [call.id for call in first] == [call.id for call in second]
    assert len({call.id for call in first}) == 2
    assert all(len(call.id) == 9 and call.id.isalnum() for call in first)
    longer = Output(MODELS["qwen"].reader([1, 2], TOOLS), [], lambda it: None)
    for token in MODELS["qwen"].encode(f"<tool_call>{JSON}</tool_call>"):
        longer.push(token)
    assert longer.calls[0].id not in {call.id for call in first}
    own = answered(MODELS["mistral"], READ[16][1]).output.calls
    assert own[0].id == "abc123XYZ"


def test_no_two_calls_have_one_id() -> None:
    """Of calls to which a model gave one id, the first keeps it: results are told apart by it."""
    one = '{"name": "now", "id": "abc123XYZ"}'
    twice = answered(MODELS["mistral"], f"[TOOL_CALLS][{one}, {one}][TOOL_CALLS][{one}]")
    first, *others = [call.id for call in twice.output.calls]
    assert first == "abc123XYZ"
    assert len({first, *others}) == 3


def test_a_call_in_the_line_that_names_a_channel() -> None:
    found = answered(MODELS["gemma"], "<|channel>so<|tool_call>call:now{}<tool_call|>Yes.")
    assert found.calls == [("now", {})]
    assert (found.output.reasoning, found.output.text) == ("so\n\nYes.", "")


def test_a_stop_text_does_not_end_a_call() -> None:
    tokenizer = MODELS["qwen"]
    output = Output(tokenizer.reader([], TOOLS), ["Paris"], lambda it: None)
    for token in tokenizer.encode(f"<tool_call>{JSON}</tool_call>"):
        output.push(token)
    output.finish()
    assert (output.stopped, len(output.calls)) == (False, 1)


def in_pieces(pieces: list[str], stop: list[str] | None = None) -> Answer:
    """Of a model that spells its marks, and has a token for each of these texts."""
    document = byte_level(ENDS, plain=tuple(dict.fromkeys(pieces)))
    tokenizer = tokenizer_of(document, chat_template=HERMES)
    ids = {text: 256 + len(ENDS) + at for at, text in enumerate(dict.fromkeys(pieces))}
    heard: list[Shown | ToolCall] = []
    output = Output(tokenizer.reader([], TOOLS), stop or [], heard.append)
    for piece in pieces:
        output.push(ids[piece])
    output.finish()
    return Answer(output, heard)


CALL = f"<tool_call>\n{JSON}\n</tool_call>"
INDENTED = "    <tool_call>\n    not json\n    </tool_call>"


@pytest.mark.parametrize(
    "text",
    [
        "Write `<tool_call>` first.",
        "Write <tool_call> first.",
        "So: <tool_call> a </tool_call> then",
        "So:\n\n  <tool_call> a </tool_call>\n\n  then\n",
        f"```xml\n{INDENTED}\n```\n",
        f"As in:\n{INDENTED}\nor so",
        f"```xml\n{CALL}\n```\nThat is the form.",
        f"1. ````\n```\n`{CALL}",
        f"Write `` ` {JSON} {CALL[:11]} `` or `{CALL[:11]}`.",
        f"It is `<tool_call>{JSON}</tool_call>` here",
        f"```{CALL[:11]}```",
    ],
)
@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_text_that_only_looked_like_a_call_comes_as_it_was(text: str, size: int) -> None:
    found = in_pieces([text[at : at + size] for at in range(0, len(text), size)])
    assert (found.output.text, found.calls) == (text, [])
    assert found.text("answer") == text


@pytest.mark.parametrize(
    "before",
    [
        "Let me use `weather`:\n",
        "```sh\nls\n```\n",
        "5` wide\n",  # which opens no code
        "```a``` b ",
        "``a`b`` ",
        "> ```\n> a\n> ```\n",
        "Write `<tool_call>`: ",
    ],
)
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_a_call_behind_code_is_read(before: str, size: int) -> None:
    text = before + CALL
    found = in_pieces([text[at : at + size] for at in range(0, len(text), size)])
    assert (found.output.text, found.calls) == (before.rstrip(), [("weather", CITY)])


def test_a_failed_call_leaves_reasoning_as_it_was() -> None:
    thought = "Hm.\n <tool_call>{</tool_call> So."
    found = answered(MODELS["qwen"], f"<think>{thought}</think>Yes.")
    assert (found.output.reasoning, found.output.text) == (thought, "Yes.")


def test_a_call_that_is_spelled_ends_where_a_token_begins_one() -> None:
    both = model("[TOOL_CALLS]", *INSIDE, template=HERMES)
    found = answered(both, "<tool_call>a[TOOL_CALLS]now[ARGS]{}")
    assert (found.output.text, found.calls) == ("<tool_call>a", [("now", {})])


def order(answer: Answer) -> list[str]:
    """What was told, in order: the texts, and names of calls in their places."""
    return [it.name if isinstance(it, ToolCall) else it.text for it in answer.heard]


def test_what_a_token_says_after_a_call_is_told_after_it() -> None:
    found = in_pieces([f"<tool_call>{JSON}", "</tool_call>. Done."])
    assert order(found) == ["<tool_call>", JSON, "weather", ". Done."]
    assert (found.output.text, found.output.ends_with_call) == (". Done.", False)
    tokens = [it.token for it in found.heard if isinstance(it, Shown)]
    assert tokens == [258, None, 259]


def test_what_a_stop_text_held_is_told_before_a_call() -> None:
    found = in_pieces(["I will look:", f"<tool_call>{JSON}</tool_call>"], [": stop"])
    assert order(found) == ["I will look", "<tool_call>", JSON, ":", "weather"]
    assert (found.output.text, found.output.ends_with_call) == ("I will look:", True)


def test_a_call_is_told_before_the_next_begins() -> None:
    found = answered(MODELS["mistral"], "[TOOL_CALLS]now[ARGS]{}[TOOL_CALLS]weather[ARGS]{}")
    told = order(found)
    begins = [at for at, text in enumerate(told) if text == "[TOOL_CALLS]"]
    assert told.index("now") + 1 == begins[1]
    assert told[-1] == "weather"


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("seed", range(8))
def test_whatever_comes_is_shown_once(name: str, seed: int) -> None:
    chance = random.Random(seed)
    marks = [text for mark in CALLS for text in (mark.opens, mark.closes, mark.quote) if text]
    pairs = ["<think>", "</think>"]
    texts = ["🙂", "call:now{", "}", '{"name": "now"}', "a:1", "<function=now>", "</function>", " "]
    texts += [*marks, *INSIDE, *pairs, *(HARMONY if name == "harmony" else ())]
    for _ in range(20):
        answer = "".join(chance.choice(texts) for _ in range(30))
        found = answered(MODELS[name], answer)
        shown = [found.output.text, found.output.reasoning or ""]
        shown += {call.raw: "" for call in found.output.calls}
        if name != "harmony":  # whose headers are not shown
            assert "".join(shown).count("🙂") == answer.count("🙂")


def test_the_tables_have_no_mark_twice() -> None:
    marks = [mark.opens for mark in CALLS] + [pair.opens for pair in PAIRS]
    assert len(set(marks)) == len(marks)

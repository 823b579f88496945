"""A chat template of our own in Gemma 4's grammar, and what it has to give, written by hand.

A system turn comes first where there is a system message, a tool or thinking. Calls, their results
and what is said after them are one turn of the model. Of its thoughts only those since the person's
last message are there.
"""

# ruff: noqa: E501 (a template is easier to read in one line)

from __future__ import annotations

from typing import Any

_TEMPLATE = """
{%- macro value(it, types) -%}
{%- if it is string -%}<|"|>{{ it }}<|"|>
{%- elif it is boolean -%}{{ 'true' if it else 'false' }}
{%- elif it is none -%}null
{%- elif it is mapping -%}{{ table(it, types) }}
{%- elif it is iterable -%}[{% for one in it %}{{ value(one, types) }}{{ ',' if not loop.last }}{% endfor %}]
{%- else -%}{{ it }}
{%- endif -%}
{%- endmacro -%}
{%- macro table(it, types=false) -%}
{{ '{' }}{% for key, one in it | dictsort %}{{ key }}:{{ value(one | upper if types and key == 'type' and one is string else one, types) }}{{ ',' if not loop.last }}{% endfor %}{{ '}' }}
{%- endmacro -%}
{%- macro thought(text) -%}
<|channel>thought
{{ text | trim }}
<channel|>
{%- endmacro -%}
{%- set thinking = enable_thinking is defined and enable_thinking -%}
{%- set first = messages[0] -%}
{%- set has_system = first.role in ('system', 'developer') -%}
{%- set ns = namespace(open=false, asked=-1) -%}
{%- for message in messages -%}{%- if message.role == 'user' -%}{%- set ns.asked = loop.index0 -%}{%- endif -%}{%- endfor -%}
{{ bos_token }}
{%- if has_system or tools or thinking -%}
<|turn>system
{% if thinking %}<|think|>
{% endif %}{{ first.content | trim if has_system }}
{%- for tool in tools or [] -%}
<|tool>declaration:{{ tool.function.name }}{description:<|"|>{{ tool.function.description }}<|"|>{% if tool.function.parameters %},parameters:{{ table(tool.function.parameters, true) }}{% endif %}}<tool|>
{%- endfor -%}
<turn|>
{% endif -%}
{%- for message in messages -%}
{%- if message.role == 'tool' -%}
<|tool_response>response:{{ message.name }}{value:<|"|>{{ message.content | trim }}<|"|>}<tool_response|>
{%- elif message.role == 'assistant' -%}
{{ '<|turn>model\n' if not ns.open }}
{%- if message.reasoning_content and loop.index0 > ns.asked %}{{ thought(message.reasoning_content) }}{% endif -%}
{{ (message.content or '').split('<channel|>')[-1] | trim }}
{%- for call in message.tool_calls or [] -%}
<|tool_call>call:{{ call.function.name }}{{ table(call.function.arguments) }}<tool_call|>
{%- endfor -%}
{%- set ns.open = message.tool_calls is defined and message.tool_calls | length > 0 -%}
{{ '<turn|>\n' if not ns.open }}
{%- elif message.role == 'user' -%}
<|turn>user
{{ message.content | trim }}<turn|>
{% endif -%}
{%- endfor -%}
{%- if add_generation_prompt and not ns.open -%}
<|turn>model
{% if PREFILLS and not thinking %}<|channel>thought
<channel|>{% endif -%}
{%- endif -%}
"""
SMALL, LARGE = (_TEMPLATE.replace("PREFILLS", word) for word in ("false", "true"))
# As the first published ones: results are read from the message that made the calls.
_ROLE = _TEMPLATE[
    _TEMPLATE.index("{%- if message.role == 'tool' -%}") : _TEMPLATE.index(
        "{%- elif message.role == 'assistant' -%}"
    )
]
_SAID = "{{ (message.content or '').split('<channel|>')[-1] | trim }}\n"
_OPEN = "{%- set ns.open = message.tool_calls is defined and message.tool_calls | length > 0 -%}"
_RESPONSES = """{%- for it in message.tool_responses or [] -%}
<|tool_response>response:{{ it.name }}{{ table(it.response) if it.response is mapping else table({'value': it.response}) }}<tool_response|>
{%- endfor -%}
"""
_OPEN_AFTER = "{%- set ns.open = message.tool_calls is defined and not message.content -%}"
FIRST = (
    SMALL.replace(_ROLE, "")
    .replace("{%- elif message.role == 'assistant' -%}", "{%- if message.role == 'assistant' -%}")
    .replace(_SAID, "")
    .replace(_OPEN, f"{_RESPONSES}{_SAID}{_OPEN_AFTER}")
)
CONTROLS = [
    "<bos>",
    "<eos>",
    "<|tool>",
    "<tool|>",
    "<|tool_call>",
    "<tool_call|>",
    "<|tool_response>",
    "<tool_response|>",
    '<|"|>',
    "<|think|>",
    "<|channel>",
    "<channel|>",
    "<|turn>",
    "<turn|>",
]

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Says the weather.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "Where"},
                "days": {"type": "integer"},
            },
            "required": ["city"],
        },
    },
}
DECLARED = (
    '<|tool>declaration:weather{description:<|"|>Says the weather.<|"|>,parameters:{properties:{'
    'city:{description:<|"|>Where<|"|>,type:<|"|>STRING<|"|>},days:{type:<|"|>INTEGER<|"|>}},'
    'required:[<|"|>city<|"|>],type:<|"|>OBJECT<|"|>}}<tool|>'
)
ASKED = {"role": "user", "content": " Will it rain in Paris? "}
CALL = {"name": "weather", "arguments": {"days": 3, "city": "Paris"}}
CALLING = {
    "role": "assistant",
    "content": None,
    "reasoning_content": "I need the weather.",
    "tool_calls": [{"id": "abcdefghi", "type": "function", "function": CALL}],
}
RESULT = {"role": "tool", "tool_call_id": "abcdefghi", "name": "weather", "content": "wet"}
SAID = {"role": "assistant", "content": "Yes.", "reasoning_content": "It says wet."}
AGAIN = {"role": "user", "content": "And later?"}
SYSTEM = {"role": "system", "content": "Be brief."}

_ASKED = "<|turn>user\nWill it rain in Paris?<turn|>\n"
_CALLED = '<|tool_call>call:weather{city:<|"|>Paris<|"|>,days:3}<tool_call|>'
_RESULT = '<|tool_response>response:weather{value:<|"|>wet<|"|>}<tool_response|>'
_THINKS = "<|channel>thought\nI need the weather.\n<channel|>"
# what is asked -> what the template gives
RENDERED: dict[str, tuple[str, dict[str, Any], str]] = {
    "a question": (
        SMALL,
        {"messages": [ASKED]},
        f"<bos>{_ASKED}<|turn>model\n",
    ),
    "a question to a large model": (
        LARGE,
        {"messages": [ASKED]},
        f"<bos>{_ASKED}<|turn>model\n<|channel>thought\n<channel|>",
    ),
    "a system message": (
        SMALL,
        {"messages": [SYSTEM, ASKED]},
        f"<bos><|turn>system\nBe brief.<turn|>\n{_ASKED}<|turn>model\n",
    ),
    "thinking": (
        LARGE,
        {"messages": [ASKED], "template_options": {"enable_thinking": True}},
        f"<bos><|turn>system\n<|think|>\n<turn|>\n{_ASKED}<|turn>model\n",
    ),
    "thinking that is off": (
        SMALL,
        {"messages": [ASKED], "template_options": {"enable_thinking": False}},
        f"<bos>{_ASKED}<|turn>model\n",
    ),
    "tools": (
        SMALL,
        {"messages": [ASKED], "tools": [WEATHER]},
        f"<bos><|turn>system\n{DECLARED}<turn|>\n{_ASKED}<|turn>model\n",
    ),
    "tools, a system message and thinking": (
        SMALL,
        {
            "messages": [SYSTEM, ASKED],
            "tools": [WEATHER],
            "template_options": {"enable_thinking": True},
        },
        f"<bos><|turn>system\n<|think|>\nBe brief.{DECLARED}<turn|>\n{_ASKED}<|turn>model\n",
    ),
    "a result: the model's turn goes on, with what it thought in it": (
        LARGE,
        {
            "messages": [ASKED, CALLING, RESULT],
            "tools": [WEATHER],
            "template_options": {"enable_thinking": True},
        },
        f"<bos><|turn>system\n<|think|>\n{DECLARED}<turn|>\n{_ASKED}"
        f"<|turn>model\n{_THINKS}{_CALLED}{_RESULT}",
    ),
    "a result without thinking: nothing is prefilled": (
        LARGE,
        {"messages": [ASKED, {**CALLING, "reasoning_content": None}, RESULT], "tools": [WEATHER]},
        f"<bos><|turn>system\n{DECLARED}<turn|>\n{_ASKED}<|turn>model\n{_CALLED}{_RESULT}",
    ),
    "the next question: earlier thoughts are gone": (
        SMALL,
        {
            "messages": [ASKED, CALLING, RESULT, SAID, AGAIN],
            "tools": [WEATHER],
            "template_options": {"enable_thinking": True},
        },
        f"<bos><|turn>system\n<|think|>\n{DECLARED}<turn|>\n{_ASKED}"
        f"<|turn>model\n{_CALLED}{_RESULT}Yes.<turn|>\n"
        "<|turn>user\nAnd later?<turn|>\n<|turn>model\n",
    ),
    "thoughts that stand in an answer's text are gone too": (
        SMALL,
        {
            "messages": [
                ASKED,
                {"role": "assistant", "content": "<|channel>thought\nHm.<channel|>Yes."},
                AGAIN,
            ]
        },
        f"<bos>{_ASKED}<|turn>model\nYes.<turn|>\n<|turn>user\nAnd later?<turn|>\n<|turn>model\n",
    ),
}

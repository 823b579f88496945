"""Public chat templates rendered by us and by transformers: python compare_templates.py FOLDER...

Needs transformers beside doppler's own packages. A folder is searched for *.jinja, such as those of
the source distribution of llama-cpp-python (0.3.36 brings 70). Prints what differs, and counts.
"""

from __future__ import annotations

import json
import sys
from itertools import product
from pathlib import Path
from typing import Any

from transformers.utils.chat_template_utils import render_jinja_template

from doppler.errors import RequestError
from doppler.text.messages import Conversation
from doppler.text.templates import ChatTemplate

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
USER, AGAIN = (
    {"role": "user", "content": "Add <1> & 2 é"},
    {"role": "user", "content": "\n\nAgain\n"},
)
CODE = {"role": "assistant", "content": "<think>\nhm\n</think>\n\n    if a:\n        b()\n"}
THOUGHT = {"role": "assistant", "content": "3", "reasoning_content": "Well,\nyes"}
SYSTEM, DEVELOPER = ({"role": role, "content": " Be brief. "} for role in ("system", "developer"))
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": [2, "é"]}}}
CALLING = {"role": "assistant", "content": "", "tool_calls": [{**CALL, "id": "callabc12"}]}
RESULT = {"role": "tool", "content": "3", "tool_call_id": "callabc12", "name": "add"}
NUMBER = {"type": "number", "description": "A <number>"}
PARAMETERS = {"type": "object", "properties": {"a": NUMBER, "b": NUMBER}, "required": ["a"]}
FUNCTION = {"name": "add", "description": "Adds.", "parameters": PARAMETERS}
TOOLS = [{"type": "function", "function": FUNCTION}]
TALKS: list[dict[str, Any]] = [
    {"messages": [USER]},
    {"messages": [SYSTEM, USER]},
    {"messages": [DEVELOPER, USER]},
    {"messages": [USER, CODE, AGAIN]},
    {"messages": [SYSTEM, USER, THOUGHT, AGAIN, CODE, USER]},
    {"messages": [USER], "tools": TOOLS},
    {"messages": [SYSTEM, USER, CALLING, RESULT], "tools": TOOLS},
    {"messages": [USER, CALLING, RESULT, THOUGHT, AGAIN], "tools": TOOLS},
    {"messages": [USER], "documents": [{"title": "A", "text": "B"}]},
    {"messages": [USER, USER]},
]
OPTIONS: list[dict[str, Any]] = [{}, {"enable_thinking": False, "reasoning_effort": "low"}]


def theirs(source: str, talk: dict[str, Any], options: dict[str, Any]) -> str | None:
    """What transformers renders; None where it refuses."""
    others = {name: talk.get(name) for name in ("tools", "documents")}
    settings = {"chat_template": source, "add_generation_prompt": True, **others}
    try:
        texts, _ = render_jinja_template([talk["messages"]], **settings, **SPECIAL, **options)
    except Exception:  # of a template: any
        return None
    return str(texts[0])


def ours(source: str, talk: dict[str, Any], options: dict[str, Any]) -> str | None:
    """The same by us, without what a conversation does for templates that cannot read it."""
    conversation = Conversation.from_json({**talk, "template_options": options})
    try:
        return ChatTemplate(source).render({**SPECIAL, **conversation.values()})
    except RequestError:
        return None


def main() -> None:
    """Compare all templates below the folders that are named."""
    paths = sorted(path for folder in sys.argv[1:] for path in Path(folder).rglob("*.jinja"))
    counts = {"templates": len(paths), "renderings": 0, "refused by both": 0, "different": 0}
    for path, talk, options in product(paths, TALKS, OPTIONS):
        source = path.read_text(encoding="utf-8")
        expected, seen = theirs(source, talk, options), ours(source, talk, options)
        counts["renderings"] += 1
        counts["refused by both"] += expected is None and seen is None
        if expected != seen:
            counts["different"] += 1
            print(f"{path.name}: {json.dumps([talk, options])}\n{expected!r}\n{seen!r}")
    print(json.dumps(counts))


if __name__ == "__main__":
    main()

"""Calls of tools in the page, and a model that says how it is sampled."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import expect

from app_page import App, convert_all, watched
from scripted_model import CALLING, SAID, WITH_TOOLS, write_script
from visited import Visited

WORDS = " ".join(word[1:] for word in SAID)
RAW = '<tool_call>{"name": "weather", "arguments": {"city": "Paris"}}</tool_call>'
AS_MARKDOWN = """async () => {
  const [{ markdownOf }, { state }] = await Promise.all(
    ["export", "store"].map((name) => import(`/app/${name}.js`)));
  return markdownOf(state.current);
}"""
# Settings as they were kept before models had sampling of their own: 40 was nobody's choice.
KEEP_OLD = """() => localStorage.setItem("doppler.settings", JSON.stringify(
  { top_k: 40, top_p: 0.5, min_p: 0, greedy: false, temperature: null, max_tokens: 512 }))"""
# What comes back of an export of all that is shown.
CAME_BACK = """async () => {
  const [{ ofExported, FORMAT }, { state }] = await Promise.all(
    ["stored", "store"].map((name) => import(`/app/${name}.js`)));
  const text = JSON.stringify({ format: FORMAT, version: 2, conversations: [state.current] });
  return ofExported(text, "a.json")[0].messages.at(-1);
}"""


@pytest.fixture(scope="module")
def app(visited: Visited, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """The page with a model loaded that calls a tool, and says how it is sampled."""
    folder = tmp_path_factory.mktemp("scripts")
    caller = write_script(
        folder / "caller.gguf",
        CALLING,
        "caller",
        general__sampling__temp=0.7,
        general__sampling__top_k=("i32", 20),
        general__sampling__top_p=9.0,
        tokenizer__chat_template=WITH_TOOLS,
    )
    models = convert_all({"caller": caller}, folder / "models")
    with (
        watched(models, tmp_path_factory.mktemp("server"), visited.port) as server,
        visited.opened() as context,
    ):
        app = App(context.pages[0], server.url).open()
        app.get("caller")
        yield app


def test_sampling_begins_as_the_model_says_and_goes_back_to_it(app: App) -> None:
    def shown(name: str) -> tuple[str, str]:
        value = app.page.get_by_test_id(f"set-{name}").input_value()
        return value, app.page.get_by_test_id(f"origin-{name}").inner_text()

    app.page.get_by_role("button", name="Settings").click()
    assert shown("temperature") == ("0.7", "The model's own.")
    assert shown("top_k") == ("20", "The model's own.")
    assert shown("top_p") == ("0.9", "Doppler's default.")
    app.page.get_by_test_id("set-temperature").fill("1.5")
    app.page.get_by_test_id("set-min_p").fill("0.9")
    assert shown("temperature") == ("1.5", "Yours.")
    app.page.get_by_role("button", name="Back to 0.7, the model's own").click()
    assert shown("temperature") == ("0.7", "The model's own.")
    app.page.get_by_role("button", name="Close settings").click()
    app.new_chat()
    assert app.answer("hello") == WORDS
    sampling = app.last("chat")["args"]["sampling"]
    assert (sampling["temperature"], sampling["top_k"], sampling["min_p"]) == (0.7, 20, 0.9)
    assert (sampling["top_p"], sampling["greedy"]) == (0.9, False)
    (model,) = app.call("models")
    own = {"temperature": 0.7, "top_k": 20}
    assert {name: value for name, value in model["sampling"].items() if value is not None} == own
    app.page.get_by_role("button", name="Settings").click()
    app.page.get_by_role("button", name="Defaults").click()
    app.page.get_by_role("button", name="Close settings").click()


def test_a_call_is_folded_under_the_answer_and_kept(app: App) -> None:
    app.set(greedy=True)
    app.new_chat()
    assert app.answer("hello") == WORDS
    told = app.last("chat")["result"]
    (call,) = told["tool_calls"]
    assert call["function"] == {"name": "weather", "arguments": {"city": "Paris"}}
    assert (told["finish_reason"], call["raw"], told["notes"]) == ("tool_calls", RAW, [])
    shown = app.answers.last.get_by_test_id("tool-call")
    summary, text = shown.locator("summary"), shown.get_by_test_id("tool-call-text")
    expect(summary).to_have_text("Tool call: weather")
    expect(text).to_be_hidden()
    summary.click()
    expect(text).to_have_text(json.dumps({"city": "Paris"}, indent=2))
    expect(app.answers.last.get_by_test_id("stats")).to_contain_text("ended with a tool call")

    app.answer("and now?")
    given = app.last("chat")["args"]["messages"]
    assert given[1] == {"role": "assistant", "content": f" {WORDS}\n{RAW}"}
    written = f'{WORDS}\n\nTool call: weather\n\n    {{\n      "city": "Paris"\n    }}\n'
    assert app.page.evaluate(AS_MARKDOWN).endswith(written)
    back = app.page.evaluate(CAME_BACK)
    kept = {"name": "weather", "arguments": {"city": "Paris"}, "raw": RAW}
    assert (back["content"], back["calls"], back["finish"]) == (f" {WORDS}", [kept], "tool_calls")

    # With tools and results, as a program asks for it.
    function = {"name": "weather", "parameters": {"type": "object"}}
    asked = {"tools": [{"type": "function", "function": function}], "sampling": {"greedy": True}}
    messages: list[dict[str, Any]] = [{"role": "user", "content": "hello"}]
    first = app.call("chat", messages=messages, **asked)
    messages += [{"role": "assistant", "content": None, "tool_calls": first["tool_calls"]}]
    messages += [{"role": "tool", "tool_call_id": first["tool_calls"][0]["id"], "content": "wet"}]
    second = app.call("chat", messages=messages, **asked)
    ids = [answer["tool_calls"][0]["id"] for answer in (first, second)]
    assert ids[0] != ids[1]
    assert len(second["prompt_ids"]) > len(first["prompt_ids"]) > len(told["prompt_ids"])

    app.page.evaluate(KEEP_OLD)
    app.open()
    assert app.page.get_by_test_id("origin-top_k").text_content() == "Doppler's default."
    assert app.page.get_by_test_id("origin-top_p").text_content() == "Yours."
    expect(app.answers).to_have_count(2)
    expect(app.answers.first.get_by_test_id("tool-call")).to_contain_text("Tool call: weather")

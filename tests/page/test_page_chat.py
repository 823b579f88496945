"""Chatting and continuing in the page: stop, regenerate, edit, settings, memory, and trouble."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, expect

from accessible import assert_accessible
from app_page import App, Traffic, watched
from visited import Visited

LONG = "4000"  # tokens: more than a test waits for
LOSE_DEVICE = "from doppler.page import bridge; bridge.api._gpu.device.destroy()"
ENDLESS = """
from doppler.text import sandbox
from doppler.page import bridge
from doppler.text.templates import ChatTemplate
seconds, sandbox.SECONDS = sandbox.SECONDS, 60
tokenizer = bridge.api._model.tokenizer
kept, loop = tokenizer._template, "{% for i in range(99999) %}" * 4 + "{% endfor %}" * 4
tokenizer._template = ChatTemplate(loop)
"""
MENDED = "sandbox.SECONDS, tokenizer._template = seconds, kept"
COUNT_EVENTS = """async () => {
  let [heard, late] = [0, 0];
  const args = { messages: [{ role: "user", content: "hello" }], max_tokens: 8 };
  for (let i = 0; i < 6; i++) {
    let ended = false;
    await doppler.call("chat", { ...args, sampling: { greedy: true } }, ({ type }) => {
      if (type !== "token") return;
      heard += 1;
      if (ended) late += 1;
      for (const until = performance.now() + 60; performance.now() < until; );
    });
    ended = true;
  }
  await new Promise((done) => setTimeout(done, 300));
  return [heard, late];
}"""
FOCUSED = "document.activeElement && document.activeElement !== document.body"
SHIFTS = """() => {
  window.shifts = [];
  const name = ({ node }) => node?.id || node?.className || node?.nodeName;
  new PerformanceObserver((list) => {
    for (const { value, sources } of list.getEntries()) shifts.push([value, sources.map(name)]);
  }).observe({ type: "layout-shift" });
}"""
WIDER = """() => [document.documentElement, ...document.querySelectorAll(".view, dialog[open]")]
  .filter((part) => part.scrollWidth > part.clientWidth || part.clientWidth > innerWidth)
  .map((part) => `${part.id || part.tagName}: ${part.scrollWidth}`)"""


@pytest.fixture(scope="module")
def opened(
    visited: Visited,
    tiny_models: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[App]:
    """The page with tiny-chat loaded."""
    with (
        watched(tiny_models, tmp_path_factory.mktemp("server"), visited.port) as server,
        visited.opened() as context,
    ):
        traffic = Traffic(context)
        app = App(context.pages[0], server.url).open()
        app.get("tiny-chat")
        yield app
        traffic.assert_local()


@pytest.fixture
def app(opened: App) -> App:
    """An empty chat, and settings under which answers are short and repeat themselves."""
    opened.ready("tiny-chat")
    opened.page.get_by_role("button", name="Settings").click()
    opened.page.get_by_role("button", name="Defaults").click()
    opened.page.get_by_role("button", name="Close settings").click()
    opened.set(greedy=True, max_tokens="8", system="")
    opened.new_chat()
    return opened


@pytest.fixture
def base(app: App) -> Iterator[App]:
    """The page with tiny-base loaded, which continues texts."""
    app.get("tiny-base")
    yield app
    app.get("tiny-chat")


@pytest.fixture
def narrow_context(app: App) -> Iterator[App]:
    """The page with room for 256 tokens, asked for in its settings."""
    app.set(context="256")
    reload_model(app)
    app.new_chat()
    yield app
    app.set(context="4096")
    reload_model(app)


def reload_model(app: App) -> None:
    app.page.get_by_role("button", name="Settings").click()
    dialog = app.page.get_by_test_id("settings")
    dialog.get_by_role("button", name="Load the model again").click()
    app.expect_loaded()


def result(app: App) -> dict[str, Any]:
    """What the worker gave for the last chat."""
    found: dict[str, Any] = app.last("chat")["result"]
    return found


def test_stop(app: App) -> None:
    app.set(max_tokens=LONG)
    message = app.say("tell me all")
    text = message.get_by_test_id("message-text")
    expect(text).not_to_be_empty()
    app.page.get_by_role("button", name="Stop", exact=True).click()
    shown = app.finished(message)
    expect(message.get_by_test_id("stats")).to_contain_text("stopped")
    ended = result(app)
    assert ended["finish_reason"] == "cancelled"
    assert len(ended["generated_ids"]) - app.last("cancel")["tokens"] <= 1
    assert shown == ended["text"].strip()
    assert 1 <= len(shown.split()) < int(LONG)
    app.set(max_tokens="8")
    assert len(app.answer("and now?").split()) == 8


def test_escape_stops_too(app: App) -> None:
    app.set(max_tokens=LONG)
    message = app.say("tell me all")
    expect(message.get_by_test_id("message-text")).not_to_be_empty()
    app.page.keyboard.press("Escape")
    app.finished(message)
    assert result(app)["finish_reason"] == "cancelled"


def test_stop_while_a_template_runs(app: App) -> None:
    """The worker hears no calls then, but what is stopped ends at once."""
    app.run(ENDLESS)
    message = app.say("hello")
    app.page.wait_for_function("calls.some(({ method }) => method === 'chat')")
    app.page.wait_for_timeout(300)
    app.page.get_by_role("button", name="Stop", exact=True).click()
    assert app.finished(message) == ""
    assert result(app)["finish_reason"] == "cancelled"
    app.run(MENDED)
    assert len(app.answer("and now?").split()) == 8


def test_no_event_comes_after_the_end(app: App) -> None:
    """However slow the page is: a late token would be written behind the whole answer."""
    heard, late = app.page.evaluate(COUNT_EVENTS)
    assert heard == 6 * 8
    assert late == 0


def test_regenerate(app: App) -> None:
    first = app.answer("hello")
    app.set(greedy=False, temperature="2", top_k="0", seed="5")
    again = app.answers.last.get_by_role("button", name="Regenerate")
    again.click()
    expect(app.answers.last.get_by_test_id("message-text")).not_to_have_text(first)
    assert app.finished(app.answers.last) != first
    expect(app.answers).to_have_count(1)
    app.set(greedy=True)
    again.click()
    expect(app.answers.last.get_by_test_id("message-text")).to_have_text(first)
    expect(app.answers).to_have_count(1)


def test_edit_a_message(app: App) -> None:
    app.answer("hello")
    app.answer("and more")
    mine = app.page.locator('[data-testid="message"][data-role="user"]')
    mine.first.get_by_role("button", name="Edit").click()
    app.page.get_by_role("textbox", name="Edit your message").fill("good evening")
    app.page.get_by_test_id("edit-send").click()
    expect(app.answers).to_have_count(1)
    expect(mine.get_by_test_id("message-text")).to_have_text(["good evening"])
    app.finished(app.answers.last)
    seen = app.last("chat")
    assert seen["args"]["messages"] == [{"role": "user", "content": "good evening"}]
    assert seen["result"]["reused_tokens"] > 0  # the beginning of the template


def test_system_prompt(app: App) -> None:
    without = app.answer("hello")
    app.set(system="Speak of rivers.")
    app.new_chat()
    assert app.answer("hello") != without
    seen = app.last("chat")
    system = {"role": "system", "content": "Speak of rivers."}
    assert seen["args"]["messages"] == [system, {"role": "user", "content": "hello"}]
    asked = app.call("tokenize", messages=seen["args"]["messages"])
    assert seen["result"]["prompt_ids"] == asked["ids"]


def test_a_second_turn_reuses_the_cache(app: App) -> None:
    app.answer("hello")
    first = result(app)
    app.answer("more")
    second = result(app)
    known = [*first["prompt_ids"], *first["generated_ids"]]
    assert second["prompt_ids"][: len(known)] == known
    assert second["reused_tokens"] == len(known) - 1  # the last one was sampled, never run
    stats = app.answers.last.get_by_test_id("stats")
    expect(stats).to_contain_text("8 tokens")
    told = f"{len(known) - 1} tokens of the prompt did not have to be read again"
    expect(stats).to_have_attribute("title", re.compile(told))


def test_a_conversation_survives_a_reload(app: App) -> None:
    texts = [app.answer("hello survivor"), app.answer("more")]
    app.open()
    expect(app.answers.get_by_test_id("message-text")).to_have_text(texts)
    row = app.page.get_by_test_id("conversation").first
    expect(row).to_contain_text("hello survivor")
    app.page.get_by_role("button", name="Load Tiny Chat").click()
    app.expect_loaded()
    app.answer("still there?")
    roles = [message["role"] for message in app.last("chat")["args"]["messages"]]
    assert roles == ["user", "assistant"] * 2 + ["user"]
    expect(app.answers).to_have_count(3)


def test_sampling_settings_reach_the_worker(app: App) -> None:
    numbers = {"temperature": 1.3, "top_k": 30, "top_p": 0.9, "min_p": 0.01}
    numbers |= {"repetition_penalty": 1.2, "seed": 42}
    app.set(greedy=False)
    app.set(**{name: str(number) for name, number in numbers.items()}, max_tokens="12")

    def sample() -> list[int]:
        app.new_chat()
        app.answer("hello")
        ids: list[int] = result(app)["generated_ids"]
        return ids

    first = sample()
    args = app.last("chat")["args"]
    assert args["sampling"] == {**numbers, "greedy": False}
    assert args["max_tokens"] == len(first) == 12
    assert sample() == first
    app.set(seed="43")
    assert sample() != first
    app.set(seed="")  # drawn anew each time
    assert sample() != sample()


def test_a_context_in_eight_bits(app: App) -> None:
    """Chosen in the settings: it takes less memory, and answers."""
    usual, engine = app.last("load")["result"], app.page.get_by_test_id("engine")
    app.set(kv=True)
    try:
        reload_model(app)
        expect(engine).to_contain_text("tokens, in 8 bits")
        loaded = app.last("load")["result"]
        assert (loaded["kv"], loaded["context"]) == ("q8", usual["context"])
        assert loaded["memory"]["kv"] * 32 == usual["memory"]["kv"] * 9  # f32 on this CPU
        app.new_chat()
        assert app.finished(app.say("a story"))
    finally:
        app.set(kv=False)
        reload_model(app)
    expect(engine).not_to_contain_text("in 8 bits")


def test_a_context_that_is_full(narrow_context: App) -> None:
    app = narrow_context
    expect(app.page.get_by_test_id("engine")).to_contain_text("256 tokens")
    app.answer("a" * 120)  # every letter is a token
    app.answer("b" * 120)
    told = app.answers.last.get_by_test_id("dropped")
    expect(told).to_contain_text("The oldest 2 messages no longer fit the model's context")
    assert result(app)["dropped_messages"] == 2
    app.set(max_tokens="500")
    app.new_chat()
    app.answer("c" * 90)
    expect(app.answers.last.get_by_test_id("stats")).to_contain_text("the context is full")
    ended = result(app)
    assert len(ended["prompt_ids"]) + len(ended["generated_ids"]) == 256
    problem = app.say("d" * 300).get_by_test_id("message-error")
    expect(problem).to_contain_text("the context holds 256. Shorten it")
    app.set(max_tokens="8")
    app.new_chat()
    assert len(app.answer("hello").split()) == 8


def test_the_meter_of_the_context(narrow_context: App) -> None:
    app = narrow_context
    meter, warning = (app.page.get_by_test_id(f"context-{name}") for name in ("meter", "warning"))
    expect(meter).to_have_text("0 / 256")
    app.composer.fill("a" * 100)  # every letter is a token
    expect(meter).not_to_have_text("0 / 256")
    told = int(meter.inner_text().split()[0])
    expect(warning).to_be_empty()
    app.page.keyboard.press("Enter")
    app.finished(app.answers.last)
    assert told == len(result(app)["prompt_ids"])
    app.composer.fill("b" * 120)
    expect(warning).to_have_text("The oldest messages will be left out, so that this fits.")
    expect(meter).to_have_class(re.compile("over"))
    app.composer.fill("c" * 300)
    expect(warning).to_contain_text("This message does not fit")
    expect(warning).to_contain_text("Shorten it")
    problem = app.say("c" * 300).get_by_test_id("message-error")
    expect(problem).to_contain_text("It does not fit the model's context")
    expect(problem.get_by_role("button")).to_have_text(["Edit the message"])
    problem.get_by_role("button").click()
    editor = app.page.get_by_role("textbox", name="Edit your message")
    expect(editor).to_have_value("c" * 300)  # nothing of it is lost
    editor.fill("short")
    app.page.get_by_test_id("edit-send").click()
    app.finished(app.answers.last)
    expect(warning).to_be_empty()


def test_focus_never_falls(app: App) -> None:
    """Each is done by the keyboard, and leaves the focus on something that is there."""
    page = app.page
    dialog = page.get_by_test_id("confirm")

    def press(target: Locator, key: str = "Enter") -> None:
        target.focus()
        page.keyboard.press(key)
        page.wait_for_function(FOCUSED)

    def button(name: str) -> Locator:
        return page.get_by_role("button", name=name, exact=True).first

    app.answer("hello")
    app.set(max_tokens=LONG)
    app.say("tell me all")
    press(button("Stop"))
    app.finished(app.answers.last)
    page.wait_for_function(FOCUSED)
    app.set(max_tokens="8")
    editor = page.get_by_role("textbox", name="Edit your message")
    for end in ("Escape", "Enter"):
        press(button("Edit"))
        press(editor, end)
    app.finished(app.answers.last)
    press(button("Regenerate"))
    app.finished(app.answers.last)
    page.wait_for_function(FOCUSED)
    press(app.answers.last.get_by_role("button", name="Delete"))
    press(page.get_by_test_id("toast").get_by_role("button", name="Undo"))
    press(button("Settings"))
    press(button("Close settings"))
    press(button("Close the sidebar"))
    press(button("Conversations"))
    more = page.get_by_test_id("conversation").first.get_by_role("button", name="More for")
    press(more)
    press(button("Rename"))
    press(page.get_by_role("textbox", name="Title"))
    press(more)
    press(page.get_by_role("group", name="Conversation").get_by_role("button", name="Delete"))
    press(page.get_by_test_id("toast").get_by_role("button", name="Undo"))
    press(page.get_by_test_id("model-button"))
    press(button("Delete Tiny Chat"))
    press(dialog.get_by_role("button", name="Cancel"))
    press(button("Delete Tiny Chat"))
    press(dialog.get_by_role("button", name="Delete"))
    expect(button("Get Tiny Chat")).to_be_visible()
    page.wait_for_function(FOCUSED)
    press(button("Get Tiny Chat"))
    app.expect_loaded()
    page.wait_for_function(FOCUSED)


def test_headings_and_the_title_of_the_tab(app: App) -> None:
    page = app.page
    expect(page.get_by_role("heading", level=1)).to_have_text("What is on your mind?")
    expect(page).to_have_title("New chat · Doppler")
    app.answer("hello\u202e there")
    expect(page.get_by_role("heading", level=1)).to_have_text("hello there")
    expect(page).to_have_title("hello there · Doppler")
    app.set(max_tokens=LONG)
    app.say("tell me all")
    expect(page).to_have_title("Answering… · hello there · Doppler")
    page.keyboard.press("Escape")
    expect(page).to_have_title("hello there · Doppler")
    page.get_by_test_id("new-text").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("New text")
    app.show_models()
    expect(page.get_by_role("heading", level=1)).to_have_count(1)
    expect(page).to_have_title("Doppler")


@pytest.mark.parametrize("view", ["chat", "models"])
def test_nothing_moves_when_python_arrives(app: App, view: str) -> None:
    page = app.page
    app.answer("hello")
    page.reload()
    if view == "models":
        page.get_by_test_id("model-button").click()
    page.evaluate(SHIFTS)
    expect(page.get_by_test_id("engine")).to_contain_text("Storage used")
    expect(page.get_by_test_id("progress")).to_be_hidden()
    moved = page.evaluate("shifts")
    assert sum(value for value, _ in moved) < 0.01, moved


def test_a_lost_device(app: App) -> None:
    app.set(max_tokens=LONG)
    message = app.say("tell me all")
    text = message.get_by_test_id("message-text")
    expect(text).not_to_be_empty()
    app.run(LOSE_DEVICE)
    problem = message.get_by_test_id("message-error")
    expect(problem).to_contain_text("The GPU cannot go on")
    expect(problem).to_contain_text("The GPU device was lost")
    expect(text).not_to_be_empty()  # what had been written stays
    # A call that opens the device anew drops the model, and the page hears of it.
    assert app.call("device")["ok"]
    assert app.run("from doppler.page import bridge; bridge.api._model is None")
    expect(app.page.get_by_test_id("model-button")).to_contain_text("Choose a model")
    problem.get_by_role("button", name="Load the model again").click()
    app.expect_loaded()
    app.set(max_tokens="8")
    app.new_chat()
    assert len(app.answer("hello").split()) == 8


def test_continue_a_text(base: App) -> None:
    page, start = base.page, "abc ab"
    page.get_by_test_id("new-text").click()
    base.editor.fill(start)
    page.get_by_role("button", name="Continue", exact=True).click()
    stats = page.get_by_test_id("text-stats")
    expect(stats).to_contain_text("8 tokens")
    continued = base.editor.input_value()
    seen = base.last("complete")
    assert seen["args"]["prompt"] == start
    assert continued == start + seen["result"]["text"]
    assert len(continued) > len(start)
    expect(page.get_by_test_id("continuation-marks").locator("mark")).to_have_text(
        seen["result"]["text"].strip()
    )
    page.get_by_role("button", name="Undo the last continuation").click()
    expect(base.editor).to_have_value(start)
    page.get_by_role("button", name="Continue", exact=True).click()
    expect(base.editor).to_have_value(continued)
    base.set(max_tokens=LONG)
    page.get_by_role("button", name="Continue", exact=True).click()
    expect(base.editor).not_to_have_value(continued)
    page.get_by_role("button", name="Stop", exact=True).click()
    expect(stats).to_contain_text("stopped")
    stopped = base.last("complete")["result"]
    assert stopped["finish_reason"] == "cancelled"
    assert base.editor.input_value() == continued + stopped["text"]


def test_a_base_model_says_that_it_does_not_chat(base: App) -> None:
    base.page.get_by_test_id("new-chat").click()
    expect(base.page.get_by_test_id("nudge")).to_contain_text("was not taught to answer")
    base.composer.fill("hello")
    expect(base.page.get_by_role("button", name="Send", exact=True)).to_be_disabled()


def test_axe_finds_nothing(app: App) -> None:
    """In a chat, the settings, the list of models and a text."""
    page = app.page
    app.answer("hello")
    assert_accessible(page)
    page.get_by_role("button", name="Settings").click()
    assert_accessible(page)
    page.get_by_role("button", name="Close settings").click()
    app.show_models()
    assert_accessible(page)
    page.get_by_test_id("new-text").click()
    assert_accessible(page)


@pytest.mark.parametrize("width", [390, 320])
def test_phones_have_nothing_to_scroll_sideways(app: App, width: int) -> None:
    page = app.page
    app.answer("x" * 200 + " `" + "y" * 100 + "`")
    wide = page.viewport_size
    assert wide is not None
    page.set_viewport_size({"width": width, "height": 740})
    try:
        assert page.evaluate(WIDER) == []
        page.get_by_role("button", name="Conversations", exact=True).click()
        assert page.evaluate(WIDER) == []
        page.get_by_test_id("new-text").click()
        app.editor.fill("z" * 200)
        assert page.evaluate(WIDER) == []
        page.get_by_role("button", name="Settings").click()
        assert page.evaluate(WIDER) == []
        page.get_by_role("button", name="Close settings").click()
        app.show_models()
        assert page.evaluate(WIDER) == []
    finally:
        page.set_viewport_size(wide)

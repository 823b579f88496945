"""Answers that are cut off go on, and a long chat goes on without being read again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, expect

from app_page import App, watched
from visited import Visited

LONG = "tell me all of it " * 24  # more than 256 tokens
TOKENS, CUT, WORDS = 40, 16, 8  # of an answer, where it is cut off, and what is seen of it by then
# What is written is stored with each token.
SAVE_AT_ONCE = ("SAVE_EVERY_MS = 1500", "SAVE_EVERY_MS = -1")
# Something happens when so many ids of the next answer are there, however fast they come.
CUT_OFF = """
import asyncio
from doppler.engine.sequence import Sequence
from doppler.page import bridge
whole = Sequence.step
async def step(sequence):
    if len(sequence.ids) >= {at}:
        Sequence.step = whole
        {act}
    return await whole(sequence)
Sequence.step = step
"""
LOSE_DEVICE = "bridge.api._gpu.device.destroy()"
HANG = "await asyncio.Event().wait()"
IDS_STORED = """async (least) => {
  const { readAll } = await import("/app/database.js");
  const messages = (await readAll()).flatMap(({ messages }) => messages);
  return messages.some(({ journal }) => journal?.ids.length >= least);
}"""
MODEL = "import('/app/store.js').then(({ state }) => state.model.id)"
LOADING = "import('/app/store.js').then(({ state }) => state.loading)"
# Of the answer that is there last: its text; how many ids there are; and whose they are said to be.
CONTENT = "import('/app/store.js').then(({ state }) => state.current.messages.at(-1).content)"
WRITTEN = """import('/app/store.js').then(
  ({ state }) => state.current.messages.at(-1).journal.ids.length)"""
SET_MODEL = """async (model) => {
  const { state } = await import("/app/store.js");
  const message = state.current.messages.at(-1);
  message.journal.model = model;
  message.updated += 1; // or what is stored would hold
}"""
SET_LOADING = "(loading) => import('/app/store.js').then(({ set }) => set({ loading }))"
GO_ON = """async () => {
  const { state } = await import("/app/store.js");
  const { goOn } = await import("/app/engine.js");
  await goOn(state.current, state.current.messages.at(-1));
}"""
# As another tab that writes it has its lock, and then ends it.
LOCK = """async () => {
  const { state } = await import("/app/store.js");
  const { beginWriting } = await import("/app/tabs.js");
  window.release = await beginWriting(state.current.messages.at(-1).id);
}"""
END_ELSEWHERE = """async (content) => {
  const { state } = await import("/app/store.js");
  const { read, write } = await import("/app/database.js");
  const [kept] = await read([state.current.id]);
  const { journal, failure, ...last } = kept.messages.pop();
  kept.messages.push({ ...last, content, finish: "stop", updated: last.updated + 1 });
  await write([kept]);
  window.release();
}"""

# A conversation of so many characters that do not compress, saved as the page does it; its id.
SAVE = """async ([title, count]) => {
  const { change, create, save } = await import("/app/conversations.js");
  const conversation = create("text");
  const drawn = Array.from({ length: count / 65536 }, () =>
    crypto.getRandomValues(new Uint8Array(65536)));
  const text = drawn.map((some) => String.fromCharCode(...some)).join("");
  change(conversation, "text", { text });
  change(conversation, "title", { title });
  await save(conversation);
  return conversation.id;
}"""
LENGTH_STORED = """async (id) => {
  const { read } = await import("/app/database.js");
  return (await read([id]))[0]?.text.length ?? 0;
}"""
KEEP_SOME = """async ([size, talk]) => {
  const { state } = await import("/app/store.js");
  let folder = await navigator.storage.getDirectory();
  for (const name of ["doppler", "kv", state.model.id, talk]) {
    folder = await folder.getDirectoryHandle(name, { create: true });
  }
  const out = await (await folder.getFileHandle("0-1", { create: true })).createWritable();
  await out.write(new Uint8Array(size));
  await out.close();
}"""


@pytest.fixture(scope="module")
def opened(
    visited: Visited, tiny_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[App]:
    with (
        watched(tiny_models, tmp_path_factory.mktemp("server"), visited.port) as server,
        visited.opened() as context,
    ):
        server.replaced["/app/engine.js"] = SAVE_AT_ONCE
        app = App(context.pages[0], server.url).open()
        app.get("tiny-chat")
        app.set(system="", max_tokens=str(TOKENS), temperature="0.9", seed="5")
        yield app


@pytest.fixture
def app(opened: App) -> App:
    """A new chat, and nothing kept of others."""
    opened.ready("tiny-chat")
    opened.new_chat()
    opened.call("keep")
    opened.run("from doppler.page.opfs import drop_kept; await drop_kept()")
    return opened


def rest(app: App, message: Locator) -> str:
    """Presses Go on; the whole answer."""
    message.get_by_role("button", name="Go on").click()
    expect(message.get_by_test_id("stats")).to_contain_text("tokens")  # how many came, at the end
    return app.finished(message)


def lost(app: App) -> tuple[Locator, str]:
    """An answer in whose middle the device is lost, and what there is of it."""
    app.run(CUT_OFF.format(at=CUT, act=LOSE_DEVICE))
    message = app.say("tell me all")
    expect(message.get_by_test_id("message-error")).to_contain_text("The GPU device was lost")
    so_far = app.page.evaluate(CONTENT).strip()
    assert WORDS <= len(so_far.split()) < TOKENS
    expect(message.get_by_test_id("message-text")).to_have_text(so_far)
    return message, so_far


def chats(app: App) -> int:
    """How many answers the worker was asked for."""
    count: int = app.page.evaluate("calls.filter(({ method }) => method === 'chat').length")
    return count


def kept(app: App) -> list[str]:
    """The files of keys and values."""
    return [path for path in app.files() if path.startswith("doppler/kv/")]


def whole(app: App) -> tuple[str, list[int]]:
    """An answer that nothing interrupts; a new chat is open then."""
    text = app.answer("tell me all")
    ids: list[int] = app.last("chat")["result"]["generated_ids"]
    app.new_chat()
    return text, ids


def test_storage_that_is_full_while_a_conversation_is_stored(app: App) -> None:
    """What can be computed again makes room for it; without that the page says so, and stores it
    once there is room. The first test: no room was told to the browser's database before.
    """
    page, small, large = app.page, 1 << 16, 6 << 20
    devtools = page.context.new_cdp_session(page)
    origin = app.url.rstrip("/")
    page.evaluate(KEEP_SOME, [large // 2, "talk"])
    used = page.evaluate("navigator.storage.estimate().then(({ usage }) => usage)")
    try:
        devtools.send("Storage.overrideQuotaForOrigin", {"origin": origin, "quotaSize": used})
        while True:  # for half a minute the database may go by the room that there was before
            first = page.evaluate(SAVE, ["first", small])
            assert page.evaluate(LENGTH_STORED, first) == small
            if not kept(app):
                break
            page.wait_for_timeout(1000)
        expect(app.errors).to_be_empty()
        second = page.evaluate(SAVE, ["second", large])
        expect(app.errors).to_contain_text("Its storage for this page is full")
        assert page.evaluate(LENGTH_STORED, second) == 0
        assert page.evaluate(LENGTH_STORED, first) == small
    finally:
        devtools.send("Storage.overrideQuotaForOrigin", {"origin": origin})
        devtools.detach()
    expect(app.errors).to_be_empty()
    assert page.evaluate(LENGTH_STORED, second) == large


def test_a_device_that_is_lost_in_the_middle_of_an_answer(app: App) -> None:
    """The same answer goes on, after the model was loaded again: no token is lost or doubled."""
    text, ids = whole(app)
    message, so_far = lost(app)
    problem = message.get_by_test_id("message-error")
    assert text.startswith(so_far)
    problem.get_by_role("button", name="Load the model again").click()
    while app.page.evaluate(LOADING):  # the dot may still be on for the model that was lost
        app.page.wait_for_timeout(50)
    app.expect_loaded()
    expect(message.get_by_test_id("message-text")).to_have_text(so_far)
    assert rest(app, message) == text
    last = app.last("chat")
    written = last["args"]["written"]
    assert len(written) >= len(so_far.split())
    assert (last["result"]["generated_ids"], written) == (ids, ids[: len(written)])
    assert last["tokens"] == len(ids) - len(written)  # what was there was not told again
    expect(app.answers).to_have_count(1)
    expect(message.get_by_test_id("go-on")).to_have_count(0)


def test_go_on_loads_the_model_where_it_must(app: App) -> None:
    """Pressed at once; and after the page was left in an answer, whose end was not stored."""
    text, ids = whole(app)
    message, _ = lost(app)
    assert rest(app, message) == text
    app.new_chat()
    app.run(CUT_OFF.format(at=CUT, act=HANG))
    app.say("tell me all")
    while not app.page.evaluate(IDS_STORED, WORDS):
        app.page.wait_for_timeout(50)
    app.set(max_tokens="150")  # which is not this answer's
    app.open()
    app.page.get_by_test_id("conversation").first.click()
    message = app.answers.last
    expect(message.get_by_test_id("stats")).to_have_text("interrupted")
    assert rest(app, message) == text
    last: dict[str, Any] = app.last("chat")
    assert len(last["args"]["written"]) >= WORDS
    assert last["result"]["generated_ids"] == ids
    app.set(max_tokens=str(TOKENS))


def test_go_on_with_another_model_or_in_another_tab(app: App) -> None:
    """The answer stays as it was where its model is not loaded, and while another tab writes it."""
    model = app.page.evaluate(MODEL)
    message, so_far = lost(app)
    text, problem = message.get_by_test_id("message-text"), message.get_by_test_id("message-error")
    app.call("load", id=model)
    asked = chats(app)
    go_on = message.get_by_role("button", name="Go on")
    app.page.evaluate(SET_MODEL, "another")
    app.page.evaluate(SET_LOADING, "A third")
    go_on.click()
    expect(app.page.get_by_test_id("toast")).to_contain_text("First A third has to be there")
    app.page.evaluate(SET_LOADING, None)
    app.page.evaluate(GO_ON)
    expect(problem).to_contain_text("is not loaded")
    expect(text).to_have_text(so_far)
    app.page.evaluate(SET_MODEL, model)
    app.page.evaluate(LOCK)
    go_on.click()
    stop = app.page.get_by_role("button", name="Stop", exact=True)
    expect(stop).to_be_focused()
    stop.click()
    expect(app.composer).to_be_focused()
    expect(problem).to_contain_text("is not loaded")  # nothing of it was changed
    expect(text).to_have_text(so_far)
    go_on.click()
    expect(stop).to_be_focused()
    app.page.evaluate(END_ELSEWHERE, "Another tab ended it.")
    expect(stop).to_be_hidden()
    assert app.finished(message) == "Another tab ended it."
    expect(go_on).to_have_count(0)
    assert chats(app) == asked


def test_go_on_in_a_shorter_context(app: App) -> None:
    """It ends there at once, and goes on where there is room again."""
    model = app.page.evaluate(MODEL)
    text, ids = whole(app)
    prompt = len(app.last("chat")["result"]["prompt_ids"])
    message, so_far = lost(app)
    app.call("load", id=model, context=prompt + app.page.evaluate(WRITTEN))
    go_on, stats = message.get_by_role("button", name="Go on"), message.get_by_test_id("stats")
    go_on.click()
    expect(stats).to_contain_text("the context is full")
    assert app.finished(message) == so_far
    app.call("load", id=model)
    go_on.click()
    expect(stats).not_to_contain_text("the context is full")
    assert app.finished(message) == text
    assert app.last("chat")["result"]["generated_ids"] == ids


def test_a_long_chat_goes_on_after_a_reload(app: App) -> None:
    app.set(max_tokens="8")
    app.answer(LONG)
    ids = app.last("chat")["result"]["prompt_ids"]
    app.call("keep")
    assert len(kept(app)) == 1
    app.open()
    app.get("tiny-chat")
    app.page.get_by_test_id("conversation").first.click()
    app.answer("and more")
    assert app.last("chat")["result"]["reused_tokens"] >= len(ids)
    app.call("keep")
    assert kept(app)
    # It goes with the conversation,
    app.page.locator("li.current").get_by_role("button", name="More").click()
    app.page.get_by_role("button", name="Delete", exact=True).filter(visible=True).first.click()
    expect(app.answers).to_have_count(0)
    while kept(app):
        app.page.wait_for_timeout(50)
    # and with the model.
    app.new_chat()
    app.answer(LONG)
    app.call("keep")
    assert len(kept(app)) == 1
    app.delete_all()
    assert app.files() == {}


def test_storage_that_is_full_while_keys_are_kept(app: App) -> None:
    """The chat goes on, and nothing half is left."""
    app.set(max_tokens="8")
    devtools = app.page.context.new_cdp_session(app.page)
    used = app.page.evaluate("navigator.storage.estimate().then(({ usage }) => usage)")
    origin = app.url.rstrip("/")
    for room in (100_000, 8 << 20):  # too little to write them; then too little beside them
        quota = {"origin": origin, "quotaSize": used + room}
        devtools.send("Storage.overrideQuotaForOrigin", quota)
        try:
            assert len(app.answer(LONG).split()) == 8
            app.call("keep")
            assert kept(app) == []
            assert app.answer("more")
            app.call("keep")
            assert kept(app) == []
            expect(app.errors).to_be_empty()
        finally:
            devtools.send("Storage.overrideQuotaForOrigin", {"origin": origin})
        app.new_chat()
    devtools.detach()
    app.answer(LONG)
    app.call("keep")
    assert len(kept(app)) == 1


def test_what_is_kept_of_conversations_that_are_gone_goes_at_the_next_start(app: App) -> None:
    """Names that the page does not give stay: they are of whoever asks the engine."""
    there = app.page.evaluate(SAVE, ["there", 1 << 16])
    gone, other = "00000000-0000-4000-8000-000000000000", "talk"
    for talk in (there, gone, other):
        app.page.evaluate(KEEP_SOME, [1000, talk])
    app.open()
    while len(kept(app)) > 2:
        app.page.wait_for_timeout(50)
    assert sorted(path.split("/")[3] for path in kept(app)) == sorted([there, other])

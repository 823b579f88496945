"""The page's models: got once, kept, resumed, mended, refused when damaged, deleted."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Playwright, expect

from app_page import App, Traffic, WatchedServer, watched
from doppler.command.browser import Browser, launched
from doppler.store.manifest import BLOCK_SIZE, MANIFEST_FILE, Manifest
from doppler.store.sources.source import AT_ONCE
from visited import Visited

CHAT = "tiny-chat"
# Where blocks are hashed follows from the device's speed otherwise.
HASH_ON = """
from doppler.weights import upload
async def fixed(*_): return {}
upload.is_quicker_on_gpu = fixed
"""
HASH_BY_SPEED = """
from doppler.weights import hashing, upload
upload.is_quicker_on_gpu = hashing.is_quicker_on_gpu
"""
WATCH_TEXT = """() => {
  window.drawn = new Set();
  const list = document.querySelector('[data-testid="messages"]');
  const look = () => drawn.add(list.lastElementChild?.innerText.length ?? 0);
  new MutationObserver(look).observe(list, { childList: true, subtree: true });
}"""


@pytest.fixture(scope="module")
def context(visited: Visited) -> Iterator[BrowserContext]:
    with visited.opened() as context:
        traffic = Traffic(context)
        yield context
        traffic.assert_local()


@pytest.fixture(scope="module")
def running(
    visited: Visited, tiny_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WatchedServer]:
    with watched(tiny_models, tmp_path_factory.mktemp("server"), visited.port) as server:
        yield server


@pytest.fixture(scope="module")
def opened(context: BrowserContext, running: WatchedServer) -> App:
    return App(context.pages[0], running.url).open()


@pytest.fixture
def server(running: WatchedServer, tiny_models: Path) -> Iterator[WatchedServer]:
    """The server, whole, and what it has been asked for since the test began."""
    running.weights.clear()
    yield running
    running.hold_after = None
    shutil.copytree(tiny_models, running.models, dirs_exist_ok=True)


@pytest.fixture
def app(opened: App, server: WatchedServer) -> Iterator[App]:
    """The page with no model stored, and settings under which answers are short and repeat."""
    opened.set(greedy=True, max_tokens="8")
    yield opened
    opened.delete_all()


def manifest_of(server: WatchedServer) -> Manifest:
    return Manifest.from_json((server.models / CHAT / MANIFEST_FILE).read_text(), CHAT)


def ids_of_answer(app: App) -> list[int]:
    """What the model says in a new chat."""
    app.new_chat()
    app.answer("hello there")
    ids: list[int] = app.last("chat")["result"]["generated_ids"]
    assert len(ids) == 8
    return ids


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def first_visit(app: App, server: WatchedServer) -> str:
    """Opens the page, gets the model, and gives the first answer."""
    app.open()
    page = app.page
    expect(page.get_by_role("heading", name="A language model, in this page")).to_be_visible()
    expect(app.row(CHAT)).to_contain_text("8.93 MB")
    app.set(greedy=True, max_tokens="24")
    server.hold_after = BLOCK_SIZE
    page.get_by_role("button", name="Get Tiny Chat").click()
    stage = page.get_by_test_id("stage-download")
    expect(stage).to_contain_text(re.compile(r"[123]\.\d+ MB of 8\.93 MB"))
    bar = stage.get_by_role("progressbar", name="Downloading")
    assert 0 < float(bar.get_attribute("value") or 0) < 0.4
    server.hold_after = None
    app.expect_loaded()
    assert sum(count for _, count in server.weights) == manifest_of(server).bytes
    page.evaluate(WATCH_TEXT)
    text = app.answer("hello")
    assert len(text.split()) == 24
    assert page.evaluate("drawn.size") > 3, "the answer did not appear bit by bit"
    return text


def second_visit(app: App, server: WatchedServer, first: str) -> None:
    """The same browser profile, later: the model is here, and so is the conversation."""
    server.weights.clear()
    app.open()
    expect(app.answers.get_by_test_id("message-text")).to_have_text([first])
    app.show_models()
    expect(app.page.get_by_role("button", name="Load Tiny Chat")).to_be_visible()
    assert server.weights == []


def test_first_visit_second_visit_and_a_visit_without_the_server(
    playwright: Playwright, browser: Browser, tiny_models: Path, tmp_path: Path
) -> None:
    profile = tmp_path / "profile"
    with ExitStack() as later:
        with watched(tiny_models, tmp_path) as server:
            with launched(playwright, browser, profile) as context:
                first = first_visit(App(context.pages[0], server.url), server)
            context = later.enter_context(launched(playwright, browser, profile))
            traffic = Traffic(context)
            app = App(context.pages[0], server.url)
            second_visit(app, server, first)
        app.open()  # the server is gone
        app.show_models()
        app.page.get_by_role("button", name="Load Tiny Chat").click()
        app.expect_loaded()
        app.new_chat()
        assert app.answer("hello") == first
        traffic.assert_local()


def test_reload_during_a_download(app: App, server: WatchedServer) -> None:
    server.hold_after = BLOCK_SIZE + 1000
    app.show_models()
    app.page.get_by_role("button", name="Get Tiny Chat").click()
    app.wait_for_stored(AT_ONCE * BLOCK_SIZE)
    app.open()
    server.wait_for_nobody()  # a worker that is busy outlives its page for a moment
    server.hold_after = None
    app.show_models()
    app.page.get_by_role("button", name="Resume Tiny Chat").click()
    app.expect_loaded()
    twice = sum(count for _, count in server.weights) - manifest_of(server).bytes
    assert twice == AT_ONCE * 1000  # of blocks that were not whole; no block came twice
    assert len(ids_of_answer(app)) == 8


def test_a_stored_byte_that_flipped(app: App, server: WatchedServer) -> None:
    """It is found wherever blocks are hashed, and mended from the server, before it is used."""
    manifest = manifest_of(server)
    app.get(CHAT)
    ids = ids_of_answer(app)
    shard = manifest.shards[1]
    for place in ("host", "gpu"):
        app.call("unload")
        app.flip(manifest.identity, shard.name, BLOCK_SIZE + 7)
        assert app.sha256(manifest.identity, shard.name) != shard.sha256
        server.weights.clear()
        app.run(HASH_ON.format(place == "gpu"))
        app.get(CHAT)
        assert server.weights == [(f"/models/{CHAT}/{shard.name}", BLOCK_SIZE)]
        assert ids_of_answer(app) == ids
        assert app.sha256(manifest.identity, shard.name) == shard.sha256
    app.run(HASH_BY_SPEED)


def test_a_byte_that_flipped_on_the_server(app: App, server: WatchedServer) -> None:
    shard = server.models / CHAT / manifest_of(server).shards[1].name
    flip(shard, BLOCK_SIZE + 5)
    app.show_models()
    app.page.get_by_role("button", name="Get Tiny Chat").click()
    expect(app.errors).to_contain_text("Damaged data was found and refused")
    expect(app.errors).to_contain_text("Block 3 of shard-00001.bin from http")
    expect(app.page.locator("#model-dot")).not_to_have_class("dot on")
    expect(app.page.get_by_test_id("model-button")).to_contain_text("Choose a model")
    flip(shard, BLOCK_SIZE + 5)  # the file there is mended
    app.errors.get_by_role("button", name="Try again").click()
    app.expect_loaded()
    assert len(ids_of_answer(app)) == 8


def test_storage_that_is_full(app: App, context: BrowserContext) -> None:
    app.get(CHAT)
    ids = ids_of_answer(app)
    before = app.files()
    devtools = context.new_cdp_session(app.page)
    used = app.page.evaluate("navigator.storage.estimate().then(({ usage }) => usage)")
    quota = {"origin": app.url.rstrip("/"), "quotaSize": used + 3 * BLOCK_SIZE}
    devtools.send("Storage.overrideQuotaForOrigin", quota)
    try:
        app.show_models()
        app.page.get_by_role("button", name="Get Tiny Base").click()
        expect(app.errors).to_contain_text("The browser's storage refused")
        expect(app.errors).to_contain_text("Tiny Base does not fit: the browser's storage is full")
        expect(app.errors).to_contain_text("Delete a model: Tiny Chat takes")
        assert app.files() == before
        assert ids_of_answer(app) == ids  # the loaded model goes on
    finally:
        devtools.send("Storage.overrideQuotaForOrigin", {"origin": quota["origin"]})
        devtools.detach()
    app.get("tiny-base")


def test_deleting_a_model_frees_its_storage(app: App, server: WatchedServer) -> None:
    app.get(CHAT)
    held = sum(app.files().values())
    assert held > manifest_of(server).bytes
    app.show_models()
    confirm = app.page.get_by_test_id("confirm")
    app.page.get_by_role("button", name="Delete Tiny Chat").click()
    expect(confirm).to_contain_text("This frees 8.9")
    confirm.get_by_role("button", name="Cancel").click()
    assert sum(app.files().values()) == held
    app.page.get_by_role("button", name="Delete Tiny Chat").click()
    confirm.get_by_role("button", name="Delete").click()
    expect(app.page.get_by_role("button", name="Get Tiny Chat")).to_be_visible()
    expect(app.page.get_by_test_id("storage-used")).to_have_text("0 B")
    assert app.files() == {}
    expect(app.page.get_by_test_id("model-button")).to_contain_text("Choose a model")

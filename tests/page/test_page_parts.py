"""What the page is made of: checked when it is used, fetched anew, and told when it is damaged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Playwright, expect

from app_page import App, WatchedServer, watched
from doppler.command.browser import Browser, launched
from doppler.command.wheel import ROOT

NUMPY = """
import doppler_runtime
await doppler_runtime.loadNumpy()
import numpy
numpy.__version__
"""
# Waits until all that a visit needs is kept.
KEPT = """async (names) => {
  for (;;) {
    const urls = (await (await caches.open("doppler-app")).keys()).map((request) => request.url);
    if (names.every((name) => urls.some((url) => url.includes(name)))) return urls;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}"""
# Cuts, changes or replaces every kept file, under the headers that it had.
DAMAGE = """async (how) => {
  const cache = await caches.open("doppler-app");
  let count = 0;
  for (const request of await cache.keys()) {
    const kept = await cache.match(request);
    let data = new Uint8Array(await kept.arrayBuffer());
    if (!data.length) continue;
    if (how === "cut") data = data.subarray(0, data.length >> 1);
    if (how === "changed") data[data.length >> 1] ^= 1;
    const headers = how === "replaced" ? {} : kept.headers;
    await cache.put(request, new Response(how === "replaced" ? "no part" : data, { headers }));
    count += 1;
  }
  return count;
}"""
# The kept files whose bytes are not what is said beside them.
DAMAGED = """async () => {
  const cache = await caches.open("doppler-app");
  const found = [];
  for (const request of await cache.keys()) {
    const kept = await cache.match(request);
    const digest = await crypto.subtle.digest("SHA-256", await kept.clone().arrayBuffer());
    const text = btoa(String.fromCharCode(...new Uint8Array(digest)));
    if (text !== kept.headers.get("X-Doppler-SHA256")) found.push(request.url);
  }
  return found;
}"""
README = (ROOT / "README.md").read_text(encoding="utf-8")
PARTS = [
    "pyodide.asm.wasm",
    "python_stdlib.zip",
    "pyodide-lock",
    "doppler-0.1.0",
    "numpy-",
    "main.js",
]


@pytest.fixture(scope="module")
def server(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WatchedServer]:
    with watched(tiny_models, tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(scope="module")
def context(playwright: Playwright, browser: Browser) -> Iterator[BrowserContext]:
    with launched(playwright, browser, None) as context:
        yield context


@pytest.fixture(scope="module")
def opened(context: BrowserContext, server: WatchedServer) -> App:
    app = App(context.pages[0], server.url).open()
    app.open()  # the second visit is the service worker's from the beginning
    app.page.evaluate(KEPT, PARTS)
    return app


@pytest.fixture
def app(opened: App, server: WatchedServer) -> Iterator[App]:
    yield opened
    server.status, server.silent = None, False
    server.damaged.clear()


def test_the_readmes_lines_for_the_console(app: App) -> None:
    """Each as it is pasted there, one after another."""
    app.get("tiny-chat")
    block = README.split("## Debugging in the console")[1].split("\n\n")[2]
    devtools = app.page.context.new_cdp_session(app.page)
    lines = [line.strip() for line in block.splitlines() if "profile" not in line]
    assert len(lines) == 6
    for line in lines:
        asked = {"expression": line, "replMode": True, "awaitPromise": True}
        answer = devtools.send("Runtime.evaluate", asked)
        assert "exceptionDetails" not in answer, (line, answer)
    devtools.detach()


@pytest.mark.parametrize("status", [503, 404])
def test_a_server_that_refuses_is_as_good_as_gone(
    app: App, server: WatchedServer, status: int
) -> None:
    server.status = status
    app.open()
    assert app.run(NUMPY).count(".") == 2
    assert app.page.evaluate("crossOriginIsolated") is True


def test_a_server_that_never_answers_is_not_waited_for(app: App, server: WatchedServer) -> None:
    server.silent = True
    app.open()
    assert app.run(NUMPY).count(".") == 2


def test_a_server_whose_files_are_damaged(app: App, server: WatchedServer) -> None:
    """What is kept is good, and used."""
    server.damaged = {
        "/app/main.js",
        "/worker.js",
        "/runtime/python.js",
        "/vendor/pyodide/pyodide.asm.wasm",
        "/vendor/pyodide/python_stdlib.zip",
        "/vendor/pyodide/pyodide-lock.json",
    }
    app.open()
    assert app.run(NUMPY).count(".") == 2


@pytest.mark.parametrize("how", ["changed", "replaced"])
def test_damaged_copies_are_fetched_anew(app: App, how: str) -> None:
    assert app.page.evaluate(DAMAGE, how) > 40
    app.open()
    version = app.run(NUMPY)
    assert version.count(".") == 2
    app.page.evaluate(KEPT, PARTS)
    numpy = [url for url in app.page.evaluate(DAMAGED) if "numpy" in url]
    assert numpy == []


def test_a_first_visit_to_damaged_files_names_the_part(
    playwright: Playwright, browser: Browser, server: WatchedServer
) -> None:
    server.damaged = {"/vendor/pyodide/python_stdlib.zip"}
    try:
        with launched(playwright, browser, None) as fresh:
            app = App(fresh.pages[0], server.url)
            app.page.goto(app.url)
            expect(app.errors).to_contain_text("python_stdlib.zip, is damaged")
            expect(app.errors).to_contain_text("scripts/setup")
    finally:
        server.damaged.clear()

"""The page as a person uses it, over a server that can be watched and put out of order."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web
from playwright.sync_api import BrowserContext, Locator, Page, expect

from doppler.command.server import WEB, Server
from doppler.command.wheel import build_wheel
from doppler.convert.convert import convert_path
from doppler.inputs.buffers import MemoryBuffers
from doppler.store.folder import FolderStorage
from doppler.store.manifest import BLOCK_SIZE, SHARD_SIZE
from schema_watch import watch
from tiny_models import write_base, write_chat

PATIENCE_MS = 60_000  # the machine may be busy with other things
SHARD = 2 * BLOCK_SIZE
# Listens to the page's own calls of its worker, which go through the one client.
SPY = """async () => {
  const { client } = await import("/app/client.js");
  window.calls = [];
  const of = (call) => calls.findLast((seen) => seen.call === call);
  client.on("start", ({ call }) => calls.push({ call, ...call, tokens: 0 }));
  client.on("event", ({ call, event }) => {
    if (event.type === "token") of(call).tokens += 1;
  });
  client.on("end", ({ call, result }) => {
    if (call.method === "cancel") {
      of(call).tokens = calls.findLast(({ method }) => /chat|complete/.test(method)).tokens;
    }
    if (of(call)) of(call).result = result;
  });
}"""
LAST = """(method) => {
  const { args, result, tokens } = calls.findLast((call) => call.method === method);
  return { args, result, tokens };
}"""
# Lets the test reach the worker itself: window.doppler has the page's methods only.
KEEP_WORKER = """
window.Worker = class extends Worker {
  constructor(...args) { super(...args); window.engineWorker = this; }
};"""
RUN = """async (code) => {
  const { wrap } = await import("/vendor/comlink.js");
  return wrap(window.engineWorker).run(code);
}"""
FLIP = """async ([id, name, at]) => {
  let folder = await navigator.storage.getDirectory();
  for (const part of ["doppler", "models", id]) folder = await folder.getDirectoryHandle(part);
  const file = await folder.getFileHandle(name);
  const [byte] = new Uint8Array(await (await file.getFile()).slice(at, at + 1).arrayBuffer());
  const out = await file.createWritable({ keepExistingData: true });
  await out.write({ type: "write", position: at, data: new Uint8Array([byte ^ 1]) });
  await out.close();
}"""
DIGEST = """async ([id, name]) => {
  let folder = await navigator.storage.getDirectory();
  for (const part of ["doppler", "models", id]) folder = await folder.getDirectoryHandle(part);
  const data = await (await (await folder.getFileHandle(name)).getFile()).arrayBuffer();
  return Array.from(new Uint8Array(await crypto.subtle.digest("SHA-256", data)));
}"""
EVERY_FILE = """async () => {
  const walk = async (folder, path) => {
    const found = {};
    const look = async (entry) => {
      const name = `${path}${entry.name}`;
      if (entry.kind === "file") found[name] = (await entry.getFile()).size;
      else Object.assign(found, await walk(entry, `${name}/`));
    };
    for await (const entry of folder.values()) {
      // While a model arrives, what was listed may be gone or renamed before it is looked at.
      await look(entry).catch((error) => {
        if (error.name !== "NotFoundError") throw error;
      });
    }
    return found;
  };
  return walk(await navigator.storage.getDirectory(), "");
}"""


class WatchedServer(Server):
    """The page's server with a list of what was asked for, and faults of its shards."""

    def __init__(self, models: Path, port: int = 0) -> None:
        super().__init__(models, port)
        self.weights: list[tuple[str, int]] = []  # (shard's path, bytes that were sent of it)
        self.hold_after: int | None = None  # bytes of each shard's answer, then nothing more comes
        self.held = 0  # answers of which nothing more comes, to pages that wait
        self.prefixes: dict[str, str] = {}  # path -> text put before the file
        self.replaced: dict[str, tuple[str, str]] = {}  # path -> words of the file, and others
        self.status: int | None = None  # of every part of the page
        self.silent = False  # takes requests and never answers
        self.damaged: set[str] = set()  # paths whose first byte is another than it should be
        self._app.middlewares.append(self._watch)

    @web.middleware
    async def _watch(
        self,
        request: web.Request,
        handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
    ) -> web.StreamResponse:
        if request.path.endswith(".bin"):
            return await self._shard(request)
        while self.silent:
            await asyncio.sleep(0.05)
        if self.status is not None:
            return web.Response(status=self.status, text="out of order")
        if request.path in self.damaged:
            answer = await handler(request)
            data = bytearray((WEB / request.path[1:]).read_bytes())
            data[0] ^= 1
            kept = {name: answer.headers[name] for name in ("Content-Type", "Repr-Digest")}
            return web.Response(body=bytes(data), headers=kept)
        if request.path in self.prefixes or request.path in self.replaced:
            text = (WEB / request.path[1:]).read_text(encoding="utf-8")
            old, new = self.replaced.get(request.path, ("", ""))
            assert old in text
            text = self.prefixes.get(request.path, "") + text.replace(old, new, 1)
            return web.Response(text=text, content_type="text/javascript")
        return await handler(request)

    async def _shard(self, request: web.Request) -> web.StreamResponse:
        """What FileResponse would send, in pieces that are counted and may stop coming."""
        data = (self.models.parent / request.path.strip("/")).read_bytes()
        asked = request.http_range
        start, stop = asked.start or 0, asked.stop or len(data)
        answer = web.StreamResponse(status=206 if "Range" in request.headers else 200)
        answer.content_length = stop - start
        answer.headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
        await answer.prepare(request)
        end = stop if self.hold_after is None else min(stop, start + self.hold_after)
        self.weights.append((request.path, end - start))
        await answer.write(data[start:end])
        self.held += 1
        try:
            while self.hold_after is not None:
                if request.transport is None or request.transport.is_closing():
                    return answer
                await asyncio.sleep(0.02)
        finally:
            self.held -= 1
        if end < stop:
            self.weights.append((request.path, stop - end))
            await answer.write(data[end:stop])
        return answer

    def wait_for_nobody(self) -> None:
        """Until no page waits any more for an answer that is held."""
        began = time.monotonic()
        while self.held:
            assert time.monotonic() - began < PATIENCE_MS / 1000, (
                f"{self.held} answers are still waited for"
            )
            time.sleep(0.02)


class App:
    """One tab of the page. What a person does is a method; what they see is a locator."""

    def __init__(self, page: Page, url: str) -> None:
        self.page, self.url = page, url
        page.set_default_timeout(PATIENCE_MS)
        page.add_init_script(KEEP_WORKER)
        watch(page)
        self.errors = page.get_by_test_id("error-banner")
        self.offer = page.get_by_test_id("offer")
        self.answers = page.locator('[data-testid="message"][data-role="assistant"]')
        self.composer = page.get_by_test_id("composer")
        self.editor = page.get_by_test_id("continue-editor")

    def open(self) -> App:
        """Opens the page, or opens it anew, and waits until it says that the engine is up."""
        self.page.goto(self.url)
        self.page.evaluate(SPY)
        expect(self.page.get_by_test_id("engine")).to_contain_text("Storage used")
        return self

    def ready(self, name: str) -> App:
        """With this model loaded, whatever a test before left undone."""
        if not self.page.evaluate("!!window.calls && !document.querySelector('dialog[open]')"):
            self.open()
        loaded = "import('/app/store.js').then(({ state }) => state.model?.name)"
        if self.page.evaluate(loaded) != name:
            self.get(name)
        return self

    def row(self, name: str) -> Locator:
        """A model in the list."""
        return self.page.locator(f'[data-testid="model"][data-name="{name}"]')

    def show_models(self) -> None:
        self.page.get_by_test_id("model-button").click()
        expect(
            self.page.get_by_role("heading", name="A language model, in this page")
        ).to_be_visible()

    def delete_all(self) -> None:
        """Deletes every stored model, with the buttons for it."""
        self.show_models()
        buttons = self.page.get_by_test_id("models-stored").get_by_role("button", name="Delete")
        while count := buttons.count():
            buttons.first.click()
            self.page.get_by_test_id("confirm").get_by_role("button", name="Delete").click()
            expect(buttons).to_have_count(count - 1)

    def get(self, name: str) -> None:
        """Get or load a model of the list, up to the view in which one writes."""
        self.show_models()
        self.row(name).get_by_test_id("load").click()
        self.expect_loaded()

    def pick(self, *paths: Path) -> None:
        """Chooses files of the disk, or one folder; the card then says what they are."""
        self.show_models()
        what = "folder" if paths[0].is_dir() else "file"
        with self.page.expect_file_chooser() as chooser:
            self.page.get_by_role("button", name=f"Open a {what}…").click()
        chooser.value.set_files(paths[0] if what == "folder" else paths)

    def enter(self, url: str) -> None:
        """Types an address; the card then says what is there."""
        self.show_models()
        address = "Address of a GGUF file or of a model's folder"
        self.page.get_by_role("textbox", name=address).fill(url)
        self.page.get_by_role("button", name="Open address").click()

    def drop(self, *paths: Path) -> None:
        """Drops files or folders of the disk on the page, as the browser does it for a person."""
        self.show_models()
        data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
        devtools = self.page.context.new_cdp_session(self.page)
        for kind in ("dragEnter", "dragOver", "drop"):
            place = {"type": kind, "x": 600, "y": 300, "data": data}
            devtools.send("Input.dispatchDragEvent", place)
        devtools.detach()

    def take(self) -> None:
        """Imports what the card shows."""
        self.offer.get_by_role("button", name="Import").click()
        expect(self.offer).to_be_hidden()

    def expect_refused(self, *texts: str) -> None:
        """The card says so, nothing is kept, and the page can be used."""
        for text in texts:
            expect(self.offer.get_by_role("alert")).to_contain_text(text)
        expect(self.offer.get_by_role("button", name="Import")).to_have_count(0)
        self.offer.get_by_role("button", name="Close").click()
        self.expect_nothing_kept()

    def expect_nothing_kept(self) -> None:
        expect(self.offer).to_be_hidden()
        expect(self.page.get_by_test_id("model-button")).to_contain_text("Choose a model")
        expect(self.page.get_by_role("button", name="Open a file…")).to_be_enabled()
        assert self.files() == {}
        expect(self.page.get_by_test_id("models-stored")).to_have_count(0)

    def expect_loaded(self) -> None:
        expect(self.page.locator("#model-dot")).to_have_class("dot on")
        expect(self.page.locator("#models-view")).to_be_hidden()
        expect(self.errors).to_be_empty()

    def new_chat(self) -> None:
        self.page.get_by_test_id("new-chat").click()
        expect(self.answers).to_have_count(0)

    def say(self, text: str) -> Locator:
        """Sends a message; the answer, which may still be being written."""
        count = self.answers.count()
        self.composer.fill(text)
        self.page.get_by_role("button", name="Send", exact=True).click()
        expect(self.answers).to_have_count(count + 1)
        return self.answers.last

    def answer(self, text: str) -> str:
        """Sends a message; the whole answer."""
        return self.finished(self.say(text))

    def finished(self, message: Locator) -> str:
        """Waits for the end of an answer; its text."""
        expect(message).to_have_attribute("aria-busy", "false")
        expect(message.get_by_test_id("message-error")).to_have_count(0)
        return message.get_by_test_id("message-text").inner_text().strip()

    def set(self, **settings: str | bool) -> None:
        """Fills fields of the settings dialog, by the names in their test ids."""
        self.page.get_by_role("button", name="Settings").click()
        for name, value in settings.items():
            field = self.page.get_by_test_id(f"set-{name}")
            if isinstance(value, bool):
                field.set_checked(value)
            else:
                field.fill(value)
        self.page.get_by_role("button", name="Close settings").click()

    def last(self, method: str) -> dict[str, Any]:
        """Arguments, result and number of tokens of the page's last call of a worker's method."""
        seen: dict[str, Any] = self.page.evaluate(LAST, method)
        return seen

    def run(self, code: str) -> Any:
        """Python in the worker."""
        return self.page.evaluate(RUN, code)

    def call(self, method: str, **args: Any) -> Any:
        """The page's protocol, for what only prepares a test."""
        return self.page.evaluate("([m, a]) => window.doppler.call(m, a)", [method, args])

    def flip(self, model: str, shard: str, at: int) -> None:
        """Damages one bit of a stored shard."""
        self.page.evaluate(FLIP, [model, shard, at])

    def sha256(self, model: str, shard: str) -> str:
        """Of a stored shard, as it lies there."""
        return bytes(self.page.evaluate(DIGEST, [model, shard])).hex()

    def wait_for_stored(self, count: int) -> None:
        """Waits until shards of so many bytes lie in storage."""
        end = time.monotonic() + PATIENCE_MS / 1000
        while (found := sum(self.files().values())) < count:
            assert time.monotonic() < end, f"only {found} bytes were stored"
            self.page.wait_for_timeout(50)

    def files(self) -> dict[str, int]:
        """Every file in the browser's storage of this site, and its bytes."""
        found: dict[str, int] = self.page.evaluate(EVERY_FILE)
        return found


def make_models(folder: Path) -> Path:
    """tiny-chat and tiny-base, converted, in shards of two blocks; their files lie beside."""
    writers = {"tiny-chat": write_chat, "tiny-base": write_base}
    files = {name: write(folder / f"{name}.gguf") for name, write in writers.items()}
    return convert_all(files, folder / "models", SHARD)


def convert_all(
    sources: Mapping[str, Path], models: Path, shard_size: int = SHARD_SIZE, quant: str = "none"
) -> Path:
    """The folder `models` with every source converted, by its name."""
    with ThreadPoolExecutor(1) as thread:  # Playwright's loop may be running in this one
        for name, source in sources.items():
            storage, buffers = FolderStorage(models / name), MemoryBuffers()
            how = {"name": name, "shard_size": shard_size, "quant": quant}
            work = convert_path(source, storage, buffers, **how)
            thread.submit(asyncio.run, work).result()
    return models


@contextmanager
def watched(models: Path, folder: Path, port: int = 0) -> Iterator[WatchedServer]:
    """The server over a copy of the models of its own, which a test may damage."""
    build_wheel()
    shutil.copytree(models, folder / "models")
    with WatchedServer(folder / "models", port) as server:
        yield server


class Traffic:
    """Every request of a browser's pages and workers."""

    def __init__(self, context: BrowserContext) -> None:
        self._urls: list[str] = []
        context.on("request", lambda request: self._urls.append(request.url))

    def assert_local(self) -> None:
        """Nothing left this machine."""
        network = [urlsplit(url) for url in self._urls if not url.startswith(("blob:", "data:"))]
        assert any(url.path.endswith(".wasm") for url in network), "the worker is not watched"
        assert {url.hostname for url in network} == {"127.0.0.1"}

"""Pages that share a small model over loopback: a server with a tracker, and peers in a browser."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from aiohttp import web
from blake3 import blake3
from playwright.sync_api import Browser as Chromium
from playwright.sync_api import BrowserContext, Page, Playwright

from doppler.command.browser import Browser, launch_arguments
from doppler.command.server import Server
from doppler.command.swarm_routes import ALL, Sharing
from doppler.swarm.metainfo import Torrent, TorrentFile

PAGES = Path(__file__).parent / "page" / "swarm"
BLOCK = 64 << 10
# Peers find each other by loopback's address, which Chromium hides from pages otherwise.
FLAGS = ("--allow-loopback-in-peer-connection", "--disable-features=WebRtcHideLocalIpsWithMdns")
TELL_CONNECTIONS = """
window.connections = [];
window.RTCPeerConnection = class extends RTCPeerConnection {
  constructor(config) { super(config); window.connections.push(config); }
};"""
# libtorrent as it comes, told to use no outside address; it says when it has everything, and ends
# with its input. Its destructor would wait for the tracker.
LIBTORRENT = """
import os, sys, time, libtorrent as lt
torrent, folder = sys.argv[1:]
off = dict.fromkeys(("enable_dht", "enable_lsd", "enable_upnp", "enable_natpmp"), False)
session = lt.session({**off, "listen_interfaces": "127.0.0.1:0", "webtorrent_stun_server": ""})
params = lt.load_torrent_file(torrent)
params.save_path = folder
handle = session.add_torrent(params)
while not handle.status().is_seeding:
    time.sleep(0.05)
print("whole", flush=True)
sys.stdin.read()
os._exit(0)
"""
T = TypeVar("T")
SECONDS = 60.0  # until what is waited for should be so; the machine may be busy


@dataclass(frozen=True)
class SmallModel:
    """A model as far as a swarm knows it. files: what block_store.js fills itself from."""

    seed: int
    identity: str
    blocks: int
    files: Mapping[str, bytes]


def small_model(seed: int = 0, blocks: int = 24, shard: int = 8 * BLOCK) -> SmallModel:
    """blocks: of BLOCK bytes each, the last one a half. shard: bytes; another cut is the same
    model."""
    weights = random.Random(seed).randbytes(blocks * BLOCK - BLOCK // 2)
    tokenizer = random.Random(seed + 1).randbytes(BLOCK + 1000)
    parts = [weights[at : at + BLOCK] for at in range(0, len(weights), BLOCK)]
    description = {
        "block_size": BLOCK,
        "bytes": len(weights),
        "blocks": [blake3(part).hexdigest() for part in parts],
        "tokenizer": {"bytes": len(tokenizer), "blake3": blake3(tokenizer).hexdigest()},
    }
    canonical = json.dumps(description, sort_keys=True, separators=(",", ":"))
    starts = range(0, len(weights), shard)
    shards = [
        {"name": f"shard-{at:05}.bin", "bytes": min(shard, len(weights) - start)}
        for at, start in enumerate(starts)
    ]
    manifest = json.dumps({"description": description, "shards": shards}).encode()
    files = {"manifest.json": manifest, "tokenizer.json": tokenizer, "weights.bin": weights}
    return SmallModel(seed, blake3(canonical.encode()).hexdigest(), len(parts), files)


def torrent_of(model: SmallModel) -> Torrent:
    """As Python makes it, of the same files."""
    shards = json.loads(model.files["manifest.json"])["shards"]
    beside = ("tokenizer.json", "manifest.json")
    files = [TorrentFile(shard["name"], shard["bytes"]) for shard in shards]
    files += [TorrentFile(name, len(model.files[name])) for name in beside]
    whole = model.files["weights.bin"] + b"".join(model.files[name] for name in beside)
    pieces = (whole[at : at + BLOCK] for at in range(0, len(whole), BLOCK))
    digests = b"".join(hashlib.sha1(piece).digest() for piece in pieces)
    return Torrent(model.identity, BLOCK, tuple(files), digests)


@contextmanager
def libtorrent(site: SwarmSite, model: SmallModel, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Stock libtorrent, which gets a model's torrent into an empty folder; `stdout` has a line once
    it is there.
    """
    file = folder / "model.torrent"
    file.write_bytes(torrent_of(model).metainfo([site.tracker]))
    command = [sys.executable, "-c", LIBTORRENT, str(file), str(folder)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.communicate(timeout=SECONDS)


class SwarmSite(Server):
    """The page's server with its tracker, the tests' own pages and their models' files."""

    def __init__(self, models: Path, port: int = 0) -> None:
        super().__init__(models, port, sharing=Sharing(allow=(ALL,)))
        self.given: dict[str, SmallModel] = {}
        self._app.middlewares.append(self._around)

    def give(self, name: str, model: SmallModel) -> str:
        """The path below which its files are."""
        self.given[name] = model
        return f"/harness/{name}/"

    @web.middleware
    async def _around(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if not request.path.startswith("/harness/"):
            return await handler(request)
        *folder, name = request.path.removeprefix("/harness/").split("/")
        if folder:
            return web.Response(body=self.given[folder[0]].files[name])
        text = (PAGES / name).read_text()
        return web.Response(text=text, content_type="text/javascript")


class SwarmPeer:
    """A page with the transport and a store of blocks."""

    def __init__(self, site: SwarmSite, context: BrowserContext) -> None:
        self.site, self.context = site, context
        self.sockets: list[str] = []
        self.page = context.new_page()
        self.page.on("websocket", lambda socket: self.sockets.append(socket.url))
        self.open()

    def open(self) -> None:
        """Opens the page, or opens it again: what is stored is still there."""
        self.page.goto(f"{self.site.url}models.json")
        self.page.evaluate("async () => { window.peer = await import('/harness/page.js'); }")

    def store(self, command: str, **args: Any) -> Any:
        """A command of block_store.js."""
        return self.page.evaluate("([c, a]) => peer.store(c, a)", [command, args])

    def run(self, script: str, argument: Any = None) -> Any:
        return self.page.evaluate(script, argument)

    def join(self, model: SmallModel) -> None:
        self.page.evaluate("(identity) => peer.swarm.join(identity)", model.identity)

    def fill(self, name: str, blocks: list[int] | None = None) -> None:
        """Stores a given model, or some blocks of it."""
        model = self.site.given[name]
        self.store("fill", identity=model.identity, url=f"/harness/{name}/", blocks=blocks)

    def state(self, model: SmallModel) -> dict[str, Any]:
        state: dict[str, Any] = self.store("state", identity=model.identity)
        return state

    def facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = self.page.evaluate("() => peer.swarm.facts()")
        return facts

    def happenings(self, what: str) -> list[dict[str, Any]]:
        script = "(what) => peer.happenings.filter((one) => one.what === what)"
        seen: list[dict[str, Any]] = self.page.evaluate(script, what)
        return seen

    @property
    def id(self) -> str:
        return str(self.facts()["peer"])

    def wait(self, model: SmallModel, so: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The store's state, once it is so."""
        return until(lambda: self.state(model), so)

    def wait_whole(self, model: SmallModel) -> dict[str, Any]:
        """Waits until everything is here, each block verified once more."""
        return self.wait(model, lambda state: state["whole"])

    def close(self) -> None:
        self.context.close()


def until(look: Callable[[], T], so: Callable[[T], bool], seconds: float = SECONDS) -> T:
    """What is seen, once it is so."""
    end = time.monotonic() + seconds
    while not so(seen := look()):
        assert time.monotonic() < end, seen
        time.sleep(0.05)
    return seen


class Peers:
    """Makes peers, each in a browser profile of its own."""

    def __init__(self, site: SwarmSite, chromium: Chromium) -> None:
        self.site, self.chromium = site, chromium

    def __call__(self) -> SwarmPeer:
        return SwarmPeer(self.site, self._context())

    def watched(self) -> SwarmPeer:
        """A peer whose page tells how it connects."""
        context = self._context()
        context.add_init_script(TELL_CONNECTIONS)
        return SwarmPeer(self.site, context)

    def stock(self) -> Page:
        """A page of the site with nothing in it."""
        page = self._context().new_page()
        page.goto(f"{self.site.url}models.json")
        return page

    def _context(self) -> BrowserContext:
        # Without the permissions there are no candidates.
        context = self.chromium.new_context(permissions=["microphone", "camera"])
        context.set_default_timeout(1000 * SECONDS)
        return context

    def close(self) -> None:
        for context in self.chromium.contexts:
            context.close()


@contextmanager
def chromium_of(playwright: Playwright, browser: Browser) -> Iterator[Chromium]:
    """A browser in which pages of one machine may connect."""
    arguments = launch_arguments(browser)
    arguments["args"] = [*arguments["args"], *FLAGS]
    chromium = playwright.chromium.launch(**arguments)
    try:
        yield chromium
    finally:
        chromium.close()

"""Sharing a model, as a person does it: two browser profiles, one tracker, all over loopback; and a
native peer in place of one of them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from playwright.sync_api import BrowserContext, expect

from accessible import assert_accessible
from app_page import App, make_models
from doppler.command.wheel import build_wheel
from doppler.store.manifest import BLOCK_SIZE, MANIFEST_FILE
from seed_process import seed
from swarm_site import FLAGS, SwarmSite, until
from visited import Visited

NAME = "tiny-chat"
SOME = 3 * BLOCK_SIZE  # bytes of its nine blocks
SHORT: dict[str, str | bool] = {"greedy": True, "max_tokens": "8", "context": "256"}
FACTS = "import('/app/sharing/connection.js').then(({ shown }) => shown()?.facts() ?? null)"
IS_OPEN = "(all) => import('/app/sharing/licences.js').then((it) => all.map(it.isOpen))"
LINKED = "(id) => import('/app/sharing/connection.js').then(({ linked }) => linked(id) ?? null)"
REWRITE = """(links) => {
  const kept = JSON.parse(localStorage["doppler.sharing"]);
  localStorage["doppler.sharing"] = JSON.stringify({ ...kept, links });
}"""
QR_SIZE = "document.querySelector('#share svg.qr').viewBox.baseVal.width"


class Site(SwarmSite):
    """Gives models over HTTP until it refuses."""

    def __init__(self, models: Path, port: int) -> None:
        super().__init__(models, port)
        self.refuses = False
        self._app.middlewares.append(self._refuse)

    @web.middleware
    async def _refuse(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if self.refuses and request.path.startswith(("/models/", "/seed/")):
            raise web.HTTPForbidden
        return await handler(request)


class Person(App):
    """One who shares, or is given. `asked`: what the page got; `sockets`: what it opened."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.asked, self.sockets = list[str](), list[str]()
        page = context.pages[0]
        super().__init__(page, url)
        context.grant_permissions(["microphone", "camera"])  # else no candidates
        context.on("request", lambda request: self.asked.append(request.url))
        page.on("websocket", lambda socket: self.sockets.append(socket.url))
        self.card = page.get_by_test_id("share")

    def ask_share(self) -> None:
        self.show_models()
        self.row(NAME).get_by_role("button", name="Share").click()
        expect(self.card).to_be_visible()

    def close(self, label: str = "Close") -> None:
        self.card.get_by_role("button", name=label).click()
        expect(self.card).to_be_hidden()

    def begin(self) -> None:
        """Shares the model, whose licence asks for a tick."""
        self.ask_share()
        self.card.get_by_test_id("share-may").check()
        self.card.get_by_test_id("share-begin").click()
        expect(self.card).to_contain_text("is shared")
        self.close()

    def stop(self) -> None:
        self.ask_share()
        self.card.get_by_test_id("share-stop").click()
        until(self.facts, lambda facts: facts is None)

    def cap(self, name: str, megabytes: str) -> None:
        self.ask_share()
        self.card.get_by_test_id(f"cap-{name}").fill(megabytes)
        self.close()

    def follow(self, link: str) -> None:
        """Opens a link in the page that is open, as a click on it does."""
        self.page.evaluate("(link) => { location.href = link; }", link)
        expect(self.card).to_be_visible()

    def expect_shared(self) -> None:
        """With what it has of it, which the transport asks the worker for."""
        until(self.facts, lambda facts: facts and sum(it["have"] for it in facts["models"]))

    def facts(self) -> Any:
        return self.page.evaluate(FACTS)

    def assert_unconnected(self) -> None:
        """Neither the transport nor WebTorrent is even loaded."""
        assert not [url for url in self.asked if "/swarm/" in url or "webtorrent" in url]
        assert self.sockets == []


@pytest.fixture(scope="module")
def site(visited: Visited, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    build_wheel()
    models = make_models(tmp_path_factory.mktemp("sharing"))
    file = models / NAME / MANIFEST_FILE
    file.write_text(json.dumps({**json.loads(file.read_text()), "license": "Gemma"}))
    with Site(models, visited.port) as site:
        yield site


@pytest.fixture(scope="module")
def giver(visited: Visited, site: Site) -> Iterator[Person]:
    """Has the model from the server."""
    with visited.opened(FLAGS) as context:
        person = Person(context, site.url)
        person.open()
        person.set(**SHORT)
        person.get(NAME)
        yield person


@pytest.fixture(scope="module")
def taker(visited: Visited, site: Site) -> Iterator[Person]:
    with visited.opened(FLAGS) as context:
        person = Person(context, site.url)
        person.open()
        person.set(**SHORT)
        yield person


def test_nothing_is_shared_before_a_person_says_so(giver: Person) -> None:
    """And says that they may, where the licence does not say it for all."""
    giver.ask_share()
    expect(giver.card).to_contain_text("Your network address, and that you have this model.")
    expect(giver.card).to_contain_text("The licence “Gemma” may set conditions")
    begin = giver.card.get_by_test_id("share-begin")
    expect(begin).to_be_disabled()
    assert_accessible(giver.page)
    giver.close("Cancel")
    giver.assert_unconnected()
    names = ["Apache-2.0", "mit", "Gemma", "Llama 3.2 Community", "other", "", None]
    assert giver.page.evaluate(IS_OPEN, names) == [True, True] + 5 * [False]
    giver.ask_share()
    giver.card.get_by_test_id("cap-rate").fill("")
    giver.card.get_by_test_id("share-may").check()
    begin.click()
    expect(giver.card).to_contain_text("is shared")
    expect(giver.card.locator("svg.qr")).to_be_visible()
    assert giver.page.evaluate(QR_SIZE) > 21
    assert_accessible(giver.page)
    giver.close()
    expect(giver.row(NAME)).to_contain_text("Shared")
    giver.expect_shared()


def test_a_link_brings_the_model_from_peers_alone(site: Site, giver: Person, taker: Person) -> None:
    site.refuses = True
    giver.ask_share()
    link = giver.card.get_by_test_id("share-link").input_value()
    giver.close()
    taker.follow(link)
    identity = giver.call("models")[0]["id"]
    expect(taker.card.get_by_test_id("link-identity")).to_have_text(identity)
    expect(taker.card).to_contain_text(site.tracker)
    expect(taker.card.get_by_test_id("share-warnings")).to_be_empty()
    taker.assert_unconnected()
    assert_accessible(taker.page)
    taker.card.get_by_test_id("link-get").click()
    taker.expect_loaded()
    assert not [url for url in taker.asked if url.endswith(".bin")]
    assert taker.facts() is None or taker.facts()["given"] == 0
    for person in (giver, taker):
        person.new_chat()
        person.answer("Hello")
    ids, same = (it.last("chat")["result"]["generated_ids"] for it in (giver, taker))
    assert ids == same


def test_caps_hold_and_the_panel_says_what_is_missing(giver: Person, taker: Person) -> None:
    """Of the day: with what was given before. The only holder goes in the middle, and returns."""
    giver.ask_share()
    link = giver.card.get_by_test_id("share-link").input_value()
    giver.close()
    before = giver.facts()["given"]
    assert before > giver.facts()["models"][0]["blocks"] * BLOCK_SIZE / 2
    giver.cap("volume", str((before + SOME) / 1e6))
    taker.delete_all()
    taker.follow(link)
    taker.card.get_by_test_id("link-get").click()
    panel = giver.page.get_by_test_id("peers-panel")
    panel.locator("summary").click()
    expect(panel.get_by_test_id("peer")).to_have_count(1)
    expect(panel.get_by_test_id("peers-origins")).to_contain_text("9 stored before")
    until(giver.facts, lambda facts: facts["given"] >= before + SOME)
    giver.page.wait_for_timeout(1000)
    assert giver.facts()["given"] < before + SOME + BLOCK_SIZE
    giver.stop()
    missing = taker.page.get_by_test_id("peers-panel")
    missing.locator("summary").click()
    expect(missing.get_by_test_id("peers-nobody")).to_be_visible()
    expect(missing.get_by_test_id("peers-nowhere")).to_contain_text(".bin")
    assert_accessible(taker.page)
    giver.begin()
    giver.cap("volume", "")
    until(lambda: taker.call("models"), lambda models: models and models[0]["complete"])
    taker.expect_loaded()


def test_who_shares_keeps_what_few_have(site: Site, giver: Person, taker: Person) -> None:
    """Unasked, from peers, as far as storage is allowed; and nothing before it is shared."""
    taker.delete_all()
    taker.set(storage_budget=str((SOME + 7) / 1e9))
    site.refuses = False
    taker.call("download", url=f"models/{NAME}/{MANIFEST_FILE}", storage_budget=SOME)
    site.refuses = True
    taker.asked.clear()
    taker.ask_share()
    expect(taker.card).to_contain_text("parts that fewer than 4 have, and keeps them")
    taker.close("Cancel")
    assert taker.facts() is None
    taker.begin()
    panel = taker.page.get_by_test_id("peers-panel")
    if panel.get_attribute("open") is None:
        panel.locator("summary").click()
    told = panel.get_by_test_id("peers-origins")
    expect(told).to_contain_text("3 of 9 blocks here: 3 from peers.", timeout=60_000)
    expect(told).to_contain_text("Kept for others: 3 blocks that few have.")
    expect(taker.row(NAME)).to_contain_text("3.16 MB stored", timeout=60_000)
    assert not [url for url in taker.asked if url.endswith(".bin")]
    taker.stop()
    taker.set(storage_budget="")


def test_it_is_kept_until_it_is_stopped(giver: Person) -> None:
    giver.open()
    giver.expect_shared()
    giver.stop()
    giver.asked.clear()
    giver.sockets.clear()
    giver.open()
    giver.show_models()
    expect(giver.row(NAME)).not_to_contain_text("Shared")
    giver.assert_unconnected()


def test_a_link_of_doppler_seed_is_enough(site: Site, taker: Person, tmp_path: Path) -> None:
    """Nobody else has the model: the page learns the torrent from the link alone."""
    site.refuses = True
    taker.delete_all()
    taker.asked.clear()
    with seed(site.models / NAME, site.tracker, log=tmp_path / "seed.log") as native:
        link = native.told["link"]
        assert link.startswith(f"{site.url}#model=")
        assert native.told["infohash"] in link
        taker.follow(link)
        expect(taker.card.get_by_test_id("share-warnings")).to_be_empty()
        taker.card.get_by_test_id("link-get").click()
        taker.expect_loaded()
    (model,) = taker.call("models")
    assert (model["id"], model["complete"]) == (native.told["identity"], True)
    assert not [url for url in taker.asked if "/models/" in url or "/seed/" in url]


def test_a_page_mends_the_model_of_a_native_peer(site: Site, taker: Person, tmp_path: Path) -> None:
    """Which lacks a block; the page's own link names the torrent, too."""
    folder = tmp_path / NAME
    shutil.copytree(site.models / NAME, folder)
    shard = folder / "shard-00000.bin"
    sound = shard.read_bytes()
    shard.write_bytes(bytes(BLOCK_SIZE) + sound[BLOCK_SIZE:])
    taker.begin()
    taker.ask_share()
    field = taker.card.get_by_test_id("share-link")
    with seed(folder, site.tracker) as native:
        expect(field).to_have_value(native.told["link"])
        assert native.logged("is whole again: every block was verified")
    assert shard.read_bytes() == sound
    taker.close()


def test_what_a_link_named_is_kept(taker: Person) -> None:
    """As it was kept once, too: its trackers alone."""
    identity = taker.call("models")[0]["id"]
    named = taker.page.evaluate(LINKED, identity)
    taker.page.reload()
    assert taker.page.evaluate(LINKED, identity) == named
    assert len(named["torrents"]) == len(named["trackers"]) == 1
    taker.page.evaluate(REWRITE, {identity: named["trackers"]})
    taker.page.reload()
    kept = {"trackers": named["trackers"], "torrents": []}
    assert taker.page.evaluate(LINKED, identity) == kept

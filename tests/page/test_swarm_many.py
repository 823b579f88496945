"""Many pages and one model: whoever leaves, the others have it in the end."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
from playwright.sync_api import Playwright

from app_page import convert_all
from doppler.command.browser import Browser
from doppler.command.wheel import build_wheel
from fixture_sets import FIXTURES, reference
from swarm_site import SECONDS, Peers, SwarmSite, chromium_of, until
from swarm_tab import Tab

NAME = "qwen3moe-like"  # small blocks, so that there are some of them
ROOM = {"context": 128, "batch": 32, "kv": "f32"}
SLOW = 48 << 10  # bytes a second that the seed gives, so that there is a middle
FEW = 3
TEN = pytest.param(10, 3, marks=pytest.mark.swarm_ten)
# How many blocks a model has, once its manifest came.
BLOCKS = """
from doppler.page.bridge import api

store = await api._library._peers.find("{identity}")
0 if store is None else len(store.manifest.blocks)
"""
VOLUME = "(volume) => swarm.limit({ volume })"
LEECH = """(id) => void worker.call("download_from_peers", { id }).then(
  (got) => { window.got = got; },
  (error) => { window.got = { error: String(error) }; },
)"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SwarmSite]:
    build_wheel()
    models = tmp_path_factory.mktemp("models")
    convert_all({NAME: FIXTURES / NAME}, models)
    with SwarmSite(models) as site:
        yield site


@contextmanager
def swarm(
    playwright: Playwright,
    browser: Browser,
    site: SwarmSite,
    count: int,
    volume: int | None = None,
) -> Iterator[tuple[str, Tab, list[Tab]]]:
    """The model's identity, a tab that has it, and others that want it: in one more browser.

    volume: bytes that each of those gives.
    """
    with chromium_of(playwright, browser) as chromium:
        peers = Peers(site, chromium)
        seed, *others = (Tab(peers.stock()) for _ in range(count))
        identity = seed.call("download", url=f"models/{NAME}/manifest.json")["id"]
        seed.page.evaluate("(rate) => swarm.limit({ rate })", SLOW)
        seed.join(identity)
        for tab in others:
            tab.page.evaluate(VOLUME, volume)
            tab.join(identity)
            tab.page.evaluate(LEECH, identity)
        yield identity, seed, others


def shares(identity: str, tabs: Sequence[Tab], blocks: int) -> list[set[int]]:
    """The blocks that each has."""
    return [set(range(blocks)) - set(tab.missing(identity)) for tab in tabs]


def whole(identity: str, tabs: Sequence[Tab]) -> None:
    """Waits until each has all of it, verified, and it is listed there."""
    for tab in tabs:
        seen = until(
            lambda tab=tab: {
                "got": tab.page.evaluate("window.got"),
                "missing": tab.missing(identity),
                "swarm": tab.page.evaluate("swarm.facts()"),
            },
            lambda seen: seen["got"] is not None,
            4 * SECONDS,
        )
        assert seen["got"] == {"id": identity}
        assert [model["complete"] for model in tab.call("models")] == [True]
        assert not [url for url in tab.asked if "/models/" in url]


def begun(tabs: Sequence[Tab], identity: str) -> int:
    """How many blocks there are, once each tab knows the model."""
    counts = [
        until(lambda tab=tab: tab.run(BLOCKS.format(identity=identity)), bool, 2 * SECONDS)
        for tab in tabs
    ]
    return int(counts[0])


@pytest.mark.parametrize(("count", "killed"), [(FEW, 1), TEN])
def test_some_are_killed_at_a_third(
    playwright: Playwright, browser: Browser, site: SwarmSite, count: int, killed: int
) -> None:
    """The rest complete, and write the same ids as who had it."""
    began, ids = time.monotonic(), reference(NAME)[0][:12]
    with swarm(playwright, browser, site, count) as (identity, seed, others):
        blocks = begun(others, identity)
        have = until(
            lambda: shares(identity, others, blocks),
            lambda have: sum(map(len, have)) >= blocks // 3 * len(have),
            4 * SECONDS,
        )
        assert min(map(len, have[killed:])) < blocks, "there is nothing left to complete"
        for tab in others[:killed]:
            tab.kill()
        rest = others[killed:]
        seed.page.evaluate("swarm.limit({ rate: null })")
        whole(identity, rest)
        shared = time.monotonic()
        wanted = None
        for tab in (seed, *(rest if count > FEW else rest[:1])):
            tab.call("load", id=identity, **ROOM)
            answer = tab.answer(ids)["generated_ids"]
            wanted = wanted or answer
            assert answer == wanted
            tab.call("unload")
    print(f"{count} peers: shared after {shared - began:.0f} s, {time.monotonic() - began:.0f} s")


@pytest.mark.swarm_ten
def test_the_seed_leaves_when_there_is_one_copy(
    playwright: Playwright, browser: Browser, site: SwarmSite
) -> None:
    """Spread over the others, none of whom has all: they complete from each other."""
    began, count = time.monotonic(), 10
    with swarm(playwright, browser, site, count, volume=0) as (identity, seed, others):
        blocks = begun(others, identity)
        until(
            lambda: shares(identity, others, blocks),
            lambda have: len(set.union(*have)) == blocks,
            4 * SECONDS,
        )
        seed.kill()
        have = shares(identity, others, blocks)
        assert max(map(len, have)) < blocks, "one of them has all"
        for tab in others:
            tab.page.evaluate(VOLUME, None)
        whole(identity, others)
    print(f"{count} peers: {time.monotonic() - began:.0f} s; had {[*map(len, have)]} of {blocks}")

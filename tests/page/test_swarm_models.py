"""Models between pages: the real transport and the real store, over loopback, and no HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from playwright.sync_api import Playwright

from app_page import convert_all
from doppler.command.browser import Browser
from doppler.command.wheel import build_wheel
from doppler.store.cut import recut
from doppler.store.manifest import BLOCK_SIZE
from fixture_sets import FIXTURES, reference
from storable import storable
from swarm_site import Peers, SwarmSite, chromium_of, until
from swarm_tab import Tab

MODEL = storable()
BLOCKS = len(MODEL.manifest.blocks)
MIXTURE = "gpt-oss-like"
ROOM = {"context": 128, "batch": 32, "kv": "f32"}
# The least bytes of the GPU in which the loaded model runs.
LEAST = """
from doppler.engine.fit import bounds
from doppler.page.bridge import api

model = api._model
bounds(model.engine.binder.device.gpu, model.manifest, model._options)[0]
"""
# Flips a bit of a stored block, and reads the block.
DAMAGE = """
from doppler.page.bridge import api

store = await api._library._peers.find("{identity}")
place = store._places[{block}]
byte = store.buffers.to_bytes(await store.storage.read(place.shard.name, place.start, 1))[0]
await store.storage.write(
    place.shard.name, place.start, store.buffers.from_bytes(bytes([byte ^ 1]))
)
data = await store.block({block})
await store.rest()
store.buffers.blake3(data)
"""
# Names of the files in which a model is stored.
SHARDS = """
import json
from doppler.page.bridge import api

storage = await api._library._root.open("{identity}")
names = await storage.names()
await storage.close()
json.dumps([name for name in names if name.startswith("shard-")])
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SwarmSite]:
    build_wheel()
    models = tmp_path_factory.mktemp("models")
    MODEL.save(models / "noise")
    convert_all({MIXTURE: FIXTURES / MIXTURE}, models)
    with SwarmSite(models) as site:
        yield site


@pytest.fixture(scope="module")
def peers(playwright: Playwright, browser: Browser, site: SwarmSite) -> Iterator[Peers]:
    with chromium_of(playwright, browser) as chromium:
        yield Peers(site, chromium)


@pytest.fixture(scope="module")
def seed(peers: Peers) -> Tab:
    """Has both models over HTTP, and shares them."""
    tab = Tab(peers.stock())
    for name in ("noise", MIXTURE):
        tab.join(tab.call("download", url=f"models/{name}/manifest.json")["id"])
    return tab


@pytest.fixture(scope="module")
def leech(peers: Peers) -> Tab:
    return Tab(peers.stock())


@pytest.fixture(scope="module")
def other(peers: Peers) -> Tab:
    return Tab(peers.stock())


def test_a_model_comes_from_a_peer_alone(seed: Tab, leech: Tab) -> None:
    """By its identity: then it is stored whole, verified, and listed."""
    identity = MODEL.manifest.identity
    leech.join(identity)
    assert leech.call("download_from_peers", id=identity) == {"id": identity}
    (model,) = leech.call("models")
    assert (model["id"], model["complete"], model["url"]) == (identity, True, None)
    assert not [url for url in leech.asked if "/models/" in url]


def test_a_damaged_block_comes_from_that_peer_again(seed: Tab, leech: Tab) -> None:
    """The transport is told that it is not there, and so asks for it."""
    identity, before = MODEL.manifest.identity, seed.given
    code = DAMAGE.format(identity=identity, block=2)
    assert leech.run(code) == MODEL.manifest.blocks[2]
    assert seed.given - before >= BLOCK_SIZE
    assert not [url for url in leech.asked if "/models/" in url]


def test_a_reload_goes_on_with_the_blocks_that_are_missing(
    seed: Tab, leech: Tab, other: Tab
) -> None:
    """They came in any order; a block comes twice only where it was on its way."""
    identity, reloaded = MODEL.manifest.identity, other
    limit = "(volume) => swarm.limit({ volume })"
    leech.page.evaluate(limit, 0)
    seed.page.evaluate(limit, seed.given + BLOCKS // 2 * BLOCK_SIZE)  # then it waits
    try:
        reloaded.join(identity)
        reloaded.page.evaluate("(id) => void worker.call('download_from_peers', { id })", identity)
        missing = until(lambda: len(reloaded.missing(identity)), range(1, BLOCKS - 3).__contains__)
        reloaded.reload()
        before = seed.given
        seed.page.evaluate(limit, None)
        reloaded.join(identity)
        reloaded.call("download_from_peers", id=identity)
        assert not reloaded.missing(identity)
        assert seed.given - before <= (missing + 1) * BLOCK_SIZE
    finally:
        for tab in (seed, leech):
            tab.page.evaluate(limit, None)


def test_another_cut_is_asked_for(seed: Tab, other: Tab) -> None:
    """It is the same model in other shards, from peers that have it in theirs."""
    identity, tab = MODEL.manifest.identity, other
    fine = recut(MODEL.manifest, BLOCK_SIZE)
    if tab.call("models"):  # from the test before
        tab.page.evaluate("(identity) => swarm.leave(identity)", identity)
        tab.call("delete", id=identity)
    tab.join(identity)
    answer = tab.call("download_from_peers", id=identity, shard_bytes=BLOCK_SIZE)
    assert answer == {"id": identity}
    (model,) = tab.call("models")
    assert (model["id"], model["complete"]) == (identity, True)
    names = json.loads(tab.run(SHARDS.format(identity=identity)))
    assert names == [shard.name for shard in fine.shards]
    assert not [url for url in tab.asked if "/models/" in url]


def test_experts_come_from_a_peer_while_it_runs(site: SwarmSite, seed: Tab, leech: Tab) -> None:
    """With nothing stored and no address: the same ids; what it waits for is told."""
    ids = reference(MIXTURE)[0][:12]
    (model,) = [it for it in seed.call("models") if it["name"] == MIXTURE]
    seed.call("load", id=model["id"], **ROOM)
    tokens = seed.answer(ids)["generated_ids"]
    budget = seed.run(LEAST)
    leech.join(model["id"])
    leech.call("download_from_peers", id=model["id"], storage_budget=0)
    room = {**ROOM, "gpu_budget": budget, "host_budget": 0, "storage_budget": 0}
    leech.call("load", id=model["id"], **room)
    answer = leech.answer(ids)
    assert answer["generated_ids"] == tokens
    paging = answer["paging"]
    assert paging["bytes"]["remote"] > 0 == paging["bytes"]["storage"]
    assert paging["waited_ms"]["remote"] > 0
    print(f"brought {paging['bytes']['remote']} bytes, {paging['waited_ms']['remote']:.0f} ms")
    assert not [url for url in leech.asked if "/models/" in url]

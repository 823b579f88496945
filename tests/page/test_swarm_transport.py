"""The transport of the swarm, in pages that are connected over loopback."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Playwright

from doppler.command.browser import Browser
from swarm_site import Peers, SmallModel, SwarmSite, chromium_of, small_model


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SwarmSite]:
    with SwarmSite(tmp_path_factory.mktemp("none")) as site:
        yield site


@pytest.fixture(scope="module")
def every_peer(playwright: Playwright, browser: Browser, site: SwarmSite) -> Iterator[Peers]:
    with chromium_of(playwright, browser) as chromium:
        yield Peers(site, chromium)


@pytest.fixture
def peers(every_peer: Peers) -> Iterator[Peers]:
    yield every_peer
    every_peer.close()


@pytest.fixture
def model(site: SwarmSite, request: pytest.FixtureRequest) -> SmallModel:
    """Another one for each test: whom one test left behind is no peer of the next."""
    model = small_model(seed=hash(request.node.name))
    site.give("model", model)
    return model


def test_a_link_is_enough(peers: Peers, model: SmallModel) -> None:
    """Who has only the identity gets manifest, tokenizer and all blocks, from one peer."""
    seed, leech = peers(), peers()
    seed.fill("model")
    seed.join(model)
    leech.join(model)
    state = leech.wait_whole(model)
    assert sorted(block for block, _, _ in state["written"]) == [*range(model.blocks)]
    assert {peer for _, peer, _ in state["written"]} == {seed.id}

"""The transport of the swarm, in pages that are connected over loopback."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, Playwright

from doppler.command.browser import Browser
from swarm_site import (
    BLOCK,
    Peers,
    SmallModel,
    SwarmPeer,
    SwarmSite,
    chromium_of,
    libtorrent,
    small_model,
    torrent_of,
    until,
)

# A stock WebTorrent in a page of its own, told to use no outside address.
STOCK = """async () => {
  const { default: WebTorrent } = await import("/vendor/webtorrent.js");
  window.client = new WebTorrent({
    dht: false, lsd: false, natPmp: false, natUpnp: false,
    tracker: { rtcConfig: { iceServers: [] } },
  });
  window.announce = [new URL("/tracker", location.href.replace(/^http/, "ws")).href];
}"""


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


@pytest.fixture
def seed(peers: Peers, model: SmallModel) -> SwarmPeer:
    """A peer that shares all of the model."""
    seed = peers()
    seed.fill("model")
    seed.join(model)
    until(lambda: seed.facts()["models"][0]["cuts"], bool)  # it has hashed what it shares
    return seed


def is_banned(peer: SwarmPeer, other: str) -> bool:
    return other in {ban["peer"] for ban in peer.facts()["bans"]}


def blocks_of(state: dict[str, list[tuple[int, str, bool]]], good: bool = True) -> list[int]:
    """Blocks that were written, as often as they were."""
    return sorted(block for block, _, verdict in state["written"] if verdict is good)


def stock_page(peers: Peers) -> Page:
    page = peers.stock()
    page.evaluate(STOCK)
    return page


def test_a_link_is_enough(peers: Peers, seed: SwarmPeer, model: SmallModel) -> None:
    """Who has only the identity gets manifest, tokenizer and all blocks, from one peer."""
    leech = peers()
    leech.join(model)
    state = leech.wait_whole(model)
    assert blocks_of(state) == [*range(model.blocks)]
    assert {peer for _, peer, _ in state["written"]} == {seed.id}
    [facts] = leech.facts()["models"]
    assert facts["have"] == facts["blocks"] == model.blocks
    assert set(facts["origins"].values()) == {seed.id}
    assert facts["rarest"] == {"copies": 2, "blocks": model.blocks}
    assert facts["nowhere"] == []
    until(lambda: seed.facts()["models"][0]["peers"][0]["has"], lambda has: has == model.blocks)


def test_nobody_outside_hears_of_it(peers: Peers, seed: SwarmPeer, model: SmallModel) -> None:
    """No ICE server is asked, and no tracker but the page's own."""
    watched = peers.watched()
    watched.join(model)
    watched.wait_whole(model)
    connections = watched.run("() => window.connections")
    assert connections
    assert all(config["iceServers"] == [] for config in connections)
    assert watched.sockets == [f"ws://127.0.0.1:{watched.site.port}/tracker"]


def test_whoever_makes_the_torrent_makes_the_same(seed: SwarmPeer, model: SmallModel) -> None:
    [cut] = seed.facts()["models"][0]["cuts"]
    assert cut["infohash"] == torrent_of(model).infohash


def test_who_corrupts_is_banned_for_good(peers: Peers, seed: SwarmPeer, model: SmallModel) -> None:
    """Every second piece of its is bad: two of them, and it is out; after a reload, too."""
    seed.store("fault", fault="corrupt")
    victim = peers()
    victim.join(model)
    until(lambda: is_banned(victim, seed.id), bool)
    assert victim.facts()["models"][0]["wasted"]["bad"] == 2 * BLOCK
    assert len(victim.happenings("bad piece")) == 2
    honest = peers()
    honest.fill("model")
    honest.join(model)
    state = victim.wait_whole(model)
    assert blocks_of(state) == [*range(model.blocks)]
    assert len(victim.happenings("bad piece")) == 2
    victim.open()
    victim.join(model)
    until(
        lambda: {it["peer"] for it in victim.happenings("peer came")},
        lambda them: honest.id in them,
    )
    assert is_banned(victim, seed.id)
    assert seed.id not in {it["peer"] for it in victim.happenings("peer came")}


def test_a_slow_peer_is_overtaken(peers: Peers, seed: SwarmPeer, model: SmallModel) -> None:
    slow = peers()
    slow.fill("model")
    slow.run("() => peer.swarm.limit({ rate: 6000 })")  # all of it would take four minutes
    slow.join(model)
    leech = peers()
    leech.join(model)
    state = leech.wait_whole(model)
    assert blocks_of(state) == [*range(model.blocks)]


@pytest.mark.parametrize("fault", ["empty", "mute"])
def test_who_has_not_what_it_says_is_passed_over(
    peers: Peers, seed: SwarmPeer, model: SmallModel, fault: str
) -> None:
    """It refuses, and is shut out for a while; or it says nothing."""
    liar, leech = seed, peers()
    liar.store("fault", fault=fault)
    leech.join(model)
    if fault == "empty":
        until(lambda: is_banned(leech, liar.id), bool)
    else:
        until(lambda: leech.facts()["models"][0]["peers"], bool)
    seed = peers()
    seed.fill("model")
    seed.join(model)
    state = leech.wait_whole(model)
    assert {peer for _, peer, _ in state["written"]} == {seed.id}
    broken = {(it["peer"], it["why"]) for it in leech.happenings("promise broken")}
    assert broken == {(liar.id, "refused")} or fault == "mute"


def test_the_only_one_who_has_it_may_be_busy(
    peers: Peers, seed: SwarmPeer, model: SmallModel
) -> None:
    """It says nothing for minutes: it is looked for anew, not shut out, and goes on when it can."""
    leech = peers()
    leech.page.clock.install()
    leech.join(model)
    leech.wait(model, lambda state: state["have"] > 0)
    seed.store("fault", fault="mute")
    before = len(leech.happenings("peer came"))
    for _ in range(30):
        leech.page.clock.run_for(5000)
        time.sleep(0.1)
    until(lambda: len(leech.happenings("peer came")), lambda came: came > before)
    assert not leech.facts()["bans"]
    assert not leech.happenings("promise broken")
    seed.store("fault", fault=None)
    leech.page.clock.run_for(40_000)  # it rests for half a minute at most
    assert blocks_of(leech.wait_whole(model)) == [*range(model.blocks)]


def test_who_closes_in_mid_piece_is_replaced(
    peers: Peers, seed: SwarmPeer, model: SmallModel
) -> None:
    other, leech = peers(), peers()
    other.fill("model")
    other.join(model)
    for each in (other, seed):
        each.run("() => peer.swarm.limit({ rate: 150_000 })")
    leech.join(model)
    leech.wait(model, lambda state: state["have"] > 4)
    other.close()
    seed.run("() => peer.swarm.limit({ rate: null })")
    assert blocks_of(leech.wait_whole(model)) == [*range(model.blocks)]


def test_who_floods_is_banned(peers: Peers, seed: SwarmPeer, model: SmallModel) -> None:
    [cut] = seed.facts()["models"][0]["cuts"]
    flood = {
        "floods": "() => { for (let i = 0; i < 20_000; i++) wire.have(i % 20); }",
        "sends a message of 4294967295 bytes": "() => wire.push(new Uint8Array(6).fill(255))",
        "asks for more than it takes": """() => {
          for (let i = 0; i < 5000; i++) wire._message(6, [0, 0, 16384], null);
        }""",
    }
    for what, script in flood.items():
        stock = stock_page(peers)
        stock.evaluate(
            """(infohash) => new Promise((resolve) => {
              const torrent = client.add(infohash, { announce, deselect: true });
              torrent.on("wire", (wire) => { window.wire = wire; wire.on("unchoke", resolve); });
            })""",
            cut["infohash"],
        )
        stock.evaluate(script)
        peer = stock.evaluate("() => client.peerId")
        why = until(
            lambda: {it["peer"]: it["why"] for it in seed.facts()["bans"]},
            lambda it, peer=peer: peer in it,
        )
        assert why[peer] == what
        stock.context.close()
    leech = peers()
    leech.join(model)
    leech.wait_whole(model)


def test_the_sole_seed_leaves_and_returns(peers: Peers, seed: SwarmPeer, model: SmallModel) -> None:
    """Who is left knows which blocks exist nowhere, and gets those, and those only."""
    seed.run("() => peer.swarm.limit({ rate: 400_000 })")
    leech = peers()
    leech.join(model)
    leech.wait(model, lambda state: state["have"] > 6)
    seed.run("(identity) => peer.swarm.leave(identity)", model.identity)
    until(lambda: leech.facts()["models"][0]["peers"], lambda them: not them)
    [facts] = leech.facts()["models"]
    had = leech.state(model)["have"]
    assert 6 < had < model.blocks
    assert len(facts["nowhere"]) == model.blocks - had
    leech.wait(model, lambda state: state["seen"] == {"peers": 0, "copies": [0] * model.blocks})
    seed.join(model)
    assert blocks_of(leech.wait_whole(model)) == [*range(model.blocks)]


def test_a_reload_resumes(peers: Peers, seed: SwarmPeer, model: SmallModel) -> None:
    seed.run("() => peer.swarm.limit({ rate: 400_000 })")
    leech = peers()
    leech.join(model)
    first = leech.wait(model, lambda state: state["have"] > 6)
    leech.page.reload()
    leech.open()
    seed.run("() => peer.swarm.limit({ rate: null })")
    leech.join(model)
    written = blocks_of(leech.wait_whole(model))
    assert len(written) <= model.blocks - first["have"]
    assert set(written).isdisjoint(block for block, _, _ in first["written"])


def test_a_stock_page_takes_and_gives(peers: Peers, seed: SwarmPeer, model: SmallModel) -> None:
    [cut] = seed.facts()["models"][0]["cuts"]
    stock = stock_page(peers)
    names = stock.evaluate(
        """(infohash) => new Promise((resolve) => {
          const torrent = client.add(infohash, { announce });
          torrent.on("done", () => resolve(torrent.files.map(({ name }) => name)));
        })""",
        cut["infohash"],
    )
    assert names == [f"shard-{n:05}.bin" for n in range(3)] + ["tokenizer.json", "manifest.json"]
    seed.close()
    leech = peers()
    leech.run("([id, cut]) => peer.swarm.join(id, [cut])", [model.identity, cut["infohash"]])
    state = leech.wait_whole(model)
    assert {peer for _, peer, _ in state["written"]} == {stock.evaluate("() => client.peerId")}


def test_stock_libtorrent_takes_and_gives(
    peers: Peers, site: SwarmSite, seed: SwarmPeer, model: SmallModel, tmp_path: Path
) -> None:
    with libtorrent(site, model, tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "whole\n"
        shards = sorted((tmp_path / model.identity).glob("shard-*.bin"))
        assert b"".join(map(Path.read_bytes, shards)) == model.files["weights.bin"]
        seed.close()
        leech = peers()
        cut = torrent_of(model).infohash
        leech.run("([id, cut]) => peer.swarm.join(id, [cut])", [model.identity, cut])
        state = leech.wait_whole(model)
        senders = {bytes.fromhex(peer)[:3] for _, peer, _ in state["written"]}
        assert senders == {b"-LT"}  # it has another id for each connection


def test_peers_of_two_cuts_complete_from_each_other(
    peers: Peers, site: SwarmSite, model: SmallModel
) -> None:
    """Each was given half by a seed of its own cut, which is gone."""
    coarse = small_model(seed=model.seed, shard=16 * BLOCK)
    assert coarse.identity == model.identity
    site.give("coarse", coarse)
    halves = []
    for name, blocks in (("model", [*range(12)]), ("coarse", [*range(12, 24)])):
        seed, half = peers(), peers()
        seed.fill(name)
        seed.join(model)
        half.store("want", identity=model.identity, blocks=blocks, urgency="idle")
        half.join(model)
        half.wait(model, lambda state: state["have"] == 12)
        seed.close()
        half.run("(identity) => peer.swarm.leave(identity)", model.identity)
        halves.append(half)
    for half in halves:
        half.store("want", identity=model.identity, blocks=None, urgency="idle")
        half.join(model)
    for half, other in zip(halves, halves[::-1], strict=True):
        state = half.wait_whole(model)
        assert blocks_of(state) == [*range(model.blocks)]
        assert other.id in {peer for _, peer, _ in state["written"]}
    shards = [[cut["shard_bytes"] for cut in it.facts()["models"][0]["cuts"]] for it in halves]
    assert [sorted(each) for each in shards] == [[8 * BLOCK, 16 * BLOCK]] * 2


def test_caps_of_rate_and_volume_hold(peers: Peers, seed: SwarmPeer, model: SmallModel) -> None:
    seed.run("() => peer.swarm.limit({ volume: 600_000 })")
    leech = peers()
    leech.join(model)
    until(lambda: seed.facts()["given"], lambda given: given >= 600_000)
    time.sleep(1)
    assert seed.facts()["given"] < 600_000 + 4 * BLOCK
    assert leech.happenings("promise broken") == []
    before, began = seed.facts()["given"], time.monotonic()
    seed.run("() => peer.swarm.limit({ volume: null, rate: 400_000 })")
    leech.wait_whole(model)
    rest = seed.facts()["given"] - before
    assert rest < 400_000 * (time.monotonic() - began + 1)  # a second's worth may come at once


def test_what_is_wanted_now_comes_first(peers: Peers, seed: SwarmPeer, model: SmallModel) -> None:
    leech = peers()
    leech.store("want", identity=model.identity, blocks="none")
    leech.join(model)
    leech.wait(model, lambda state: state["seen"] and 1 in state["seen"]["copies"])
    seed.run("() => peer.swarm.limit({ rate: 150_000 })")
    wanted = {"idle": [*range(18)], "soon": [*range(18, 23)], "now": [23]}
    leech.run(
        "(wants) => Promise.all(wants.map((want) => peer.store('want', want)))",
        [{"identity": model.identity, "blocks": it, "urgency": how} for how, it in wanted.items()],
    )
    state = leech.wait(model, lambda state: state["have"] > 8)
    order = [block for block, _, _ in state["written"]]
    assert {*range(18, 24)} <= {*order[:9]}  # what was on its way came before
    assert order.index(23) < max(order.index(block) for block in range(18, 23))


def test_the_rarest_come_first(peers: Peers, seed: SwarmPeer, model: SmallModel) -> None:
    """One peer has all, one the first half: the one is asked for what the other has not."""
    partial, leech = peers(), peers()
    partial.fill("model", [*range(12)])
    for each in (partial, leech):
        each.store("want", identity=model.identity, blocks="none")
        each.join(model)
    copies = {"peers": 2, "copies": [2] * 12 + [1] * 12}
    leech.wait(model, lambda state: state["seen"] == copies)
    for each in (seed, partial):
        each.run("() => peer.swarm.limit({ rate: 150_000 })")
    leech.store("want", identity=model.identity, blocks=None, urgency="idle")
    state = leech.wait(model, lambda state: state["have"] > 8)
    of_seed = [block for block, peer, _ in state["written"] if peer == seed.id]
    assert min(of_seed[:4]) >= 12


def test_a_false_torrent_is_left(peers: Peers, seed: SwarmPeer, model: SmallModel) -> None:
    """Its name is the model's, and its manifest is not: nobody is blamed who has it."""
    stock = stock_page(peers)
    infohash = stock.evaluate(
        """([name, length]) => new Promise((resolve) => {
          const files = ["shard-00000.bin", "manifest.json"].map(
            (name) => new File([`{"description": ${"1".repeat(length)}}`], name),
          );
          client.seed(files, { announce, name, pieceLength: length }, (t) => resolve(t.infoHash));
        })""",
        [model.identity, BLOCK],
    )
    leech = peers()
    leech.run("([id, cut]) => peer.swarm.join(id, [cut])", [model.identity, infohash])
    leech.wait_whole(model)
    assert [it["infohash"] for it in leech.happenings("torrent refused")] == [infohash]
    assert leech.facts()["bans"] == []


def test_lost_blocks_are_got_again(peers: Peers, seed: SwarmPeer, model: SmallModel) -> None:
    leech = peers()
    leech.join(model)
    leech.wait_whole(model)
    leech.store("lose", identity=model.identity, blocks=[3, 5])
    until(
        lambda: seed.facts()["models"][0]["copies"], lambda copies: (copies[3], copies[5]) == (1, 1)
    )
    leech.store("want", identity=model.identity, blocks=None, urgency="soon")
    leech.wait_whole(model)


def test_who_goes_to_another_page_is_gone_at_once(
    peers: Peers, seed: SwarmPeer, model: SmallModel
) -> None:
    """Not when Chromium finds, after a quarter of a minute, that nothing answers."""
    leech = peers()
    leech.join(model)
    leech.wait_whole(model)
    seed.page.goto(f"{seed.site.url}models.json")
    until(lambda: leech.facts()["models"][0]["peers"], lambda them: them == [], 5)


def test_who_leaves_gives_nothing(peers: Peers, seed: SwarmPeer, model: SmallModel) -> None:
    leech = peers()
    leech.store("want", identity=model.identity, blocks="none")
    leech.join(model)
    until(lambda: leech.facts()["models"][0]["peers"], lambda them: len(them) == 1)
    seed.run("(identity) => peer.swarm.leave(identity)", model.identity)
    until(lambda: leech.facts()["models"][0]["peers"], lambda them: them == [])
    assert seed.facts()["models"] == []


def test_a_false_torrent_that_gave_a_part_costs_no_other(
    peers: Peers, site: SwarmSite, model: SmallModel
) -> None:
    """It has the true manifest and another tokenizer, of which it gives the end alone."""
    stock = stock_page(peers)
    infohash = stock.evaluate(
        """async ([identity, length]) => {
          const get = async (name) => {
            const answer = await fetch(`/harness/model/${name}`);
            return new Uint8Array(await answer.arrayBuffer());
          };
          const names = ["weights.bin", "tokenizer.json", "manifest.json"];
          const [weights, tokenizer, manifest] = await Promise.all(names.map(get));
          tokenizer[tokenizer.length - 1] ^= 1;
          let at = 0;
          const { shards } = JSON.parse(new TextDecoder().decode(manifest));
          const files = shards.map(({ name, bytes }) => {
            at += bytes;
            return new File([weights.subarray(at - bytes, at)], name);
          });
          files.push(new File([tokenizer], names[1]), new File([manifest], names[2]));
          const options = { announce, name: identity, pieceLength: length };
          const seeding = new Promise((resolve) => client.seed(files, options, resolve));
          window.torrent = await seeding;
          const { bitfield, pieces, infoHash } = torrent;
          for (let piece = 0; piece < pieces.length - 1; piece++) bitfield.set(piece, false);
          return infoHash;
        }""",
        [model.identity, BLOCK],
    )
    leech = peers()
    leech.store("want", identity=model.identity, blocks="none")
    leech.run("([id, cut]) => peer.swarm.join(id, [cut])", [model.identity, infohash])
    # Its last piece has the manifest in it, and comes a second time for the tokenizer's end.
    last = sum(map(len, model.files.values())) % BLOCK
    until(lambda: stock.evaluate("() => torrent.uploaded"), lambda sent: sent >= 2 * last)
    honest = peers()
    honest.fill("model")
    honest.join(model)
    leech.store("want", identity=model.identity, blocks=None, urgency="idle")
    leech.wait_whole(model)
    refused = {it["infohash"] for it in leech.happenings("torrent refused")}
    assert torrent_of(model).infohash not in refused
    assert leech.facts()["bans"] == []

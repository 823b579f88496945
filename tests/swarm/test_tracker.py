"""The tracker: what it passes on, what it refuses, and what it costs those who behave."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from doppler.command import torrents
from doppler.command.server import Server
from doppler.command.swarm_routes import Sharing
from doppler.swarm.announces import Announce, Malformed, parse
from doppler.swarm.connections import Limits
from doppler.swarm.metainfo import make_torrent, rendezvous
from doppler.swarm.tracker import Tracker
from storable import storable
from tracker_client import TrackerClient, as_text, offers, peer_id, peers

HASH, OTHER = "ab" * 20, "cd" * 20


@asynccontextmanager
async def tracker(limits: Limits | None = None) -> AsyncIterator[tuple[str, Tracker]]:
    """A tracker that carries HASH, and its address."""

    async def allowed(infohash: str) -> bool:
        return infohash == HASH

    app, made = web.Application(), Tracker(allowed, limits)

    async def handle(request: web.Request) -> web.StreamResponse:
        return await made.handle(request, request.remote or "")

    app.router.add_get("/", handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"ws://127.0.0.1:{runner.addresses[0][1]}/", made
    finally:
        await made.close()
        await runner.cleanup()


async def meet(one: TrackerClient, other: TrackerClient) -> None:
    """Two peers that the tracker has not heard of shake hands through it."""
    assert "failure reason" not in await one.joined(HASH)
    assert "failure reason" not in await other.joined(HASH, 1)
    offer = await one.heard()
    assert offer["peer_id"] == peer_id(other.name)
    await one.answer(HASH, other.name, offer["offer_id"])
    assert (await other.heard())["answer"]["sdp"] == f"v=0 {one.name}"


def test_peers_of_a_torrent_shake_hands() -> None:
    async def run() -> None:
        async with tracker() as (url, made), peers(url, "a", "b") as (a, b):
            told = await a.joined(HASH, left=0)
            assert (told["complete"], told["incomplete"]) == (1, 0)
            assert told["interval"] > 0
            told = await b.joined(HASH, 3)
            assert (told["complete"], told["incomplete"]) == (1, 1)
            offer = await a.heard()
            assert offer == {
                "action": "announce",
                "info_hash": as_text(HASH),
                "peer_id": peer_id("b"),
                "offer_id": "b-2",
                "offer": {"type": "offer", "sdp": "v=0 b"},
            }
            await a.answer(HASH, "b", "b-2")
            answer = await b.heard()
            assert (answer["peer_id"], answer["offer_id"]) == (peer_id("a"), "b-2")
            assert answer["answer"] == {"type": "answer", "sdp": "v=0 a"}
            await b.announce(HASH, event="stopped")
            assert (await a.joined(HASH, left=0))["incomplete"] == 0
            assert made.peers(HASH) == (1, 0)
            await a.socket.close()
            assert await gone(made)

    asyncio.run(run())


async def gone(made: Tracker) -> bool:
    """Whether soon no peer is left."""
    for _ in range(50):
        if made.peers(HASH) == (0, 0):
            return True
        await asyncio.sleep(0.02)
    return False


def test_an_unlisted_torrent_is_refused_and_the_connection_goes_on() -> None:
    async def run() -> None:
        async with tracker() as (url, made), peers(url, "a") as (a,):
            refused = await a.joined(OTHER)
            assert refused["info_hash"] == as_text(OTHER)
            assert f"serve --allow {OTHER}" in refused["failure reason"]
            assert made.peers(OTHER) == (0, 0)
            assert (await a.joined(HASH))["incomplete"] == 1

    asyncio.run(run())


def test_a_peer_id_is_its_connection_s() -> None:
    async def run() -> None:
        async with tracker() as (url, _), peers(url, "a", "a", "b") as (a, thief, b):
            await a.joined(HASH)
            assert "another connection" in (await thief.joined(HASH))["failure reason"]
            await thief.announce(HASH, event="stopped")  # nor can it send the peer away
            await b.joined(HASH, 1)
            offer = await a.heard()
            assert offer["offer"]["sdp"] == "v=0 b"
            await thief.answer(HASH, "b", offer["offer_id"])  # nor answer in its place
            await a.answer(HASH, "b", offer["offer_id"], answer={"type": "answer", "sdp": "true"})
            assert (await b.heard())["answer"]["sdp"] == "true"
            await a.answer(HASH, "b", offer["offer_id"])  # an offer is answered once
            assert await b.hears_nothing()

    asyncio.run(run())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "1e999",
        "[" * 50_000,
        "1" * 10_000,
        '"\\ud800"',
        json.dumps({"action": "scrape"}),
        json.dumps({"action": "announce"}),
        json.dumps({"action": "announce", "info_hash": HASH, "peer_id": "a" * 20}),
        json.dumps({"action": "announce", "info_hash": "\u0141" * 20, "peer_id": "a" * 20}),
        json.dumps({"action": "announce", "info_hash": "i" * 20, "peer_id": None}),
    ],
)
def test_garbage_ends_its_connection_only(text: str) -> None:
    async def run() -> None:
        async with tracker() as (url, _), peers(url, "a", "b", "bad") as (a, b, bad):
            await bad.joined(HASH)
            await bad.socket.send_str(text)
            assert await bad.close_code() == aiohttp.WSCloseCode.POLICY_VIOLATION
            await meet(a, b)

    asyncio.run(run())


def test_what_a_message_may_be() -> None:
    good = {"action": "announce", "info_hash": "i" * 20, "peer_id": "p" * 20}
    read = parse(json.dumps(good | {"left": None, "event": "started", "offers": None}))
    assert read == Announce("i" * 20, "p" * 20, "started", False, {})
    assert parse(json.dumps(good | {"left": 0})).seeds  # type: ignore[union-attr]
    assert not parse(json.dumps(good | {"left": False})).seeds  # type: ignore[union-attr]
    many = parse(json.dumps(good | {"offers": offers("p", 50)}))
    assert isinstance(many, Announce)
    assert len(many.offers) == 10
    for bad in (
        {"event": "lost"},
        {"event": ["started"]},
        {"offers": {"offer_id": "i"}},
        {"offers": [[]]},
        {"offers": [{"offer_id": "", "offer": {"type": "offer", "sdp": "v"}}]},
        {"offers": [{"offer_id": "i", "offer": {"type": "answer", "sdp": "v"}}]},
        {"offers": offers("p", 1, "v" * 20_000)},
        {"answer": {"type": "answer", "sdp": "v"}},
        {"answer": "v", "to_peer_id": "q" * 20, "offer_id": "i"},
    ):
        with pytest.raises(Malformed):
            parse(json.dumps(good | bad))


def test_binary_messages_and_long_ones() -> None:
    async def run() -> None:
        async with tracker() as (url, _), peers(url, "a", "b", "c", "d") as (a, b, c, d):
            await c.socket.send_bytes(b"\0" * 100)
            assert await c.close_code() == aiohttp.WSCloseCode.UNSUPPORTED_DATA
            await d.socket.send_str("x" * (1 << 20))
            assert await d.close_code() == aiohttp.WSCloseCode.MESSAGE_TOO_BIG
            await meet(a, b)

    asyncio.run(run())


def test_too_many_messages_and_none_at_all() -> None:
    async def run() -> None:
        limits = Limits(messages_per_second=10, burst=20, silence=0.3)
        async with tracker(limits) as (url, _), peers(url, "a", "b", "c", "d") as (a, b, c, d):
            for _ in range(30):
                await c.announce(OTHER)
            assert await c.close_code() == aiohttp.WSCloseCode.POLICY_VIOLATION
            await meet(a, b)
            assert await d.close_code() == aiohttp.WSCloseCode.POLICY_VIOLATION
            await asyncio.sleep(0.4)
            assert (await a.joined(HASH))["incomplete"] == 2  # who announced may be silent

    asyncio.run(run())


def test_connections_peers_and_torrents_are_bounded() -> None:
    async def run() -> None:
        limits = Limits(connections_per_address=3, peers_per_torrent=2, torrents_per_connection=1)
        async with tracker(limits) as (url, made), peers(url, "a", "b", "c") as (a, b, c):
            with pytest.raises(aiohttp.WSServerHandshakeError, match="429"):
                async with peers(url, "d"):
                    pass
            await a.joined(HASH)
            await b.joined(HASH)
            assert "as many peers" in (await c.joined(HASH))["failure reason"]
            # A connection is one peer of a torrent: another id takes the place of the first.
            assert "failure reason" not in await b.joined(HASH, peer_id=peer_id("b2"))
            assert made.peers(HASH) == (0, 2)
            await a.socket.close()
            for _ in range(50):
                if "failure reason" not in (await c.joined(HASH)):
                    break
            async with peers(url, "e") as (e,):
                assert "as many peers" in (await e.joined(HASH))["failure reason"]
        async with tracker(Limits(connections=1)) as (url, _), peers(url, "a"):
            with pytest.raises(aiohttp.WSServerHandshakeError, match="503"):
                async with peers(url, "b"):
                    pass

    asyncio.run(run())


@pytest.mark.parametrize("asks", [True, False])
def test_one_that_does_not_read_is_dropped_and_costs_others_nothing(asks: bool) -> None:
    """At once where its own questions fill the queue, else when it does not answer a ping."""

    async def run() -> None:
        limits = Limits(
            offers_per_second=1e6,
            offered_per_second=1e6,
            messages_per_second=1e6,
            heartbeat=3600 if asks else 0.5,
        )
        async with tracker(limits) as (url, made), peers(url, "a", "b") as (a, b):
            await a.joined(HASH)
            transport = a.socket._response.connection.transport  # type: ignore[union-attr]
            transport.pause_reading()
            said = offers("b", 1, "v" * 16_000)
            for _ in range(4000):
                if asks:
                    await a.announce(HASH)
                if (await b.joined(HASH, offers=said))["incomplete"] == 1:
                    break
                await asyncio.sleep(0 if asks else 0.01)
            assert made.peers(HASH) == (0, 1)
            assert made.queued_size == 0
            transport.abort()

    asyncio.run(run())


def test_offers_are_bounded_on_both_sides() -> None:
    async def run() -> None:
        limits = Limits(offered_per_second=5)
        async with tracker(limits) as (url, _), peers(url, "a", "b") as (a, b):
            await a.joined(HASH)
            for _ in range(40):
                await b.joined(HASH, 1)
            assert 5 <= await count(a) <= 10
        limits = Limits(offers_per_second=1, offer_burst=7)
        async with tracker(limits) as (url, _), peers(url, "a", "b") as (a, b):
            await a.joined(HASH)
            for _ in range(20):
                await b.joined(HASH, 1)
            assert 7 <= await count(a) <= 9

    asyncio.run(run())


async def count(client: TrackerClient) -> int:
    """Messages that wait for a peer; the connection is of no more use then."""
    heard = 0
    while not await client.hears_nothing(0.1):
        heard += 1
    return heard


def test_many_connections_of_one_address_get_no_more_offers_than_another_s() -> None:
    async def run() -> None:
        many = [f"many-{index}" for index in range(30)]
        there = {"local_addr": ("127.0.0.2", 0)}
        async with tracker() as (url, _), peers(url, "a", "b") as (a, b):
            connector = aiohttp.TCPConnector(limit=0, **there)
            async with peers(url, *many, connector=connector) as crowd:
                for one in (a, *crowd):
                    await one.joined(HASH)
                await b.joined(HASH, 2)
                assert (await a.heard())["peer_id"] == peer_id("b")

    asyncio.run(run())


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of one model, whose tracker carries OTHER, too."""
    models = tmp_path_factory.mktemp("models")
    storable().save(models / "noise")
    sharing = Sharing([OTHER], ["wss://tracker.example/announce"])
    with Server(models, names=["Box.example"], sharing=sharing) as server:
        yield server


def test_a_server_carries_its_own_models_and_what_it_was_told_to(
    site: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = storable().manifest
    own = make_torrent(site.models / "noise", manifest).infohash

    async def run() -> None:
        async with peers(site.tracker, "a") as (a,):
            for infohash in (rendezvous(manifest.identity), OTHER, own):
                assert (await a.joined(infohash))["incomplete"] == 1
            assert "failure reason" in await a.joined(HASH)
            storable(1).save(site.models / "later")
            later = make_torrent(site.models / "later", storable(1).manifest).infohash
            monkeypatch.setattr(torrents, "FRESH", 0)
            assert (await a.joined(later))["incomplete"] == 1

    asyncio.run(run())


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (None, 101),
        ("http://127.0.0.1:1", 101),
        ("http://localhost", 101),
        ("http://[::1]:8642", 101),
        ("https://box.example", 101),
        ("https://evil.example", 403),
        ("http://127.0.0.1.evil.example", 403),
        ("null", 403),
        ("http://[", 403),
        ("", 403),
    ],
)
def test_pages_of_other_sites_do_not_learn_who_is_here(
    site: Server, origin: str | None, status: int
) -> None:
    async def run() -> int:
        headers = {} if origin is None else {"Origin": origin}
        async with aiohttp.ClientSession() as session:
            try:
                socket = await session.ws_connect(site.tracker, headers=headers)
            except aiohttp.WSServerHandshakeError as error:
                return error.status
            await socket.close()
            return 101

    assert asyncio.run(run()) == status


def test_behind_a_proxy_a_peer_has_its_own_address(site: Server) -> None:
    """The last one of the header, which the proxy wrote; without a proxy's name it counts not."""

    async def run(host: str, forwarded: str) -> int:
        """Connections that are taken of 70."""
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:
            opening = (
                session.ws_connect(
                    site.tracker,
                    headers={"Host": host, "X-Forwarded-For": forwarded.format(index)},
                )
                for index in range(70)
            )
            done = await asyncio.gather(*opening, return_exceptions=True)
            taken = [it for it in done if isinstance(it, aiohttp.ClientWebSocketResponse)]
            refused = [it for it in done if isinstance(it, aiohttp.WSServerHandshakeError)]
            assert {error.status for error in refused} <= {429}
            assert len(taken) + len(refused) == 70
            await asyncio.gather(*(socket.close() for socket in taken))
            return len(taken)

    for host, forwarded, taken in (
        ("box.example", "192.0.2.{}", 70),
        ("box.example", "192.0.2.{}, 192.0.2.1", 64),
        ("box.example", "2001:db8::{}", 64),
        ("box.example", "2001:db8:0:{}::1", 70),
        ("box.example", "no address", 64),
        ("localhost", "192.0.2.{}", 64),
    ):
        assert asyncio.run(run(host, forwarded)) == taken, (host, forwarded)


def test_everything_may_be_allowed_and_the_end_of_the_server_is_said(tmp_path: Path) -> None:
    async def run(server: Server) -> None:
        async with peers(server.tracker, "a") as (a,):
            assert (await a.joined(HASH))["incomplete"] == 1
            await asyncio.to_thread(server.stop)
            assert await a.close_code() == aiohttp.WSCloseCode.GOING_AWAY

    asyncio.run(run(Server(tmp_path, sharing=Sharing(["all"])).start()))

"""The tracker: peers of a torrent find each other here, by WebTorrent's protocol on a WebSocket.

It passes WebRTC offers and answers on and keeps who is in which torrent, in memory only. It carries
the infohashes that it is told to, and everything that it holds is bounded (`Limits`).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from itertools import islice
from typing import Any

from aiohttp import WSCloseCode, web

from doppler.swarm.announces import Announce, Answer, Malformed, parse
from doppler.swarm.connections import Connection, Limits, Load

CLOSING = 2.0  # seconds that a peer has to say good-bye
TRIES = 64  # peers that are asked at most whether they take an offer of one announce

Allowed = Callable[[str], Awaitable[bool]]  # whether an infohash of 40 digits is carried


@dataclass
class Member:
    """A peer of a torrent: where it is reached, and whether it has everything."""

    connection: Connection
    seeds: bool


class Swarm:
    """The peers of one torrent by their ids, and those of each address."""

    def __init__(self) -> None:
        self.members: dict[str, Member] = {}
        self.seeds = 0
        self._by_address: dict[str, dict[str, Connection]] = {}

    def put(self, peer_id: str, member: Member) -> None:
        """Adds a peer, or says anew what it has."""
        self.remove(peer_id)
        self.members[peer_id] = member
        self.seeds += member.seeds
        address = member.connection.address
        self._by_address.setdefault(address, {})[peer_id] = member.connection

    def remove(self, peer_id: str) -> None:
        """Takes a peer out where it is in."""
        member = self.members.pop(peer_id, None)
        if member is None:
            return
        self.seeds -= member.seeds
        address = member.connection.address
        del self._by_address[address][peer_id]
        if not self._by_address[address]:
            del self._by_address[address]

    def drawn(self, most: int, but: Connection) -> Iterator[Connection]:
        """Some other connections by chance, no address a second time before each had its turn:
        whoever opens many connections gets no more offers than others.
        """
        addresses = random.sample([*self._by_address], min(most, len(self._by_address)))
        known = ([*self._by_address[address].values()] for address in addresses)
        pools = [others for pool in known if (others := [it for it in pool if it is not but])]
        starts = [random.randrange(len(pool)) for pool in pools]
        turns = (
            pool[(start + turn) % len(pool)]
            for turn in range(most)
            for pool, start in zip(pools, starts, strict=True)
            if turn < len(pool)
        )
        return islice(turns, most)


class Tracker:
    """allowed: says of an infohash whether its peers may meet here."""

    def __init__(self, allowed: Allowed, limits: Limits | None = None) -> None:
        self._allowed = allowed
        self._limits = limits or Limits()
        self._load = Load()
        self._swarms: dict[str, Swarm] = {}
        self._sockets: set[web.WebSocketResponse] = set()

    def peers(self, infohash: str) -> tuple[int, int]:
        """Seeds and other peers of the torrent with these 40 digits."""
        swarm = self._swarms.get(bytes.fromhex(infohash).decode("latin-1"), Swarm())
        return swarm.seeds, len(swarm.members) - swarm.seeds

    @property
    def queued_size(self) -> int:
        """Bytes that peers have not taken yet."""
        return self._load.queued_size

    async def handle(self, request: web.Request, address: str) -> web.StreamResponse:
        """Answers one request for a WebSocket for as long as that is open. address: the peer's."""
        limits, load = self._limits, self._load
        if load.connections >= limits.connections:
            return web.Response(status=503, text="the tracker has as many peers as it takes\n")
        if load.by_address[address] >= limits.connections_per_address:
            return web.Response(
                status=429, text=f"{address} has as many connections as one address may have\n"
            )
        load.connections += 1
        load.by_address[address] += 1
        # Uncompressed: what a message takes is then what it is long.
        socket = web.WebSocketResponse(
            max_msg_size=limits.message_size,
            heartbeat=limits.heartbeat,
            compress=False,
            timeout=CLOSING,
            writer_limit=limits.buffered_size,
        )
        try:
            await socket.prepare(request)
            if request.transport is not None:
                request.transport.set_write_buffer_limits(limits.buffered_size)
            self._sockets.add(socket)
            await self._serve(Connection(socket, request.transport, address, limits, load))
        finally:
            self._sockets.discard(socket)
            load.connections -= 1
            load.by_address[address] -= 1
            if not load.by_address[address]:
                del load.by_address[address]
        return socket

    async def close(self) -> None:
        """Ends every connection; clients come back by themselves."""
        closing = [
            socket.close(code=WSCloseCode.GOING_AWAY, message=b"the tracker ends")
            for socket in self._sockets
        ]
        await asyncio.gather(*closing, return_exceptions=True)

    async def _serve(self, connection: Connection) -> None:
        try:
            async with aclosing(connection.messages()) as texts:
                async for text in texts:
                    try:
                        message = parse(text)
                    except Malformed as error:
                        await connection.malformed(error)
                        continue
                    if isinstance(message, Answer):
                        self._answer(connection, message)
                    else:
                        await self._announce(connection, message)
        finally:
            for info_hash in [*connection.peer_ids]:
                self._leave(connection, info_hash)

    async def _announce(self, connection: Connection, message: Announce) -> None:
        info_hash = message.info_hash
        if message.event == "stopped":
            if connection.peer_ids.get(info_hash) == message.peer_id:
                self._leave(connection, info_hash)
            return
        hexadecimal = info_hash.encode("latin-1").hex()
        if not await self._allowed(hexadecimal):
            problem: str | None = (
                f"this tracker does not carry {hexadecimal}; who runs it can allow it by "
                f"doppler serve --allow {hexadecimal}"
            )
        else:
            problem = self._join(connection, message)
        if problem is not None:
            told = {"action": "announce", "info_hash": info_hash, "failure reason": problem}
            connection.send(told)
            return
        swarm = self._swarms[info_hash]
        connection.send(
            {
                "action": "announce",
                "info_hash": info_hash,
                "interval": self._limits.interval,
                "complete": swarm.seeds,
                "incomplete": len(swarm.members) - swarm.seeds,
            }
        )
        self._pass_on(swarm, connection, message)

    def _join(self, connection: Connection, message: Announce) -> str | None:
        """Takes the peer in, or says what is against it."""
        info_hash, peer_id, limits = message.info_hash, message.peer_id, self._limits
        swarm = self._swarms.get(info_hash)
        if swarm is None:
            if len(self._swarms) >= limits.torrents:
                return "the tracker carries as many torrents as it can; try again later"
            swarm = Swarm()
        known = swarm.members.get(peer_id)
        if known is not None and known.connection is not connection:
            return "another connection has this peer id"
        former = connection.peer_ids.get(info_hash)
        if former is None and len(connection.peer_ids) >= limits.torrents_per_connection:
            return f"a connection may be in {limits.torrents_per_connection} torrents at most"
        if former is None and len(swarm.members) >= limits.peers_per_torrent:
            return "the torrent has as many peers as the tracker takes; try again later"
        if former not in (None, peer_id):  # one peer of a torrent by connection: the newer one
            swarm.remove(str(former))
        swarm.put(peer_id, Member(connection, message.seeds))
        connection.peer_ids[info_hash] = peer_id
        self._swarms[info_hash] = swarm
        return None

    def _leave(self, connection: Connection, info_hash: str) -> None:
        swarm = self._swarms[info_hash]
        swarm.remove(connection.peer_ids.pop(info_hash))
        if not swarm.members:
            del self._swarms[info_hash]

    def _pass_on(self, swarm: Swarm, connection: Connection, message: Announce) -> None:
        """Each offer to another peer that takes one now, chosen by chance."""
        waiting = [*message.offers.items()]
        for other in swarm.drawn(TRIES, connection):
            if not waiting:
                return
            offer_id, session = waiting[-1]
            if other.offer(message.info_hash, message.peer_id, offer_id):
                if not connection.may_offer():
                    return
                waiting.pop()
                other.send(_handshake(message, offer_id, "offer", vars(session)))

    def _answer(self, connection: Connection, message: Answer) -> None:
        """To the peer that offered, where that offer was passed on to this very connection."""
        info_hash, to = message.info_hash, message.to_peer_id
        swarm = self._swarms.get(info_hash, Swarm())
        if (
            connection.peer_ids.get(info_hash) == message.peer_id
            and to in swarm.members
            and connection.may_answer(info_hash, to, message.offer_id)
        ):
            answer = _handshake(message, message.offer_id, "answer", vars(message.answer))
            swarm.members[to].connection.send(answer)


def _handshake(
    message: Announce | Answer, offer_id: str, kind: str, session: dict[str, Any]
) -> dict[str, Any]:
    return {
        "action": "announce",
        "info_hash": message.info_hash,
        "peer_id": message.peer_id,
        "offer_id": offer_id,
        kind: session,
    }

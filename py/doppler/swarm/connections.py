"""The tracker's side of one WebSocket: how much may come and go, whatever the peer does."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from aiohttp import WSCloseCode, WSMsgType, web

from doppler.swarm.announces import Malformed


@dataclass(frozen=True)
class Limits:
    """What a tracker holds and takes at most. Times are seconds, sizes bytes."""

    connections: int = 2048
    connections_per_address: int = 64
    peers_per_torrent: int = 1000
    torrents: int = 10_000  # with peers in them; matters where every infohash is allowed
    torrents_per_connection: int = 64
    message_size: int = 64 << 10
    messages_per_second: float = 30.0
    burst: int = 60  # messages at once, after a while of silence
    offers_per_second: float = 2.0  # of one connection that are passed on; `offer_burst` at once
    offer_burst: int = 40
    offered_per_second: float = 20.0  # that are passed on to one peer; the others get the rest
    queued_messages: int = 64  # that one connection has not taken yet
    queued_size: int = 64 << 10
    buffered_size: int = 16 << 10  # on its way to the peer, besides what the system holds
    queued_size_of_all: int = 32 << 20
    offers_remembered: int = 128  # by connection: what it may still answer
    silence: float = 60.0  # before the first announce
    heartbeat: float = 30.0
    interval: int = 120  # between two announces of a peer


class Rate:
    """A bucket of tokens: `burst` at once, then so many a second."""

    def __init__(self, per_second: float, burst: float) -> None:
        self._per_second, self._burst = per_second, burst
        self._left, self._at = float(burst), time.monotonic()

    def take(self) -> bool:
        """Whether one more is allowed now."""
        now = time.monotonic()
        self._left = min(self._burst, self._left + (now - self._at) * self._per_second)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


@dataclass
class Load:
    """What all connections hold together."""

    connections: int = 0
    by_address: Counter[str] = field(default_factory=Counter)
    queued_size: int = 0


class Connection:
    """One peer's socket. What is sent to it waits in a short queue, so that a peer which reads
    slowly costs others nothing; one that asks on and lets the queue fill is closed.
    """

    def __init__(
        self,
        socket: web.WebSocketResponse,
        transport: asyncio.BaseTransport | None,
        address: str,
        limits: Limits,
        load: Load,
    ) -> None:
        self._socket, self._transport = socket, transport
        self.address = address
        self._limits, self._load = limits, load
        self._rate = Rate(limits.messages_per_second, limits.burst)
        self._offers_from = Rate(limits.offers_per_second, limits.offer_burst)
        self._offers_to = Rate(limits.offered_per_second, limits.offered_per_second)
        self._queue: asyncio.Queue[str] = asyncio.Queue(limits.queued_messages)
        self._queued_size = 0
        self.is_open = True
        self.peer_ids: dict[str, str] = {}  # by infohash: what this connection announced
        self._offers: OrderedDict[tuple[str, str, str], None] = OrderedDict()

    async def messages(self) -> AsyncGenerator[str, None]:
        """Texts that came, while they come as they may; then the socket is closed."""
        limits, sender = self._limits, asyncio.create_task(self._send_queued())
        try:
            while self.is_open:
                message = await self._socket.receive(None if self.peer_ids else limits.silence)
                if message.type is WSMsgType.TEXT and self._rate.take():
                    yield message.data
                elif message.type is WSMsgType.TEXT:
                    await self._refuse(WSCloseCode.POLICY_VIOLATION, "too many messages")
                elif message.type is WSMsgType.BINARY:
                    await self._refuse(WSCloseCode.UNSUPPORTED_DATA, "messages are text")
                else:  # closed, by either side: too long a message, an error, a silent peer
                    break
        except TimeoutError:
            await self._refuse(WSCloseCode.POLICY_VIOLATION, "nothing was announced")
        finally:
            self.is_open = False
            self._load.queued_size -= self._queued_size
            self._queued_size = 0
            sender.cancel()
            with suppress(asyncio.CancelledError):
                await sender

    async def malformed(self, error: Malformed) -> None:
        """Tells what was wrong, and ends the connection: no client of the protocol sends such."""
        await self._refuse(WSCloseCode.POLICY_VIOLATION, str(error))

    def send(self, message: dict[str, Any]) -> None:
        """Puts a message into the queue; closes the connection where there is no room."""
        if not self.is_open:
            return
        text = json.dumps(message)
        limits, size = self._limits, len(text)
        if (
            self._queue.full()
            or self._queued_size + size > limits.queued_size
            or self._load.queued_size + size > limits.queued_size_of_all
        ):
            self.drop()
            return
        self._queue.put_nowait(text)
        self._queued_size += size
        self._load.queued_size += size

    def drop(self) -> None:
        """Ends the connection at once, without a word: its peer does not read."""
        self.is_open = False
        if isinstance(self._transport, asyncio.WriteTransport):
            self._transport.abort()

    def may_offer(self) -> bool:
        """Whether one more offer of this peer is passed on now."""
        return self._offers_from.take()

    def offer(self, info_hash: str, peer_id: str, offer_id: str) -> bool:
        """Whether this peer may be sent one more offer; it is then one that it may answer.

        Half of its queue is left to what it asked for itself.
        """
        limits = self._limits
        has_room = (
            self._queue.qsize() < limits.queued_messages // 2
            and self._queued_size < limits.queued_size // 2
            and self._load.queued_size < limits.queued_size_of_all // 2
        )
        if not self.is_open or not has_room or not self._offers_to.take():
            return False
        self._offers[info_hash, peer_id, offer_id] = None
        if len(self._offers) > self._limits.offers_remembered:
            self._offers.popitem(last=False)
        return True

    def may_answer(self, info_hash: str, peer_id: str, offer_id: str) -> bool:
        """Whether it was sent that offer and has not answered it yet; asked once for each."""
        offer = (info_hash, peer_id, offer_id)
        if offer not in self._offers:
            return False
        del self._offers[offer]
        return True

    async def _send_queued(self) -> None:
        while True:
            text = await self._queue.get()
            try:
                await self._socket.send_str(text)
            except ConnectionError:  # it is gone, and `receive` is told, too
                return
            if self.is_open:
                self._queued_size -= len(text)
                self._load.queued_size -= len(text)

    async def _refuse(self, code: WSCloseCode, reason: str) -> None:
        self.is_open = False
        await self._socket.close(code=code, message=reason.encode())

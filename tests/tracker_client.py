"""A peer as a tracker sees one: a WebSocket on which a test says what it likes."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

WAIT = 20.0


def peer_id(name: str) -> str:
    """20 bytes, as characters of Latin-1."""
    return hashlib.sha1(name.encode()).digest().decode("latin-1")


def as_text(infohash: str) -> str:
    """40 hexadecimal digits as the protocol writes them."""
    return bytes.fromhex(infohash).decode("latin-1")


def offers(name: str, count: int = 1, sdp: str = "v=0") -> list[dict[str, Any]]:
    """Offers whose ids begin with the peer's name."""
    return [
        {"offer_id": f"{name}-{index}", "offer": {"type": "offer", "sdp": f"{sdp} {name}"}}
        for index in range(count)
    ]


class TrackerClient:
    """One connection of a peer that is called `name`."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, name: str) -> None:
        self.socket, self.name = socket, name

    async def say(self, **message: Any) -> None:
        """Sends one message, as JSON."""
        await self.socket.send_str(json.dumps(message))

    async def announce(self, infohash: str, count: int = 0, **more: Any) -> None:
        """Says that it is there, with so many offers."""
        said = {"action": "announce", "info_hash": as_text(infohash), "numwant": count, "left": 1}
        said |= {"peer_id": peer_id(self.name), "offers": offers(self.name, count)}
        await self.say(**(said | more))

    async def answer(self, infohash: str, to: str, offer_id: str, **more: Any) -> None:
        """Answers an offer of the peer of that name."""
        said = {"action": "announce", "info_hash": as_text(infohash), "offer_id": offer_id}
        said |= {"peer_id": peer_id(self.name), "to_peer_id": peer_id(to)}
        said |= {"answer": {"type": "answer", "sdp": f"v=0 {self.name}"}}
        await self.say(**(said | more))

    async def heard(self) -> dict[str, Any]:
        """The next message."""
        message = await self.socket.receive(WAIT)
        assert message.type is aiohttp.WSMsgType.TEXT, (message.type, message.data, message.extra)
        found: dict[str, Any] = json.loads(message.data)
        return found

    async def joined(self, infohash: str, count: int = 0, **more: Any) -> dict[str, Any]:
        """Announces, and gives what the tracker says of the torrent."""
        await self.announce(infohash, count, **more)
        return await self.heard()

    async def hears_nothing(self, seconds: float = 0.2) -> bool:
        """Whether no message comes for a while; the connection is of no more use then."""
        try:
            await self.socket.receive(seconds)
        except TimeoutError:
            return True
        return False

    async def close_code(self) -> int | None:
        """The code with which the tracker ends the connection, what it says before left out."""
        while (message := await self.socket.receive(WAIT)).type is aiohttp.WSMsgType.TEXT:
            pass
        return message.data if message.type is aiohttp.WSMsgType.CLOSE else None


@asynccontextmanager
async def peers(url: str, *names: str, **options: Any) -> AsyncIterator[list[TrackerClient]]:
    """A connection for each name; options go to aiohttp."""
    async with aiohttp.ClientSession(**options) as session:
        sockets = await asyncio.gather(*(session.ws_connect(url, max_msg_size=0) for _ in names))
        yield [TrackerClient(*pair) for pair in zip(sockets, names, strict=True)]

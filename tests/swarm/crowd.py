"""1,000 connections to a tracker, four in five of which behave badly: python crowd.py URL.

Prints a line once all are open, and another once they have done what they do; then it waits until
its standard input is closed.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import aiohttp

sys.path.insert(0, str(Path(__file__).parents[1]))
from tracker_client import TrackerClient, offers, peers

CROWDED, UNLISTED = "cd" * 20, "ef" * 20
CROWD, ADDRESSES = 1000, 20
KINDS = ("talk", "flood", "garbage", "too long", "never read")


READING: list[asyncio.Task[None]] = []


async def read(client: TrackerClient) -> None:
    """Takes what comes."""
    while (await client.socket.receive()).type is aiohttp.WSMsgType.TEXT:
        pass


async def behave(client: TrackerClient, kind: str) -> None:
    """What one of the crowd does."""
    said = offers(client.name, 10, "v" * 2000)
    if kind == "never read":
        client.socket._response.connection.transport.pause_reading()  # type: ignore[union-attr]
    await client.announce(CROWDED, offers=said)
    if kind == "talk":
        READING.append(asyncio.create_task(read(client)))
    if kind == "flood":
        for _ in range(300):
            await client.announce(UNLISTED)
    elif kind == "garbage":
        await client.socket.send_str('{"action": "announce", "info_hash": [[[[')
    elif kind == "too long":
        await client.socket.send_str("x" * (256 << 10))
    else:
        for _ in range(3):
            await asyncio.sleep(0.5)
            await client.announce(CROWDED, offers=said)


async def main(url: str) -> None:
    """All of it, at once."""
    clients: list[TrackerClient] = []
    opened = []  # what nobody holds is closed
    for index in range(ADDRESSES):
        connector = aiohttp.TCPConnector(limit=0, local_addr=(f"127.0.1.{index + 1}", 0))
        names = [f"{index}-{number}" for number in range(CROWD // ADDRESSES)]
        opened.append(peers(url, *names, connector=connector))
        clients += await opened[-1].__aenter__()
    print(len(clients), flush=True)
    kinds = (KINDS[index % len(KINDS)] for index in range(CROWD))
    done = map(behave, clients, kinds)
    await asyncio.gather(*done, return_exceptions=True)  # most are thrown out
    print("done", flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    os.nice(5)  # what is measured is the tracker, not this
    try:
        asyncio.run(main(sys.argv[1]))
    finally:
        os._exit(0)  # nobody closes a thousand sockets one by one

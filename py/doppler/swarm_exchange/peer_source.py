"""The peers that share a model, as one source of its blocks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, TypeAlias

from doppler.inputs.buffers import Buffer
from doppler.store.places import Place
from doppler.store.sources.source import Urgency

Post: TypeAlias = Callable[[dict[str, Any], str | None, Buffer | None], None]
"""Sends a message; what is large stands apart: the name of its field, and the bytes or null."""


class PeerSource:
    """Which peer is asked for what is the transport's business: it has their wires."""

    at_once, in_order = 256, False  # the transport chooses the rarest among many

    def __init__(self, identity: str, post: Post) -> None:
        self._identity, self._post = identity, post
        self._copies = b""
        self._wanted = set[int]()  # by somebody here
        self._asked = set[int]()  # for others

    def where(self, place: Place) -> str:
        return f"peers that have {place.shard.name}"

    def has(self, index: int) -> bool:
        return index < len(self._copies) and self._copies[index] > 0

    def seen(self, copies: bytes) -> None:
        """How many peers hold each block now; empty while that is not known."""
        self._copies = copies

    async def fetch(
        self, places: Sequence[Place], urgency: Urgency
    ) -> AsyncGenerator[tuple[int, Buffer], None]:
        """Says what is wanted. Blocks come by themselves, to Scheduler.offer: nothing ends here
        before it is closed.
        """
        wanted = {place.index for place in places}
        self._wanted |= wanted
        self._want(wanted, urgency)
        try:
            await asyncio.get_running_loop().create_future()
            yield places[0].index, None  # which makes this a generator
        finally:
            if left := wanted & self._wanted:
                self._wanted -= left
                self._want(left - self._asked, None)
                self._want(left & self._asked, "idle")

    def hurry(self, index: int, urgency: Urgency) -> None:
        self._want({index}, urgency)

    def ask(self, index: int) -> None:
        """For a block that nobody here waits for, when there is nothing else to get."""
        self._asked.add(index)
        if index not in self._wanted:
            self._want({index}, "idle")

    def ask_no_more(self, index: int) -> None:
        """Takes `ask` back."""
        self._asked.discard(index)
        if index not in self._wanted:
            self._want({index}, None)

    def blame(self, index: int) -> bool:
        """The transport knows who sent it, and asks another for it."""
        self._post(
            {"type": "blame", "identity": self._identity, "block": index, "file": None}, None, None
        )
        return True

    def came(self, index: int) -> None:
        """A block is wanted no more: it came, from a peer or in another way."""
        self._wanted.discard(index)
        self._asked.discard(index)

    def _want(self, indices: set[int], urgency: Urgency | None) -> None:
        if blocks := sorted(indices):
            message = {"type": "want", "identity": self._identity, "blocks": blocks}
            self._post({**message, "urgency": urgency}, None, None)

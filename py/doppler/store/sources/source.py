"""What a source of blocks is: an address, files that a person picked, or the peers of a model."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Literal, Protocol, TypeAlias

from doppler.inputs.buffers import Buffer
from doppler.store.places import Place

Urgency: TypeAlias = Literal["now", "soon", "idle"]
"""now: a token waits for it; soon: a load or the next layer does; idle: it is only to be stored."""
AT_ONCE = 3  # requests that a server answers side by side
URGENCIES: tuple[Urgency, ...] = ("now", "soon", "idle")


class ShardSource(Protocol):
    """Gives blocks, unverified."""

    at_once: int  # requests that it takes side by side
    in_order: bool  # whether blocks of a request come one after another; else in any order

    def where(self, place: Place) -> str:
        """Where a block lies, for messages: an address."""
        ...

    def has(self, index: int) -> bool:
        """Whether it can give a block now. Where that changes, Scheduler.look is called."""
        ...

    def fetch(
        self, places: Sequence[Place], urgency: Urgency
    ) -> AsyncGenerator[tuple[int, Buffer], None]:
        """Blocks that are neighbours in one shard: a block's index, and the bytes of one whole
        block or more from it on.

        Raises SourceError where bytes are missing. Closing the generator ends the request.
        """
        ...

    def hurry(self, index: int, urgency: Urgency) -> None:
        """A block that is being fetched is needed sooner. Not called where it gives in order."""
        ...

    def blame(self, index: int) -> bool:
        """What came as this block is not what it should be; whether it may be asked for again."""
        ...


Keep: TypeAlias = Callable[[Place, Buffer], Awaitable[None]]
"""Stores verified neighbours in a shard, from this place on."""
Took: TypeAlias = Callable[[ShardSource, Sequence[int], bool], None]
"""Hears who gave verified blocks, and whether they are stored."""

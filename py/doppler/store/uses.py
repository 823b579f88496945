"""When shards and blocks were used last: it decides what leaves."""

from __future__ import annotations

import asyncio
import math


class Uses:
    """By name of a shard, or index of a block in a slot. Seconds are of the loop's clock."""

    def __init__(self) -> None:
        self._last = dict[str | int, tuple[float, int]]()
        self._count = 0

    def add(self, what: str | int) -> None:
        """It is used now."""
        self._count += 1
        self._last[what] = asyncio.get_running_loop().time(), self._count

    def last(self, what: str | int) -> tuple[float, int]:
        """To be compared: what was used later has more."""
        return self._last.get(what, (-math.inf, 0))

    def is_recent(self, what: str | int, seconds: float) -> bool:
        """Whether it was used so lately."""
        return asyncio.get_running_loop().time() - self.last(what)[0] < seconds

"""How keys and values are kept: what a row takes, and where the rows of positions lie.

A row is a head's key, or value, at one position. cache.wgsl says what is in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from doppler.gpu.step import View

CacheType = Literal["f32", "f16", "q8"]
KV_TYPES: Mapping[CacheType, int] = {"f32": 0, "f16": 1, "q8": 2}  # as cache.wgsl numbers them
GROUP = 32  # numbers of a row that share a scale, as q8


def row_bytes(kind: CacheType, head_dim: int) -> int:
    """Bytes of a row: whole words of 8, as cache.wgsl reads them.

    As q8, a number takes one and each group an f32: 1.125 a number where groups are in pairs.
    """
    if kind == "q8":
        return 8 * (-(-head_dim // 8) + -(-head_dim // (2 * GROUP)))
    return head_dim * (2 if kind == "f16" else 4)


@dataclass(frozen=True)
class CacheSlice:
    """Keys and values of some of a layer's heads, rows [heads, capacity] each."""

    head0: int
    heads: int
    capacity: int  # positions: p lies in row p % capacity
    row: int  # bytes
    keys: View
    values: View

    def bindings(self) -> dict[str, View]:
        """As kernels bind them."""
        return {"keys": self.keys, "values": self.values}

    def rows(self, first: int, stop: int) -> Iterator[View]:
        """Where positions first .. stop - 1 lie: of keys, then of values, head by head.

        One range a head, or two, in the order of positions, where they go around the ring's end.
        """
        assert 0 <= first <= stop <= first + self.capacity
        lap = first - first % self.capacity + self.capacity  # the next one begins there
        runs = [(first, min(stop, lap)), (lap, stop)]
        for view in (self.keys, self.values):
            for head in range(self.heads):
                for start, end in runs:
                    if start < end:
                        at = head * self.capacity + start % self.capacity
                        offset = view.offset + at * self.row
                        yield View(view.buffer, offset, (end - start) * self.row)

"""How keys and values are kept: what a row takes, and where the rows of positions lie.

A row is a head's key, or value, at one position. cache.wgsl says what is in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from doppler.gpu.step import View

CacheType = Literal["f32", "f16", "q8"]
KV_TYPES: Mapping[CacheType, int] = {"f32": 0, "f16": 1, "q8": 2}  # as cache.wgsl numbers them
GROUP = 32  # numbers of a row that share a scale, as q8
ROOMS = 2  # layers of those that keep their rows in host memory that have room on the GPU at once


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
        runs = slots_of(self.capacity, first, stop)
        for view in (self.keys, self.values):
            for head in range(self.heads):
                for slot, count in runs:
                    offset = view.offset + (head * self.capacity + slot) * self.row
                    yield View(view.buffer, offset, count * self.row)


def slots_of(capacity: int, first: int, stop: int) -> list[tuple[int, int]]:
    """Where positions first .. stop - 1 lie in a ring of that capacity: (slot, how many), one run
    or, where they go around its end, two.
    """
    assert 0 <= first <= stop <= first + capacity
    slot, count = first % capacity, stop - first
    before = min(count, capacity - slot)
    runs = [(slot, before), (0, count - before)]
    return [run for run in runs if run[1]]


def in_rooms(layers: Sequence[Mapping[str, int]]) -> list[tuple[tuple[str, ...], int]]:
    """Buffers that layers take by turns: the names by which each goes, and its bytes.

    layers: bytes by name of what each has, in the order in which they are run. Of one layer's,
    the largest lies where the largest of others does, and so on.
    """
    rooms: dict[tuple[int, int], dict[str, int]] = {}
    for turn, sizes in enumerate(layers):
        for place, name in enumerate(sorted(sizes, key=lambda name: -sizes[name])):
            rooms.setdefault((turn % ROOMS, place), {})[name] = sizes[name]
    return [(tuple(names), max(names.values())) for names in rooms.values()]

"""The KV cache as rows of positions, in an order that does not depend on how it is laid out.

A cache lies in rings of some capacity, cut by heads into what can be bound: both depend on context,
batch and adapter. What is kept of it outlives them. So it is kept plane by plane (what a layer has
of one kind: keys, or values), in each head by head, in each position by position.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from doppler.gpu.step import View
from doppler.plan.bindings import MemoryLayout, RecurrentState


@dataclass(frozen=True)
class Plane:
    """What a layer keeps of one kind: [heads, capacity] rows, position p in row p % capacity.

    slices: how many of the heads lie in which view, in their order.
    """

    layer: int
    kind: str
    window: int  # keys that a token sees; 0: all
    capacity: int
    row: int  # bytes
    slices: tuple[tuple[int, View], ...]

    @property
    def heads(self) -> int:
        return sum(count for count, _ in self.slices)


@dataclass(frozen=True)
class Move:
    """Bytes that lie at `at` in what is kept, and where they lie on the GPU."""

    at: int
    view: View


def planes_of(layout: MemoryLayout) -> list[Plane]:
    """All that its layers have of their own, whatever kinds there are of it."""
    found = []
    for index, layer in enumerate(layout.config.layers):
        if not layer.attends or layer.shares >= 0:
            continue
        slices, capacity = layout.cache_slices(index), layout.capacities[index]
        for kind, first in slices[0].bindings().items():
            views = tuple((it.heads, it.bindings()[kind]) for it in slices)
            row = first.size // (slices[0].heads * capacity)
            found.append(Plane(index, kind, layer.window, capacity, row, views))
    return found


def rows_of(plane: Plane, at: int, first: int, end: int, low: int, high: int) -> Iterator[Move]:
    """Positions low .. high of a plane of which first .. end are kept, from byte `at` on."""
    for count, view in plane.slices:
        for head in range(count):
            position = low
            while position < high:
                index = position % plane.capacity
                length = min(high - position, plane.capacity - index)
                place = view.offset + (head * plane.capacity + index) * plane.row
                part = View(view.buffer, place, length * plane.row)
                yield Move(at + (position - first) * plane.row, part)
                position += length
            at += (end - first) * plane.row


def moves_of(
    planes: Sequence[Plane],
    firsts: Sequence[int],
    end: int,
    lows: Sequence[int],
    high: int,
    states: Mapping[int, RecurrentState],
) -> tuple[list[Move], int]:
    """Where positions lows .. `high` of each plane go, of which firsts .. `end` are kept, and, if
    that is `high`, the states after it, which are kept behind them; -> moves in order, and the
    bytes of all that is kept.
    """
    moves: list[Move] = []
    at = 0
    for plane, first, low in zip(planes, firsts, lows, strict=True):
        moves += rows_of(plane, at, first, end, max(low, first), min(high, end))
        at += plane.heads * (end - first) * plane.row
    for state in states.values():
        moves += [Move(at, state.whole)] if end == high else []
        at += state.whole.size
    return moves, at


def in_chunks(moves: Sequence[Move], size: int) -> dict[int, list[Move]]:
    """The moves of each chunk of `size` bytes, a multiple of 4, in which there are some."""
    chunks: dict[int, list[Move]] = {}
    for move in moves:
        at, end = move.at, move.at + move.view.size
        while at < end:
            length = min(end, (at // size + 1) * size) - at
            place = move.view.offset + at - move.at
            part = Move(at, View(move.view.buffer, place, length))
            chunks.setdefault(at // size, []).append(part)
            at += length
    return chunks

"""Ranges of sources -> ranges of the byte space, read with few and large reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from doppler.inputs.buffers import Buffer, Buffers
from doppler.inputs.source import Source

_SMALL_GAP = 64 << 10  # bytes between two tensors that are cheaper to read than to skip


@dataclass(frozen=True)
class Piece:
    """A tensor's bytes: where they come from, and where in the byte space they go."""

    source: Source
    offset: int
    start: int
    bytes: int


async def fill(
    target: Buffer, start: int, end: int, pieces: tuple[Piece, ...], buffers: Buffers
) -> None:
    """Copies into `target` what lies in start..end of the byte space; gaps stay zero."""
    for group in _runs([part for piece in pieces for part in _cut(piece, start, end)]):
        first, last = group[0], group[-1]
        data = await first.source.read(first.offset, last.offset + last.bytes - first.offset)
        for part in group:
            at = part.offset - first.offset
            buffers.put(target, part.start - start, buffers.part(data, at, at + part.bytes))


def _cut(piece: Piece, start: int, end: int) -> Iterator[Piece]:
    """The part of a piece that lies in start..end, if there is one."""
    low, high = max(piece.start, start), min(piece.start + piece.bytes, end)
    if low < high:
        yield Piece(piece.source, piece.offset + low - piece.start, low, high - low)


def _runs(parts: list[Piece]) -> list[list[Piece]]:
    """Groups of neighbours in a source, each for one read: a request for every norm is slow."""
    groups: list[list[Piece]] = []
    for part in sorted(parts, key=lambda p: (p.source.name, p.offset)):
        last = groups[-1][-1] if groups else None
        near = (
            last is not None
            and last.source is part.source
            and part.offset - (last.offset + last.bytes) <= _SMALL_GAP
        )
        if near:
            groups[-1].append(part)
        else:
            groups.append([part])
    return groups

"""What a source has sent: verified block by block, and stored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from doppler.errors import DopplerError
from doppler.inputs.buffers import Buffer, Buffers
from doppler.store.places import Place, Places
from doppler.store.sources.source import Keep


@dataclass(frozen=True)
class Piece:
    """Verified neighbours, each with its bytes, and `data`: all of them as one piece."""

    blocks: list[tuple[Place, Buffer]]
    data: Buffer


class Arrivals:
    """Tells good blocks from bad ones, and stores the good ones."""

    def __init__(self, places: Places, buffers: Buffers, keep: Keep) -> None:
        self._places, self._buffers, self._keep = places, buffers, keep

    def sorted(self, first: int, data: Buffer) -> Iterator[Piece | Place]:
        """Of blocks in a row from `first` on: good neighbours as a piece, each bad one alone and
        before the good ones in front of it, which take time to store.
        """
        good, begin, at = list[tuple[Place, Buffer]](), 0, 0
        length = self._buffers.length(data)
        for place in map(self._places.__getitem__, range(first, len(self._places))):
            if at == length:
                break
            end = min(at + place.bytes, length)
            block = self._buffers.part(data, at, end)
            if self._buffers.blake3(block) == self._places.manifest.blocks[place.index]:
                good.append((place, block))
            else:
                yield place
                if good:
                    yield Piece(good, self._buffers.part(data, begin, at))
                good, begin = [], end
            at = end
        if good:
            yield Piece(good, self._buffers.part(data, begin, at))

    async def keep(self, piece: Piece) -> DopplerError | None:
        """Stores it; what kept it from being stored, be that full, locked, gone or damaged: whoever
        waits for a good block gets it all the same.
        """
        try:
            await self._keep(piece.blocks[0][0], piece.data)
        except DopplerError as error:
            return error
        return None

"""Where a tensor's bytes are: in a file as they lie there, or computed from what lies there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

from doppler.errors import FormatError
from doppler.inputs.buffers import Buffer, Buffers
from doppler.inputs.fields import shown
from doppler.inputs.source import Source
from doppler.quantization.block_types import BlockType


@dataclass(frozen=True)
class Content:
    """A tensor of `shape`, from `offset` of a source on. `name` is what the file calls it."""

    name: str
    type: BlockType
    shape: tuple[int, ...]
    source: Source
    offset: int

    @property
    def bytes(self) -> int:
        """Its length."""
        return self.type.tensor_bytes(self.shape)


class Latest:
    """Keeps what was computed last: its bytes are asked for in pieces, one after another."""

    def __init__(self) -> None:
        self._key: object = None
        self._data = b""

    async def get(self, key: object, compute: Callable[[], Awaitable[bytes]]) -> bytes:
        """What `compute` gives, unless `key` is the last one's."""
        if self._key is not key:
            self._data = await compute()
            self._key = key
        return self._data


class Computed:
    """A source whose bytes are computed when they are read, all at once."""

    def __init__(
        self,
        name: str,
        length: int,
        compute: Callable[[], Awaitable[bytes]],
        latest: Latest,
        buffers: Buffers,
    ) -> None:
        self.name = name
        self._length, self._compute, self._latest, self._buffers = length, compute, latest, buffers

    async def size(self) -> int:
        return self._length

    async def read(self, offset: int, length: int) -> Buffer:
        data = await self._latest.get(self, self._compute)
        assert len(data) == self._length, self.name
        return self._buffers.from_bytes(data[offset : offset + length])


class Placed(Protocol):
    """A tensor of a file: bytes from `offset` on."""

    @property
    def name(self) -> str: ...
    @property
    def offset(self) -> int: ...
    @property
    def bytes(self) -> int: ...


def check_apart(where: str, tensors: Sequence[Placed]) -> None:
    """Raises FormatError where two of a file's tensors, in the order of ends, share bytes."""
    for before, tensor in pairwise(tensors):
        if tensor.offset < before.offset + before.bytes:
            raise FormatError(
                f"{where}: the tensors {shown(before.name)} and {shown(tensor.name)} lie over each "
                "other; the file is damaged"
            )

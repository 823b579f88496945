"""Where models are kept: a folder of files for each, on disk or in the browser."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias

from doppler.inputs.buffers import Buffer

Piece: TypeAlias = tuple[str, int, int]  # of a file: its name, an offset, a length


class Storage(Protocol):
    """The folder of one model. Offsets and sizes are in bytes, names have no slashes."""

    @property
    def openings(self) -> int:
        """How often the files were opened. While they are open nobody else deletes them: where it
        has grown, others may lie there now.
        """
        ...

    async def size(self, name: str) -> int | None:
        """Bytes in the file, None where it is absent."""
        ...

    async def read(self, name: str, offset: int, length: int) -> Buffer:
        """Exactly `length` bytes. Raises SourceError where the file is absent or shorter."""
        ...

    async def gather(self, pieces: Sequence[Piece]) -> Buffer:
        """Those bytes of files, one piece after another. Raises as `read` does."""
        ...

    async def write(self, name: str, offset: int, data: Buffer) -> None:
        """Writes in place and grows the file. Raises StorageError when there is no room."""
        ...

    async def truncate(self, name: str, size: int) -> None:
        """Cuts or grows the file, which is made where it is absent, to `size` bytes."""
        ...

    async def names(self) -> list[str]:
        """The files that are there, sorted."""
        ...

    async def remove(self, name: str) -> None:
        """Deletes the file; nothing happens where it is absent."""
        ...

    async def flush(self, name: str) -> None:
        """Puts what was written to the file on the disk."""
        ...

    async def close(self) -> None:
        """Flushes what was written and releases the files."""
        ...

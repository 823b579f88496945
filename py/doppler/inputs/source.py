"""Where a model comes from: random access to one file, wherever it lies."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Protocol, TypeAlias

from doppler.errors import SourceError
from doppler.inputs.buffers import Buffer

Progress: TypeAlias = Callable[[int, int], None]  # called with bytes done and bytes in all
AT_ONCE = 16 << 20  # bytes: a call of the system that takes longer hears no signal


class Source(Protocol):
    """One file that can be read anywhere. `name` is what messages call it."""

    name: str

    async def size(self) -> int:
        """Bytes in the file. Raises SourceError where there is none."""
        ...

    async def read(self, offset: int, length: int) -> Buffer:
        """Exactly `length` bytes from `offset` on, or SourceError."""
        ...


class FileSource:
    """A file of this machine, which must not change between two reads. Its name is that in its
    folder, where no other is given.
    """

    def __init__(self, path: Path, name: str | None = None) -> None:
        self.path = path
        self.name = path.name if name is None else name
        self._first: tuple[int, int, int] | None = None  # inode, bytes and time of the first read

    async def size(self) -> int:
        try:
            return self.path.stat().st_size
        except OSError as error:
            raise SourceError(_unreadable(self.path, error)) from error

    async def read(self, offset: int, length: int) -> Buffer:
        try:
            with self.path.open("rb") as file:
                now = os.fstat(file.fileno())
                data = read_from(file, offset, length)
        except OSError as error:
            raise SourceError(_unreadable(self.path, error)) from error
        version = now.st_ino, now.st_size, now.st_mtime_ns
        self._first = self._first or version
        if version != self._first:
            raise SourceError(f"{self.path} changed since it was first read; try again")
        if len(data) != length:
            raise SourceError(
                f"{self.path}: {length} bytes were asked for at {offset} and the file ends after "
                f"{len(data)} of them; was it changed while it was read?"
            )
        return data


def read_from(file: BinaryIO, offset: int, length: int) -> Buffer:
    """The bytes from `offset` on, as many as there are of `length`."""
    file.seek(offset)
    if length <= AT_ONCE:
        return file.read(length)
    data = bytearray()
    while len(data) < length and (part := file.read(min(AT_ONCE, length - len(data)))):
        data += part
    return data


def folder_sources(folder: Path) -> dict[str, Source]:
    """The files of a folder by name. Raises SourceError where there is no such folder."""
    try:
        return {path.name: FileSource(path) for path in sorted(folder.iterdir()) if path.is_file()}
    except OSError as error:
        raise SourceError(_unreadable(folder, error)) from error


def _unreadable(path: Path, error: OSError) -> str:
    return f"{path} cannot be read: {error.strerror}; check the path and its permissions"

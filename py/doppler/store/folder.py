"""Storage in a folder of this machine's disk."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from doppler.errors import RequestError, SourceError, StorageError
from doppler.inputs.buffers import Buffer
from doppler.inputs.source import AT_ONCE, read_from
from doppler.store.storage import Piece


class FolderStorage:
    """One model's files in `folder`, which is made when the first of them is written."""

    openings = 1

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    async def size(self, name: str) -> int | None:
        try:
            return self._path(name).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    async def read(self, name: str, offset: int, length: int) -> Buffer:
        path = self._path(name)
        try:
            with path.open("rb") as file:
                data = read_from(file, offset, length)
        except OSError as error:
            raise SourceError(f"{path} cannot be read: {error.strerror}") from error
        if len(data) != length:
            raise SourceError(
                f"{path} is too short: {length} bytes were expected at {offset} and {len(data)} "
                "are there"
            )
        return data

    async def gather(self, pieces: Sequence[Piece]) -> Buffer:
        return b"".join([bytes(await self.read(*piece)) for piece in pieces])

    async def write(self, name: str, offset: int, data: Buffer) -> None:
        with self._opened(name) as descriptor:
            view = memoryview(data)
            while view:
                written = os.pwrite(descriptor, view[:AT_ONCE], offset)
                view, offset = view[written:], offset + written

    async def truncate(self, name: str, size: int) -> None:
        with self._opened(name) as descriptor:
            os.ftruncate(descriptor, size)

    async def names(self) -> list[str]:
        if not self.folder.is_dir():
            return []
        return sorted(path.name for path in self.folder.iterdir() if path.is_file())

    async def remove(self, name: str) -> None:
        path = self._path(name)
        try:
            path.unlink()
        except FileNotFoundError:
            return
        except OSError as error:
            raise _not_written(path, error) from error

    async def flush(self, name: str) -> None:
        with self._opened(name) as descriptor:
            os.fsync(descriptor)

    async def close(self) -> None:
        """Nothing is held between calls."""

    def _path(self, name: str) -> Path:
        return self.folder / plain_name(name)

    @contextmanager
    def _opened(self, name: str) -> Iterator[int]:
        path = self._path(name)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                yield descriptor
            finally:
                os.close(descriptor)
        except OSError as error:
            raise _not_written(path, error) from error


class FolderRoot:
    """All models below `folder`, each in a folder named for its id."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    async def open(self, model_id: str) -> FolderStorage:
        return FolderStorage(self.folder / plain_name(model_id))

    async def models(self) -> list[str]:
        if not self.folder.is_dir():
            return []
        return sorted(path.name for path in self.folder.iterdir() if path.is_dir())

    async def delete(self, model_id: str) -> None:
        path = self.folder / plain_name(model_id)
        if path.is_dir():
            shutil.rmtree(path)

    async def usage(self, model_id: str) -> int:
        storage = await self.open(model_id)
        sizes = [await storage.size(name) for name in await storage.names()]
        return sum(size or 0 for size in sizes)


def _not_written(path: Path, error: OSError) -> StorageError:
    if error.errno in (errno.EEXIST, errno.ENOTDIR):  # the folder, or one that it is in
        files = (it for it in path.parents if it.exists() and not it.is_dir())
        return StorageError(f"{next(files, path.parent)} is no folder; choose another folder")
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        what = "free some space or choose another folder"
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        what = "choose a folder that you may write into"
    else:
        what = "choose another folder"
    return StorageError(f"{path} cannot be written: {error.strerror}; {what}")


def plain_name(name: str) -> str:
    """The name itself, where it stays inside its folder; RequestError otherwise."""
    if not name or name.startswith(".") or "/" in name or "\\" in name:
        raise RequestError(f"{name!r} cannot be a file's name: no slashes, and no dot at its start")
    return name

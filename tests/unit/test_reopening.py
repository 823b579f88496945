"""Files of a loaded model: open while they are used, let go when they are not, opened again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

import virtual_time
from doppler.errors import StorageError
from doppler.inputs.buffers import MemoryBuffers
from doppler.store import reopening
from doppler.store.folder import FolderStorage
from doppler.store.reopening import ReopeningStorage
from doppler.store.shards import ShardStore
from storable import storable

IDLE = 0.02
SLOW = 0.1  # seconds that a folder takes
T = TypeVar("T")


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reopening, "IDLE", IDLE)


class Folder:
    """A folder of one file, and how often it was opened and closed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.opened = self.closed = 0
        self.gone = False
        (path / "file").write_bytes(b"0123456789")

    @property
    def open_now(self) -> int:
        return self.opened - self.closed

    async def open(self) -> FolderStorage:
        await asyncio.sleep(0)  # others may want it meanwhile
        if self.gone:
            raise StorageError("it was deleted")
        self.opened += 1
        storage = FolderStorage(self.path)

        async def close() -> None:
            self.closed += 1

        storage.close = close  # type: ignore[method-assign]
        return storage


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    folder = Folder(tmp_path)
    yield folder
    assert folder.open_now in (0, 1)


def run(folder: Folder, work: Callable[[ReopeningStorage], Awaitable[None]]) -> None:
    async def main() -> None:
        await work(ReopeningStorage(folder.open))

    asyncio.run(main())


async def closed(folder: Folder) -> None:
    async with asyncio.timeout(5):
        while folder.open_now:
            await asyncio.sleep(IDLE / 4)


def test_it_is_opened_when_it_is_used_and_once(folder: Folder) -> None:
    async def work(storage: ReopeningStorage) -> None:
        assert folder.opened == 0
        parts = await asyncio.gather(*(storage.read("file", at, 2) for at in (0, 4, 8)))
        assert [bytes(part) for part in parts] == [b"01", b"45", b"89"]
        assert await storage.names() == ["file"]
        assert await storage.size("file") == 10
        assert (folder.opened, folder.closed) == (1, 0)

    run(folder, work)


def test_it_is_let_go_when_nobody_uses_it_and_opened_again(folder: Folder) -> None:
    async def work(storage: ReopeningStorage) -> None:
        for opened in (1, 2):
            end = time.monotonic() + 5 * IDLE
            while time.monotonic() < end:  # reads that follow each other keep it open
                assert bytes(await storage.read("file", 2, 3)) == b"234"
                await asyncio.sleep(0)
            assert (folder.opened, folder.open_now) == (opened, 1)
            await closed(folder)

    run(folder, work)


def test_what_takes_long_keeps_it_open(folder: Folder) -> None:
    async def slow(name: str, offset: int, length: int) -> bytes:
        await asyncio.sleep(5 * IDLE)
        assert folder.open_now == 1
        return b"slow"

    async def work(storage: ReopeningStorage) -> None:
        await storage.size("file")
        storage._opened.read = slow  # type: ignore[union-attr, method-assign]
        assert await storage.read("file", 0, 4) == b"slow"
        await closed(folder)

    run(folder, work)


def test_close_lets_it_go_at_once_and_for_now(folder: Folder) -> None:
    async def work(storage: ReopeningStorage) -> None:
        await storage.close()  # of one that was never used
        await storage.write("file", 10, b"ab")
        await storage.close()
        await storage.close()
        assert (folder.opened, folder.closed) == (1, 1)
        assert bytes(await storage.read("file", 8, 4)) == b"89ab"
        await storage.truncate("file", 3)
        await storage.flush("file")
        assert await storage.size("file") == 3
        await storage.remove("file")
        assert await storage.names() == []
        await asyncio.sleep(0)
        assert (folder.opened, folder.open_now) == (2, 1)

    run(folder, work)


def test_where_it_is_gone_the_reader_hears_it(folder: Folder) -> None:
    async def work(storage: ReopeningStorage) -> None:
        await storage.read("file", 0, 1)
        await storage.close()
        folder.gone = True
        for _ in range(2):
            with pytest.raises(StorageError, match="it was deleted"):
                await storage.read("file", 0, 1)
        folder.gone = False
        assert bytes(await storage.read("file", 0, 1)) == b"0"

    run(folder, work)


def test_blocks_are_read_after_a_rest(tmp_path: Path) -> None:
    model = storable()
    model.save(tmp_path)

    async def work() -> None:
        async def open_folder() -> FolderStorage:
            return FolderStorage(tmp_path)

        buffers = MemoryBuffers()
        store = ShardStore(model.manifest, ReopeningStorage(open_folder), (), buffers)
        for _ in range(2):
            assert buffers.blake3(await store.block(5)) == model.manifest.blocks[5]
            await store.rest()

    asyncio.run(work())


def test_nobody_waits_for_it_any_more(tmp_path: Path) -> None:
    """Who wanted it is cancelled while it is opened or closed, which nothing can stop: it is closed
    all the same.
    """
    folder = Folder(tmp_path)

    async def unstopped(change: Coroutine[Any, Any, T]) -> T:
        async def work() -> T:
            await asyncio.sleep(SLOW)
            return await change

        return await asyncio.shield(asyncio.ensure_future(work()))

    async def open_folder() -> FolderStorage:
        storage = await unstopped(folder.open())
        close = storage.close
        storage.close = lambda: unstopped(close())  # type: ignore[method-assign]
        return storage

    async def cancelled(work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.ensure_future(work)
        await asyncio.sleep(SLOW / 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def main() -> None:
        storage = ReopeningStorage(open_folder)
        for count in (1, 2):
            await cancelled(storage.size("file"))
            await asyncio.sleep(4 * SLOW)  # it is opened, seen to be idle, and closed
            assert (folder.opened, folder.closed) == (count, count)
        await storage.size("file")
        await cancelled(storage.close())
        assert bytes(await storage.read("file", 0, 1)) == b"0"  # of one that was opened behind it
        assert (folder.opened, folder.closed) == (4, 3)
        folder.gone = True
        await storage.close()
        await cancelled(storage.size("file"))  # whose error nobody hears
        await asyncio.sleep(4 * SLOW)
        assert (folder.opened, folder.open_now) == (4, 0)

    virtual_time.run(main())


def test_what_is_closed_as_soon_as_it_is_opened_is_opened_again(tmp_path: Path) -> None:
    """Whoever waited for the folder would ask one that refuses."""

    class Closing(FolderStorage):
        is_closed = False

        async def size(self, name: str) -> int | None:
            assert not self.is_closed, "it is asked, and was closed"
            return 10

        async def close(self) -> None:
            self.is_closed = True

    async def opened() -> FolderStorage:
        await asyncio.sleep(SLOW)
        return Closing(tmp_path)

    async def main() -> None:
        storage = ReopeningStorage(opened)
        using = asyncio.ensure_future(storage.size("file"))
        await asyncio.sleep(SLOW / 2)
        await storage.close()
        assert await using == 10
        assert storage.openings == 2

    virtual_time.run(main())

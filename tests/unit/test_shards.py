"""Shards over a real HTTP server and a real folder: the same store that the page uses."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from doppler.api.progress import Progress
from doppler.errors import CorruptError, SourceError, StorageError
from doppler.inputs.buffers import Buffer, MemoryBuffers
from doppler.store import stored_blocks
from doppler.store.folder import FolderStorage
from doppler.store.have_map import HAVE_FILE
from doppler.store.manifest import BLOCK_SIZE, MANIFEST_FILE, Manifest
from doppler.store.places import Place
from doppler.store.shards import ShardStore
from doppler.store.sources.source import Urgency
from storable import Storable, storable

MODEL = storable()
LAST = len(MODEL.manifest.blocks) - 1
RUN = 3 * BLOCK_SIZE  # what the source gives at a time


class AddressShards:
    """`HttpShards` of the page, over aiohttp."""

    at_once, in_order = 3, True

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url, self._session = url, session
        self.pieces = 0

    def where(self, place: Place) -> str:
        return self._url + place.shard.name

    def has(self, index: int) -> bool:
        return True

    async def fetch(
        self, places: Sequence[Place], urgency: Urgency
    ) -> AsyncGenerator[tuple[int, Buffer], None]:
        shard, start, end = places[0].shard, places[0].start, places[-1].end
        headers = {"Range": f"bytes={start}-{end - 1}"}
        try:
            async with self._session.get(self.where(places[0]), headers=headers) as response:
                if response.status != 206:
                    raise SourceError(f"{self.where(places[0])}: {response.status}")
                for at in range(start, end, RUN):
                    size = min(RUN, end - at)
                    self.pieces += 1
                    index = (shard.offset + at) // BLOCK_SIZE
                    yield index, await response.content.readexactly(size)
        except (aiohttp.ClientError, asyncio.IncompleteReadError) as error:
            raise SourceError(f"{self.where(places[0])}: {error}") from error

    def hurry(self, index: int, urgency: Urgency) -> None:
        pass

    def blame(self, index: int) -> bool:
        return False


class World:
    """A server's folder, a store's folder, and what was asked of the server."""

    def __init__(self, folder: Path) -> None:
        self.served, self.stored = folder / "served", folder / "stored"
        self.requests: list[tuple[str, str]] = []
        MODEL.save(self.served)

    def run(self, test: Callable[[ShardStore], Awaitable[None]]) -> AddressShards:
        """Runs the test on a store whose source is the server."""

        async def main() -> AddressShards:
            async with self._server() as url, aiohttp.ClientSession() as session:
                source = AddressShards(url, session)
                storage = FolderStorage(self.stored)
                await test(ShardStore(MODEL.manifest, storage, [source], MemoryBuffers()))
                return source

        return asyncio.run(main())

    @asynccontextmanager
    async def _server(self) -> AsyncIterator[str]:
        async def file(request: web.Request) -> web.FileResponse:
            name = request.match_info["name"]
            self.requests.append((name, request.headers.get("Range", "")))
            return web.FileResponse(self.served / name)

        app = web.Application()
        app.router.add_get("/{name}", file)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
        await runner.cleanup()

    def check(self) -> None:
        """Every stored shard is what it should be."""
        for index, shard in enumerate(MODEL.manifest.shards):
            assert (self.stored / shard.name).read_bytes() == MODEL.shard(index)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def flip(path: Path, at: int) -> None:
    """Changes one bit of a file."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def quiet(done: int, total: int) -> None:
    """Progress that nobody watches."""


async def download(store: ShardStore) -> None:
    await store.download(quiet)


def test_the_manifest_is_one() -> None:
    text = MODEL.manifest.to_json()
    assert Manifest.from_json(text, MANIFEST_FILE) == MODEL.manifest
    assert len(MODEL.manifest.shards) == 4
    assert MODEL.manifest.bytes % BLOCK_SIZE  # the last block is a short one


def test_download_and_second_download(world: World) -> None:
    told: list[tuple[int, int]] = []

    async def test(store: ShardStore) -> None:
        assert await store.stored_bytes() == 0
        assert len(await store.missing()) == 4
        await store.download(lambda done, total: told.append((done, total)))
        assert await store.missing() == []
        assert await store.stored_bytes() == MODEL.manifest.bytes

    world.run(test)
    world.check()
    assert told[-1] == (MODEL.manifest.bytes, MODEL.manifest.bytes)
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    assert len(world.requests) == 4
    world.run(download)
    assert len(world.requests) == 4, "a whole model is asked for again"


def test_resumes_after_the_last_good_block(world: World) -> None:
    world.run(download)
    first, second, third = (world.stored / shard.name for shard in MODEL.manifest.shards[:3])
    first.write_bytes(first.read_bytes()[: 2 * BLOCK_SIZE + 77])  # cut within a block
    flip(second, BLOCK_SIZE)  # the first byte of the second block
    third.unlink()
    world.requests.clear()
    world.run(download)
    world.check()
    whole = len(MODEL.shard(0)) - 1
    assert sorted(world.requests) == [
        (first.name, f"bytes={2 * BLOCK_SIZE}-{whole}"),
        (second.name, f"bytes={BLOCK_SIZE}-{2 * BLOCK_SIZE - 1}"),  # what is behind it is good
        (third.name, f"bytes=0-{whole}"),
    ]


def test_a_longer_file_is_cut(world: World) -> None:
    world.run(download)
    last = world.stored / MODEL.manifest.shards[-1].name
    last.write_bytes(last.read_bytes() + b"more")
    world.run(download)
    world.check()


def test_cancelled_download_goes_on(world: World) -> None:
    async def cancel(store: ShardStore) -> None:
        task = asyncio.ensure_future(store.download(lambda *_: task.cancel() and None))
        with pytest.raises(asyncio.CancelledError):
            await task
        assert 0 < await store.stored_bytes() < MODEL.manifest.bytes

    taken = world.run(cancel).pieces
    again = world.run(download).pieces
    world.check()
    whole = 2 * (len(MODEL.manifest.shards) - 1) + 1  # pieces: of four blocks a shard, but the last
    assert taken + again <= whole + 3, "more than the pieces in flight came twice"


@pytest.mark.parametrize("index", [0, 5, LAST])
@pytest.mark.parametrize("damage", ["flipped", "cut", "absent"])
def test_a_block_is_repaired(world: World, index: int, damage: str) -> None:
    world.run(download)
    shard = MODEL.manifest.shards[index // 4]
    path, at = world.stored / shard.name, index % 4 * BLOCK_SIZE
    if damage == "flipped":
        flip(path, at + 100)
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[: at + 100])
    else:
        path.unlink()
    world.requests.clear()

    async def test(store: ShardStore) -> None:
        for _ in range(2):
            assert bytes(await store.block(index)) == MODEL.block(index)

    world.run(test)
    end = at + len(MODEL.block(index)) - 1
    assert world.requests == [(shard.name, f"bytes={at}-{end}")]
    assert path.read_bytes()[at : end + 1] == MODEL.block(index)


def test_blocks_in_one_piece_are_each_verified(world: World) -> None:
    """One that is bad, and shards that are gone: all come, in order, and it is said of whom some
    were fetched, also while others are read.
    """
    world.run(download)
    first = world.stored / MODEL.manifest.shards[0].name
    flip(first, BLOCK_SIZE + 3)
    (world.stored / MODEL.manifest.shards[1].name).unlink()

    async def test(store: ShardStore) -> None:
        runs = ((0, 1), (0, 3), (8, 2), (2, 4), (LAST, 1))
        read = await asyncio.gather(*(store.verified(*run) for run in runs))
        assert [fetched for _, fetched in read] == [False, True, False, True, False]
        runs += ((0, LAST + 1), (0, 3))
        read += [await store.verified(*run) for run in runs[-2:]]
        assert [fetched for _, fetched in read[-2:]] == [True, False]
        for (start, count), (data, _) in zip(runs, read, strict=True):
            wanted = b"".join(MODEL.block(index) for index in range(start, start + count))
            assert bytes(data) == wanted

    world.run(test)
    world.check()


def test_a_block_that_cannot_be_stored_is_still_given(world: World) -> None:
    world.run(download)
    flip(world.stored / MODEL.manifest.shards[0].name, 3)

    class Full(FolderStorage):
        async def write(self, name: str, offset: int, data: Buffer) -> None:
            raise StorageError("no room")

    async def test(store: ShardStore) -> None:
        sources = store.scheduler.sources
        full = ShardStore(store.manifest, Full(world.stored), sources, MemoryBuffers())
        assert bytes(await full.block(0)) == MODEL.block(0)

    world.run(test)


class Shared(FolderStorage):
    """Another tab has its files open to write to them, for so many reads; counts what is let go."""

    def __init__(self, folder: Path, reads: float) -> None:
        super().__init__(folder)
        self.reads, self.flushed = reads, list[str]()

    async def read(self, name: str, offset: int, length: int) -> Buffer:
        self.reads -= 1
        if self.reads >= 0:
            raise StorageError(f"{name} is in use by another tab of this page")
        return await super().read(name, offset, length)

    async def flush(self, name: str) -> None:
        if name != HAVE_FILE:
            self.flushed.append(name)
        await super().flush(name)


def test_a_file_that_another_tab_mends_is_waited_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not for ever; and who mends a block lets others read it then."""
    monkeypatch.setattr(stored_blocks, "PATIENCE", 0.2)
    world.run(download)
    flip(world.stored / "shard-00001.bin", 3)

    async def test(store: ShardStore) -> None:
        def shared(reads: float) -> tuple[Shared, ShardStore]:
            storage = Shared(world.stored, reads)
            sources = store.scheduler.sources
            return storage, ShardStore(store.manifest, storage, sources, MemoryBuffers())

        storage, soon = shared(1)
        assert await soon.stored([BLOCK_SIZE - 3], 7) == MODEL.data[BLOCK_SIZE - 3 :][:7]
        storage, soon = shared(2)
        assert bytes((await soon.verified(0, 3))[0]) == MODEL.data[: 3 * BLOCK_SIZE]
        assert storage.flushed == []
        assert bytes(await soon.block(4)) == MODEL.block(4)
        assert storage.flushed == ["shard-00001.bin"]
        with pytest.raises(StorageError, match="in use by another tab"):
            await shared(math.inf)[1].block(0)

    world.run(test)


def test_stored_bytes_of_several_places(world: World) -> None:
    """Rows of a table: some lie in two shards."""
    world.run(download)
    ends = [shard.offset + shard.bytes for shard in MODEL.manifest.shards[:2]]

    async def test(store: ShardStore) -> None:
        offsets = [ends[0] - 7, 100, ends[1] - 1, 100]
        wanted = b"".join(MODEL.data[at : at + 20] for at in offsets)
        assert await store.stored(offsets, 20) == wanted
        (world.stored / "shard-00001.bin").unlink()
        with pytest.raises(SourceError, match=r"shard-00001\.bin"):
            await store.stored(offsets, 20)

    world.run(test)


def test_stored_bytes_that_cannot_be_kept(world: World) -> None:
    """Rows come all the same where storage is full, and where a peer's read found damage."""

    class Full(FolderStorage):
        async def write(self, name: str, offset: int, data: Buffer) -> None:
            raise StorageError("no room")

    async def test(store: ShardStore) -> None:
        sources = store.scheduler.sources
        full = ShardStore(store.manifest, Full(world.stored), sources, MemoryBuffers())
        assert await full.stored([7, 100], 20) == MODEL.data[7:27] + MODEL.data[100:120]
        assert await store.stored([7], 20) == MODEL.data[7:27]
        flip(world.stored / MODEL.manifest.shards[0].name, 9)
        assert await store.given(0) is None
        assert await store.stored([7], 20) == MODEL.data[7:27]

    world.run(test)


def test_a_damaged_server_is_named(world: World) -> None:
    flip(world.served / "shard-00001.bin", 2 * BLOCK_SIZE + 5)

    async def test(store: ShardStore) -> None:
        with pytest.raises(CorruptError, match=r"block 6 of shard-00001\.bin from http://.*BLAKE3"):
            await store.download(quiet)
        with pytest.raises(CorruptError, match=r"block 6 of shard-00001\.bin from http://"):
            await store.block(6)

    world.run(test)
    stored = (world.stored / "shard-00001.bin").read_bytes()
    assert stored == MODEL.shard(1)[: 2 * BLOCK_SIZE], "bad bytes were stored, or good ones not"


def test_a_short_file_is_named(world: World) -> None:
    path = world.served / "shard-00002.bin"
    path.write_bytes(path.read_bytes()[: BLOCK_SIZE + 9])

    async def test(store: ShardStore) -> None:
        with pytest.raises(SourceError, match=r"shard-00002\.bin"):
            await store.download(quiet)

    world.run(test)


def test_without_a_source(world: World) -> None:
    world.run(download)
    flip(world.stored / "shard-00001.bin", 0)
    (world.stored / "shard-00003.bin").unlink()

    async def test() -> None:
        store = ShardStore(MODEL.manifest, FolderStorage(world.stored), (), MemoryBuffers())
        assert bytes(await store.block(0)) == MODEL.block(0)
        with pytest.raises(CorruptError, match=r"block 4 of shard-00001\.bin is damaged"):
            await store.block(4)
        with pytest.raises(SourceError, match=r"block 12 of shard-00003\.bin is not stored"):
            await store.block(12)
        with pytest.raises(SourceError, match="import it again"):
            await store.download(quiet)

    asyncio.run(test())


def test_the_source_is_gone(world: World) -> None:
    world.run(download)
    flip(world.stored / "shard-00000.bin", 0)

    async def test() -> None:
        async with aiohttp.ClientSession() as session:
            source = AddressShards("http://127.0.0.1:9/", session)  # nothing listens there
            storage = FolderStorage(world.stored)
            store = ShardStore(MODEL.manifest, storage, [source], MemoryBuffers())
            assert bytes(await store.block(1)) == MODEL.block(1)
            with pytest.raises(SourceError, match=r"shard-00000\.bin"):
                await store.block(0)

    asyncio.run(test())


def test_models_differ_by_their_bytes() -> None:
    other: Storable = storable(seed=1)
    assert other.manifest.identity != MODEL.manifest.identity


def test_progress_is_told_ten_times_a_second() -> None:
    events: list[dict[str, object]] = []
    now = [0.0]
    progress = Progress(events.append, "download", clock=lambda: now[0])
    for step in range(1001):
        now[0] = step / 1000
        progress(step, 1000)
    assert 10 <= len(events) <= 12
    assert events[-1]["done"] == events[-1]["total"] == 1000
    assert events[-1]["rate"] == pytest.approx(1000)

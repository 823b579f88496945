"""Which blocks are stored, in the order in which they come, and what leaves within a budget."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from doppler.errors import SourceError, StorageError
from doppler.inputs.buffers import Buffer, MemoryBuffers
from doppler.store.budget import INDEX_FILE, SLOTS_FILE
from doppler.store.folder import FolderStorage
from doppler.store.have_map import HAVE_FILE
from doppler.store.manifest import BLOCK_SIZE, Manifest
from doppler.store.places import Place, Places
from doppler.store.reopening import ReopeningStorage
from doppler.store.shards import ShardStore
from doppler.store.sources.source import Urgency
from storable import storable
from virtual_time import run

MODEL = storable()
COUNT = len(MODEL.manifest.blocks)
ALL = range(COUNT)
HALF = MODEL.manifest.bytes // 2


class Given:
    """Gives all blocks at once; counts them. Blocks of idle requests come in reverse."""

    at_once, in_order = 3, False

    def __init__(self) -> None:
        self.sent = list[int]()
        self.until: int | None = None  # blocks after which no more come

    def where(self, place: Place) -> str:
        return f"memory/{place.shard.name}"

    def has(self, index: int) -> bool:
        return True

    async def fetch(
        self, places: Sequence[Place], urgency: Urgency
    ) -> AsyncGenerator[tuple[int, Buffer], None]:
        for place in reversed(places):
            if len(self.sent) == self.until:
                raise SourceError("no more")
            self.sent.append(place.index)
            yield place.index, MODEL.block(place.index)

    def hurry(self, index: int, urgency: Urgency) -> None:
        pass

    def blame(self, index: int) -> bool:
        raise AssertionError("a good block is blamed")


def opened(folder: Path, source: Given | None = None, budget: int | None = None) -> ShardStore:
    """A store on that folder as a new tab opens it."""
    sources = [] if source is None else [source]
    return ShardStore(MODEL.manifest, FolderStorage(folder), sources, MemoryBuffers(), budget)


def quiet(done: int, total: int) -> None:
    """Progress that nobody watches."""


def places(store: ShardStore) -> Places:
    """Of its blocks."""
    return Places(store.manifest)


def stored(folder: Path) -> int:
    """Bytes of weights on the disk."""
    kinds = ("shard-*.bin", SLOTS_FILE)
    return sum(path.stat().st_size for kind in kinds for path in folder.glob(kind))


def test_blocks_that_come_in_any_order_are_found_again(tmp_path: Path) -> None:
    """A download that ends early goes on with the blocks that are missing, holes or not."""
    source = Given()
    source.until = 6

    async def first() -> None:
        with pytest.raises(SourceError):
            await opened(tmp_path, source).download(quiet)

    async def second() -> None:
        store = opened(tmp_path, source)
        assert await store.blocks.missing(ALL) == sorted(set(ALL) - set(source.sent))
        assert len(await store.missing()) > 0, "a shard with a hole counts as whole"
        assert await store.stored_bytes() == 6 * BLOCK_SIZE - (
            BLOCK_SIZE if 12 in source.sent else 0
        )
        source.until = None
        await store.download(quiet)

    asyncio.run(first())
    asyncio.run(second())
    assert sorted(source.sent) == list(ALL), "a block came twice"
    for index, shard in enumerate(MODEL.manifest.shards):
        assert (tmp_path / shard.name).read_bytes() == MODEL.shard(index)


def test_what_came_last_is_found_by_its_hash(tmp_path: Path) -> None:
    """A tab was closed before the map was written: nothing that is stored is fetched again."""
    source = Given()

    async def test() -> None:
        await opened(tmp_path, source).download(quiet)
        (tmp_path / HAVE_FILE).unlink()
        (tmp_path / MODEL.manifest.shards[1].name).unlink()
        store = opened(tmp_path, source)
        source.sent.clear()
        await store.download(quiet)

    asyncio.run(test())
    assert sorted(source.sent) == [4, 5, 6, 7]


@pytest.mark.parametrize("budget", [None, HALF])
def test_what_came_before_a_stall_is_on_the_disk(tmp_path: Path, budget: int | None) -> None:
    """A tab that waits for peers may be closed at any time, and does not say so."""

    async def test() -> None:
        store = opened(tmp_path, Given(), budget)
        for index in range(4):
            await store.block(index)
        await asyncio.sleep(2)
        other = opened(tmp_path, budget=budget)
        assert await other.blocks.missing(ALL) == list(range(4, COUNT))

    run(test())


def test_an_index_of_slots_is_never_half_written(tmp_path: Path) -> None:
    """Whoever brought a block is cancelled at any point of it: the others are found again."""

    class Slow(FolderStorage):
        async def write(self, name: str, offset: int, data: Buffer) -> None:
            await asyncio.sleep(0.01)
            await super().write(name, offset, data)

    async def test() -> None:
        store = ShardStore(MODEL.manifest, Slow(tmp_path), [Given()], MemoryBuffers(), HALF)
        for index in range(4):
            await store.block(index)
        await asyncio.sleep(2)
        for steps in range(12):
            asked = asyncio.ensure_future(store.block(4))
            await asyncio.sleep(0.004 * steps)
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)
            assert set(await opened(tmp_path, budget=HALF).blocks.missing(range(4))) == set()
            await asyncio.sleep(2)
            store.blocks.discard(4)

    run(test())


def test_an_import_is_not_undone_by_a_tab_that_had_a_part(tmp_path: Path) -> None:
    """Its map tells of what was there before."""

    async def test() -> None:
        store = opened(tmp_path, Given())
        for index in range(2):
            await store.block(index)
        for file in tmp_path.iterdir():
            file.unlink()
        MODEL.save(tmp_path)
        await store.block(5)
        await store.blocks.save()
        assert await opened(tmp_path).blocks.missing(ALL) == []
        assert await store.blocks.missing(ALL) == []

    run(test())


def test_a_map_that_another_tab_has_open_is_waited_for(tmp_path: Path) -> None:
    """Sizes would tell that holes are stored."""

    class Busy(FolderStorage):
        until = 0.0

        async def read(self, name: str, offset: int, length: int) -> Buffer:
            if name == HAVE_FILE and asyncio.get_running_loop().time() < self.until:
                raise StorageError("in use by another tab")
            return await super().read(name, offset, length)

    async def test() -> None:
        for index in (3, 7, 11, 12):  # the last of each shard
            await opened(tmp_path, Given()).block(index)
        folder = Busy(tmp_path)
        folder.until = asyncio.get_running_loop().time() + 1
        store = ShardStore(MODEL.manifest, folder, [], MemoryBuffers())
        assert await store.blocks.missing(ALL) == sorted(set(ALL) - {3, 7, 11, 12})
        folder.until = asyncio.get_running_loop().time() + 1000
        await asyncio.sleep(5)
        assert len(await store.blocks.missing(ALL)) == COUNT - 4
        with pytest.raises(StorageError):
            await ShardStore(MODEL.manifest, folder, [], MemoryBuffers()).blocks.missing(ALL)

    run(test())


def test_rows_of_a_model_that_was_deleted_and_comes_again(tmp_path: Path) -> None:
    """Another tab does that while the files are closed: what is missing is no row of zeros."""
    offsets, length = [100, 5000], 64
    rows = b"".join(MODEL.data[at : at + length] for at in offsets)

    async def opening() -> FolderStorage:
        return FolderStorage(tmp_path)

    async def test() -> None:
        source = Given()
        storage = ReopeningStorage(opening)
        store = ShardStore(MODEL.manifest, storage, [source], MemoryBuffers())
        for _ in range(2):
            assert await store.stored(offsets, length) == rows
        assert source.sent == [0]
        await storage.close()
        for file in tmp_path.iterdir():
            file.unlink()
        await opened(tmp_path, Given()).block(3)
        assert await store.stored(offsets, length) == rows

    run(test())


def test_a_download_whose_budget_is_lowered(tmp_path: Path) -> None:
    """It says that it is not whole, and what is there stays."""

    class Slow(Given):
        async def fetch(
            self, places: Sequence[Place], urgency: Urgency
        ) -> AsyncGenerator[tuple[int, Buffer], None]:
            for place in places:
                await asyncio.sleep(1)
                yield place.index, MODEL.block(place.index)

    async def test() -> None:
        store = opened(tmp_path, Slow())
        download = asyncio.ensure_future(store.download(quiet))
        await asyncio.sleep(1.5)
        store.blocks.budget = HALF
        with pytest.raises(StorageError, match="is not whole"):
            await download
        assert 0 < stored(tmp_path) <= HALF
        assert len(await opened(tmp_path, budget=HALF).blocks.missing(ALL)) < COUNT - 4

    run(test())


def test_without_a_map_sizes_tell(tmp_path: Path) -> None:
    """Of an imported model; until a block is put behind a hole."""
    MODEL.save(tmp_path)
    cut = tmp_path / MODEL.manifest.shards[1].name
    cut.write_bytes(cut.read_bytes()[: BLOCK_SIZE + 5])

    async def test() -> None:
        store = opened(tmp_path, Given())
        assert await store.blocks.missing(ALL) == [5, 6, 7]
        assert store.blocks.bits() == bytes([0b11111000, 0b11111000])
        await store.block(7)
        assert await store.blocks.missing(ALL) == [5, 6]
        assert await opened(tmp_path).blocks.missing(ALL) == [5, 6]

    asyncio.run(test())


def test_a_map_of_another_cut_tells_nothing(tmp_path: Path) -> None:
    manifest = MODEL.manifest
    first, second, *rest = manifest.shards
    joined = replace(first, bytes=first.bytes + second.bytes)
    other: Manifest = replace(manifest, shards=(joined, *rest))

    async def test() -> None:
        await opened(tmp_path, Given()).download(quiet)
        (tmp_path / second.name).unlink()
        store = ShardStore(other, FolderStorage(tmp_path), [Given()], MemoryBuffers())
        assert await store.blocks.missing(ALL) == [4, 5, 6, 7]
        await store.download(quiet)
        assert (tmp_path / first.name).read_bytes() == MODEL.shard(0) + MODEL.shard(1)

    asyncio.run(test())


def test_two_tabs_keep_what_both_have_stored(tmp_path: Path) -> None:
    async def test() -> None:
        one, two = (opened(tmp_path, Given()) for _ in range(2))
        assert await one.blocks.missing(ALL) == await two.blocks.missing(ALL) == list(ALL)
        await one.block(2)
        await two.block(9)
        for store in (one, two):
            await store.blocks.save()
        assert await opened(tmp_path).blocks.missing(ALL) == sorted(set(ALL) - {2, 9})

    asyncio.run(test())


def test_what_another_tab_let_leave_is_told_when_it_is_asked_for(tmp_path: Path) -> None:
    """Else peers would be promised it again and again."""
    MODEL.save(tmp_path)

    async def test() -> None:
        store, gone = opened(tmp_path), list[int]()
        store.blocks.gone = gone.extend
        await store.blocks.ready()
        (tmp_path / "shard-00001.bin").unlink()
        assert await store.given(5) is None
        assert await store.given(5) is None
        assert gone == [5]
        assert not store.blocks.has(5)
        assert store.blocks.has(0)

    run(test())


def test_a_budget_is_kept_to(tmp_path: Path) -> None:
    """What is read is right whatever leaves, and what was used last is there."""
    source, chance = Given(), random.Random(3)

    async def test() -> None:
        store = opened(tmp_path, source, HALF)
        for _ in range(60):
            index = chance.choice(ALL)
            assert bytes(await store.block(index)) == MODEL.block(index)
            assert stored(tmp_path) <= HALF
            count = len(source.sent)
            await store.block(index)
            assert len(source.sent) == count, "the block that was used last is gone"
        assert len(source.sent) < 60
        await store.blocks.save()
        again = opened(tmp_path, source, HALF)
        held = sorted(set(ALL) - set(await again.blocks.missing(ALL)))
        assert len(held) == HALF // BLOCK_SIZE
        count = len(source.sent)
        for index in held:
            assert bytes(await again.block(index)) == MODEL.block(index)
        assert len(source.sent) == count

    asyncio.run(test())


def test_what_was_used_longest_ago_leaves(tmp_path: Path) -> None:
    source = Given()

    async def test() -> None:
        store = opened(tmp_path, source, 3 * BLOCK_SIZE)
        gone = list[int]()
        store.blocks.gone = gone.extend
        for index in (0, 1, 2, 0, 3, 4):
            await store.block(index)
        assert gone == [1, 2]

    asyncio.run(test())


def test_what_may_displace_nothing_is_kept_only_where_there_is_room(tmp_path: Path) -> None:
    async def test() -> None:
        store = opened(tmp_path, Given(), 3 * BLOCK_SIZE)
        blocks = store.blocks
        await blocks.ready()
        gone = list[int]()
        blocks.gone = gone.extend
        blocks.displaces = lambda index: index < 5
        assert blocks.room == 3
        for index in (5, 6, 0):
            await store.scheduler.store([index], lambda count: None)
            await asyncio.sleep(1)
        assert (blocks.room, gone, blocks.unused(2.5)) == (0, [], [5])
        with pytest.raises(StorageError, match=r"block 7 of .* is not kept"):
            await store.scheduler.store([7], lambda count: None)
        assert gone == []
        blocks.let_leave(6)
        assert (blocks.room, gone) == (1, [6])
        await store.scheduler.store([7], lambda count: None)
        await store.scheduler.store([1], lambda count: None)
        assert gone == [6, 5]
        blocks.budget = BLOCK_SIZE
        assert blocks.room == 0
        with pytest.raises(StorageError):
            await store.scheduler.store([8], lambda count: None)
        assert gone == [6, 5]

    run(test())


def test_no_budget_at_all(tmp_path: Path) -> None:
    source = Given()

    async def test() -> None:
        store = opened(tmp_path, source, 0)
        rows = [5, BLOCK_SIZE - 3, 7 * BLOCK_SIZE]
        wanted = b"".join(MODEL.data[at : at + 9] for at in rows)
        assert await store.stored(rows, 9) == wanted
        assert bytes((await store.verified(0, COUNT))[0]) == MODEL.data
        with pytest.raises(StorageError, match="may be stored"):
            await store.download(quiet)

    asyncio.run(test())
    assert stored(tmp_path) == 0


@pytest.mark.parametrize("is_cancelled", [False, True])
def test_a_block_that_could_not_be_written_is_not_stored(
    tmp_path: Path, is_cancelled: bool
) -> None:
    """Neither here nor by what peers are told; its slot is for the next."""

    class Full(FolderStorage):
        async def write(self, name: str, offset: int, data: Buffer) -> None:
            await asyncio.sleep(1)
            if name == SLOTS_FILE and is_full:
                raise StorageError("no room")
            await super().write(name, offset, data)

    is_full = True

    async def test() -> None:
        nonlocal is_full
        source = [Given()]
        store = ShardStore(MODEL.manifest, Full(tmp_path), source, MemoryBuffers(), HALF)
        keeping = asyncio.ensure_future(store.blocks.keep(places(store)[0], MODEL.block(0)))
        await asyncio.sleep(0.5)
        if is_cancelled:
            keeping.cancel()
        with pytest.raises(asyncio.CancelledError if is_cancelled else StorageError):
            await keeping
        assert not store.blocks.has(0)
        assert not any(store.blocks.bits())
        is_full = False
        await store.blocks.keep(places(store)[1], MODEL.block(1))
        assert bytes(await store.block(1)) == MODEL.block(1)
        assert stored(tmp_path) == MODEL.manifest.block_size

    run(test())


def test_a_shard_that_leaves_is_told_though_nobody_waits_for_the_room(tmp_path: Path) -> None:
    """Else peers would go on asking for it."""
    MODEL.save(tmp_path)

    class Slow(FolderStorage):
        async def remove(self, name: str) -> None:
            await asyncio.sleep(1)
            await super().remove(name)

    async def test() -> None:
        store = ShardStore(MODEL.manifest, Slow(tmp_path), (), MemoryBuffers(), HALF)
        gone = list[int]()
        store.blocks.gone = gone.extend
        await store.blocks.ready()
        store.blocks.discard(0)
        keeping = asyncio.ensure_future(store.blocks.keep(places(store)[0], MODEL.block(0)))
        await asyncio.sleep(0.5)
        keeping.cancel()
        await asyncio.wait([keeping])
        assert gone == [index for index in range(1, COUNT) if not store.blocks.has(index)] != []

    run(test())


def test_a_whole_model_stays_until_a_block_has_to_come(tmp_path: Path) -> None:
    """A smaller budget alone costs nothing; shards leave as a whole, the last used last."""
    MODEL.save(tmp_path)
    source = Given()

    async def test() -> None:
        store = opened(tmp_path, source, HALF)
        for index in reversed(ALL):
            await store.block(index)
        assert (source.sent, stored(tmp_path)) == ([], MODEL.manifest.bytes)
        store.blocks.discard(5)
        gone = list[int]()
        store.blocks.gone = gone.extend
        assert bytes(await store.block(5)) == MODEL.block(5)
        assert stored(tmp_path) <= HALF
        assert set(gone) == {4, 6, 7, 8, 9, 10, 11, 12}
        for index in ALL:
            assert bytes(await store.block(index)) == MODEL.block(index)
            assert stored(tmp_path) <= HALF

    asyncio.run(test())


def test_what_a_budget_kept_is_not_fetched_again(tmp_path: Path) -> None:
    """The model is downloaded after all: blocks in slots go to their shards."""
    source = Given()

    async def test() -> None:
        store = opened(tmp_path, source, HALF)
        for index in ALL:
            await store.block(index)
        await store.blocks.save()
        held = set(ALL) - set(await store.blocks.missing(ALL))
        source.sent.clear()
        await opened(tmp_path, source).download(quiet)
        assert sorted(source.sent) == sorted(set(ALL) - held)

    asyncio.run(test())
    assert not (tmp_path / SLOTS_FILE).exists()
    assert not (tmp_path / INDEX_FILE).exists()
    for index, shard in enumerate(MODEL.manifest.shards):
        assert (tmp_path / shard.name).read_bytes() == MODEL.shard(index)


def test_an_index_of_slots_that_another_tab_has_open_is_waited_for(tmp_path: Path) -> None:
    """All that is kept would be written over, and fetched again."""

    class Busy(FolderStorage):
        until = 0.0

        async def read(self, name: str, offset: int, length: int) -> Buffer:
            if name == INDEX_FILE and asyncio.get_running_loop().time() < self.until:
                raise StorageError("in use by another tab")
            return await super().read(name, offset, length)

    async def test() -> None:
        store = opened(tmp_path, Given(), HALF)
        await store.verified(0, 4)
        await store.blocks.save()
        folder, source = Busy(tmp_path), Given()
        folder.until = asyncio.get_running_loop().time() + 0.5
        again = ShardStore(MODEL.manifest, folder, [source], MemoryBuffers(), HALF)
        await again.verified(0, 4)
        assert source.sent == []
        folder.until = asyncio.get_running_loop().time() + 1000
        with pytest.raises(StorageError):
            await ShardStore(MODEL.manifest, folder, [], MemoryBuffers(), HALF).block(0)

    run(test())


@pytest.mark.parametrize("damage", ["index", "number", "slot", "cut"])
def test_slots_that_are_damaged(tmp_path: Path, damage: str) -> None:
    async def test() -> None:
        source = Given()
        store = opened(tmp_path, source, HALF)
        await store.verified(0, 4)
        await store.blocks.save()
        if damage == "index":
            (tmp_path / INDEX_FILE).write_text('{"blocks": [3, 3, "x", 99')
        elif damage == "number":
            (tmp_path / INDEX_FILE).write_text('{"blocks": [3, -1, 99, true, 3]}')
        elif damage == "cut":
            (tmp_path / SLOTS_FILE).write_bytes(MODEL.block(0)[:77])
        else:
            data = bytearray((tmp_path / SLOTS_FILE).read_bytes())
            data[9] ^= 1
            (tmp_path / SLOTS_FILE).write_bytes(data)
        again = opened(tmp_path, source, HALF)
        for index in ALL:
            assert bytes(await again.block(index)) == MODEL.block(index)

    asyncio.run(test())

"""Several sources of one model, with their faults: who is asked for what, and when."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from pathlib import Path
from random import Random

import pytest

from doppler.errors import CorruptError, DopplerError, FormatError, SourceError, StorageError
from doppler.inputs.buffers import Buffer, MemoryBuffers
from doppler.store.folder import FolderStorage
from doppler.store.places import Place
from doppler.store.shards import ShardStore
from doppler.store.sources import scheduler
from doppler.store.sources.scheduler import LATE, PATIENCE
from doppler.store.sources.source import URGENCIES, Urgency
from doppler.store.sources.standing import FAILED_SECONDS
from storable import storable
from virtual_time import run

MODEL = storable()
COUNT = len(MODEL.manifest.blocks)
ALL = range(COUNT)
SECOND = 1.0  # that a block takes


class Scripted:
    """Gives a block a second; `wrong` ones with a bit flipped; stops for ever at those in `stalls`,
    and ends with an error before those in `breaks`.
    """

    def __init__(self, name: str, blocks: Collection[int] = ALL, in_order: bool = True) -> None:
        self.name, self.blocks, self.in_order = name, set(blocks), in_order
        self.at_once = 1
        self.wrong, self.stalls, self.breaks = set[int](), set[int](), set[int]()
        self.asked = list[tuple[float, list[int], Urgency]]()
        self.sent, self.hurried = list[int](), list[int]()
        self.blamed, self.closed = list[int](), 0
        self.may_ask_again = False

    def where(self, place: Place) -> str:
        return f"{self.name}/{place.shard.name}"

    def has(self, index: int) -> bool:
        return index in self.blocks

    async def fetch(
        self, places: Sequence[Place], urgency: Urgency
    ) -> AsyncGenerator[tuple[int, Buffer], None]:
        indices = [place.index for place in places]
        self.asked.append((now(), indices, urgency))
        try:
            for index in indices if self.in_order else reversed(indices):
                if index in self.stalls:
                    await asyncio.Event().wait()
                await asyncio.sleep(SECOND)
                if index in self.breaks:
                    raise SourceError(f"{self.name} is gone")
                self.sent.append(index)
                yield index, self.bytes(index)
        finally:
            self.closed += 1

    def bytes(self, index: int) -> bytes:
        block = bytearray(MODEL.block(index))
        block[7] ^= index in self.wrong
        return bytes(block)

    def hurry(self, index: int, urgency: Urgency) -> None:
        self.hurried.append(index)

    def blame(self, index: int) -> bool:
        self.blamed.append(index)
        return self.may_ask_again


def now() -> float:
    return asyncio.get_running_loop().time()


def quiet(done: int, total: int) -> None:
    """Progress that nobody watches."""


Test = Callable[[ShardStore], Awaitable[None]]


@pytest.fixture
def scene(tmp_path: Path) -> Callable[..., float]:
    """Runs a test on an empty store with these sources; the seconds that it took."""

    def played(test: Test, *sources: Scripted, storage: FolderStorage | None = None) -> float:
        async def main() -> float:
            folder = storage or FolderStorage(tmp_path)
            await test(ShardStore(MODEL.manifest, folder, sources, MemoryBuffers()))
            assert len(asyncio.all_tasks()) == 1, "something is left running"
            return now()

        return run(main())

    return played


async def download(store: ShardStore) -> None:
    await store.download(quiet)
    assert await store.missing() == []
    for index in ALL:
        assert bytes(await store.block(index)) == MODEL.block(index)


def test_one_source_gives_all_of_it_once(scene: Callable[..., float]) -> None:
    source = Scripted("a")
    assert scene(download, source) == pytest.approx(COUNT * SECOND)
    assert source.sent == list(ALL)
    assert [len(indices) for _, indices, _ in source.asked] == [4, 4, 4, 1], "not whole shards"


def test_whoever_waits_is_served_by_the_source_that_takes_anothers_place(
    scene: Callable[..., float],
) -> None:
    """As where a model's address becomes another one while it is loaded."""
    old, new = Scripted("old"), Scripted("new")

    async def test(store: ShardStore) -> None:
        waiting = asyncio.ensure_future(store.block(3))
        await asyncio.sleep(0.5 * SECOND)
        store.scheduler.add(new)
        store.scheduler.drop(old)
        assert bytes(await waiting) == MODEL.block(3)

    scene(test, old)
    assert (old.sent, new.sent) == ([], [3])


def test_several_at_once(scene: Callable[..., float]) -> None:
    """The faster one gives more of it, and nothing comes twice."""
    slow, fast = Scripted("slow"), Scripted("fast")
    fast.at_once = 2
    assert scene(download, slow, fast) < 0.5 * COUNT * SECOND
    assert sorted(slow.sent + fast.sent) == list(ALL)
    assert len(fast.sent) > len(slow.sent) > 0


def test_what_is_needed_now_comes_before_what_is_idle(scene: Callable[..., float]) -> None:
    """In the midst of a download: the next block and one far behind, of which none comes twice."""
    source = Scripted("a")

    async def test(store: ShardStore) -> None:
        whole = asyncio.ensure_future(store.download(quiet))
        await asyncio.sleep(0.5 * SECOND)
        for index, most in ((0, 0.5), (3, 1.0), (11, 1.0)):
            began = now()
            assert bytes(await store.block(index, "now")) == MODEL.block(index)
            assert now() - began <= most * SECOND + 0.01
        await whole

    scene(test, source)
    assert Counter(source.sent) == Counter(ALL)


def test_urgency_decides_who_goes_first(scene: Callable[..., float]) -> None:
    source = Scripted("a")
    came = list[int]()

    async def test(store: ShardStore) -> None:
        async def get(index: int, urgency: Urgency) -> None:
            await store.block(index, urgency)
            came.append(index)

        wanted = [(0, "soon"), (5, "soon"), (9, "now"), (2, "now")]
        await asyncio.gather(*(get(index, urgency) for index, urgency in wanted))  # type: ignore[arg-type]

    scene(test, source)
    assert came == [0, 9, 2, 5]


def test_a_bad_block_is_blamed_and_asked_of_another(scene: Callable[..., float]) -> None:
    bad, good = Scripted("bad"), Scripted("good", [5])
    bad.wrong = {5}

    async def test(store: ShardStore) -> None:
        for _ in range(2):
            data, fetched = await store.verified(4, 3)
            assert fetched
            assert bytes(data) == b"".join(MODEL.block(index) for index in (4, 5, 6))
            await store.storage.remove("shard-00001.bin")
        standing = store.scheduler._book.standings[bad]
        assert (standing.blamed, standing.wasted) == (1, MODEL.manifest.block_size)

    scene(test, bad, good)
    assert bad.blamed == [5]
    assert bad.sent == [4, 5, 6, 4, 6], "it was asked for a bad block again"
    assert good.sent == [5, 5]


def test_a_bad_block_of_the_only_source_is_told(scene: Callable[..., float]) -> None:
    source = Scripted("a")
    source.wrong = {5}

    async def test(store: ShardStore) -> None:
        for _ in range(2):
            with pytest.raises(
                CorruptError, match=r"block 5 of shard-00001.bin from a/shard-00001"
            ):
                await store.block(5)
        assert bytes(await store.block(6)) == MODEL.block(6)
        assert Counter(source.sent) == {5: 1, 6: 1}
        source.wrong.clear()  # it was mended, and a person tries again
        await download(store)

    scene(test, source)


def test_several_behind_one_source_are_asked_again(scene: Callable[..., float]) -> None:
    """Peers: the one that sent a bad block is dealt with there, and the next one is good."""
    peers = Scripted("peers", in_order=False)
    peers.wrong, peers.may_ask_again = {5}, True

    async def test(store: ShardStore) -> None:
        whole = asyncio.ensure_future(download(store))
        while not peers.blamed:
            await asyncio.sleep(SECOND)
        assert await store.blocks.missing([5]) == [5]
        await store.scheduler.offer(peers, 5, MODEL.block(5))
        await whole

    scene(test, peers)
    assert peers.blamed == [5]


@pytest.mark.parametrize("urgency", ["now", "soon", "idle"])
def test_who_is_late_is_overtaken(scene: Callable[..., float], urgency: Urgency) -> None:
    late, other = Scripted("late"), Scripted("other")
    late.stalls = {3}

    async def test(store: ShardStore) -> None:
        late.blocks, other.blocks = set(ALL), set()
        getting = asyncio.ensure_future(store.verified(2, 2, urgency))
        await asyncio.sleep(0)
        other.blocks = set(ALL)
        assert bytes((await getting)[0]) == MODEL.block(2) + MODEL.block(3)

    assert scene(test, late, other) == pytest.approx(2 * SECOND + LATE[urgency])
    assert (late.sent, other.sent) == ([2], [3])
    assert late.closed == 1, "the request that nobody waits for goes on"


def test_each_gives_what_it_has(scene: Callable[..., float]) -> None:
    """And a block that nobody has is waited for: a download ends when somebody comes that does."""
    first, second = Scripted("first", range(6)), Scripted("second", range(4, COUNT - 1))

    async def test(store: ShardStore) -> None:
        whole = asyncio.ensure_future(download(store))
        await asyncio.sleep(1000)
        assert not whole.done()
        assert await store.blocks.missing(ALL) == [COUNT - 1]
        second.blocks.add(COUNT - 1)
        store.scheduler.look()
        await whole

    scene(test, first, second)
    assert sorted(first.sent + second.sent) == list(ALL)
    assert set(first.sent) <= set(range(6))


def test_a_token_does_not_wait_for_ever(scene: Callable[..., float]) -> None:
    async def test(store: ShardStore) -> None:
        with pytest.raises(SourceError, match="with none of the peers"):
            await store.block(7)

    assert scene(test, Scripted("a", range(7))) == pytest.approx(PATIENCE)


def test_who_fails_is_left_alone_for_a_while(scene: Callable[..., float]) -> None:
    broken, other = Scripted("broken"), Scripted("other")
    broken.breaks = {1}

    async def test(store: ShardStore) -> None:
        await store.verified(0, 2)
        assert (broken.sent, other.sent) == ([0], [1])
        broken.breaks = set()
        await store.block(2)
        assert other.sent == [1, 2]
        await asyncio.sleep(FAILED_SECONDS)
        await store.block(3)
        assert broken.sent == [0, 3]

    scene(test, broken, other)


def test_where_all_fail_it_is_told_at_once(scene: Callable[..., float]) -> None:
    sources = Scripted("a"), Scripted("b")
    for source in sources:
        source.breaks = {1}

    async def test(store: ShardStore) -> None:
        with pytest.raises(SourceError, match=r"[ab] is gone"):
            await store.block(1)
        with pytest.raises(SourceError, match=r"[ab] is gone"):
            await store.download(quiet)
        assert await store.blocks.missing([0]) == [], "what came before is lost"

    scene(test, *sources)


@pytest.mark.parametrize("seconds", [0.0, 12.0])
def test_an_outage_beside_peers_that_have_nothing(
    scene: Callable[..., float], seconds: float
) -> None:
    """The server is asked again, with pauses, by loads and downloads."""
    server, peers = Scripted("server"), Scripted("peers", [], in_order=False)
    server.at_once, server.breaks = 3, set(ALL)

    async def test(store: ShardStore) -> None:
        block, whole = asyncio.gather(store.block(7), store.block(1)), download(store)
        end = asyncio.get_running_loop().call_later(seconds + 1.5, server.breaks.clear)
        await asyncio.gather(block, whole)
        end.cancel()

    assert scene(test, server, peers) < 3 * FAILED_SECONDS + seconds + COUNT * SECOND
    assert Counter(server.sent) == Counter(ALL)


@pytest.mark.parametrize("kind", ["load", "download"])
def test_an_outage_that_does_not_end_is_told(scene: Callable[..., float], kind: str) -> None:
    server, peers = Scripted("server"), Scripted("peers", range(4), in_order=False)
    server.breaks = {5}

    async def test(store: ShardStore) -> None:
        with pytest.raises(SourceError, match="server is gone"):
            await (store.block(5) if kind == "load" else store.download(quiet))
        server.breaks.clear()
        await download(store)

    scene(test, server, peers)
    assert sorted(server.sent + peers.sent) == list(ALL), "something came twice"


@pytest.mark.parametrize("kind", ["load", "download"])
def test_a_bad_block_that_no_peer_has_is_told(scene: Callable[..., float], kind: str) -> None:
    server, peers = Scripted("server"), Scripted("peers", [], in_order=False)
    server.wrong = {5}

    async def test(store: ShardStore) -> None:
        with pytest.raises(CorruptError, match=r"block 5 of shard-00001.bin from server/"):
            await (store.block(5) if kind == "load" else store.download(quiet))

    assert scene(test, server, peers) == pytest.approx(PATIENCE)


def test_requests_that_fail_together_are_one_failure(scene: Callable[..., float]) -> None:
    server, peers = Scripted("server"), Scripted("peers", [], in_order=False)
    server.at_once, server.breaks = 3, set(ALL)

    async def test(store: ShardStore) -> None:
        whole = asyncio.ensure_future(store.download(quiet))
        await asyncio.sleep(1.5 * SECOND)
        standing = store.scheduler._book.standings[server]
        assert (standing.failures, standing.until) == (1, SECOND + FAILED_SECONDS)
        server.breaks.clear()
        await whole

    scene(test, server, peers)


def test_a_request_that_is_cancelled_before_it_began(scene: Callable[..., float]) -> None:
    """Its block comes from elsewhere in the same moment: no place stays taken."""
    server, peers = Scripted("server"), Scripted("peers", [], in_order=False)

    async def test(store: ShardStore) -> None:
        await store.blocks.ready()
        for index in range(3):
            wanted = asyncio.ensure_future(store.scheduler.get([index], "now"))
            sent = asyncio.ensure_future(store.scheduler.offer(peers, index, MODEL.block(index)))
            await asyncio.gather(wanted, sent)
        await asyncio.sleep(SECOND)
        assert store.scheduler._book.runs == []
        assert bytes(await store.block(5)) == MODEL.block(5)

    assert scene(test, server, peers) < PATIENCE


def test_any_course_of_cancelled_work_leaves_nothing(scene: Callable[..., float]) -> None:
    chance = Random(5)

    async def test(store: ShardStore) -> None:
        tasks = list[asyncio.Task[object]]()
        for _ in range(200):
            wanted = sorted(chance.sample(ALL, chance.randrange(1, 5)))
            urgency = chance.choice(URGENCIES)
            tasks.append(asyncio.ensure_future(store.scheduler.get(wanted, urgency)))
            for task in chance.sample(tasks, chance.randrange(min(len(tasks), 8) + 1)):
                task.cancel()
            await asyncio.sleep(chance.choice([0, 0, 0.5 * SECOND]))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(SECOND)
        assert not store.scheduler._book.runs
        assert not store.scheduler.is_busy

    scene(test, Scripted("a"))


def test_cancelled_work_ends_requests(scene: Callable[..., float]) -> None:
    """Of what two wait for, it goes on while one does."""
    source = Scripted("a")

    async def test(store: ShardStore) -> None:
        both = [asyncio.ensure_future(store.block(1)) for _ in range(2)]
        await asyncio.sleep(0.5 * SECOND)
        both[0].cancel()
        assert bytes(await both[1]) == MODEL.block(1)
        whole = asyncio.ensure_future(store.download(quiet))
        await asyncio.sleep(3.5 * SECOND)
        whole.cancel()
        await asyncio.wait([whole])
        count = len(source.sent)
        await asyncio.sleep(100 * SECOND)
        assert len(source.sent) == count

    scene(test, source)
    assert source.closed == len(source.asked)


def test_a_source_that_leaves(scene: Callable[..., float]) -> None:
    leaving, other = Scripted("leaving"), Scripted("other")
    leaving.stalls = {1}

    async def test(store: ShardStore) -> None:
        whole = asyncio.ensure_future(download(store))
        await asyncio.sleep(2.5 * SECOND)
        store.scheduler.drop(leaving)
        await whole
        store.scheduler.drop(other)
        await store.storage.remove("shard-00000.bin")
        with pytest.raises(SourceError, match="is not stored"):
            await store.block(0)

    scene(test, leaving, other)
    assert (leaving.sent, leaving.closed) == ([0], 1)


class Full(FolderStorage):
    """Has no room."""

    async def write(self, name: str, offset: int, data: Buffer) -> None:
        raise StorageError("no room")


def test_what_cannot_be_stored(scene: Callable[..., float], tmp_path: Path) -> None:
    """Whoever needs a block has it all the same; a download ends."""
    source = Scripted("a")

    async def test(store: ShardStore) -> None:
        assert bytes(await store.block(4)) == MODEL.block(4)
        with pytest.raises(StorageError, match="no room"):
            await store.download(quiet)

    scene(test, source, storage=Full(tmp_path))


class Removed(FolderStorage):
    """Another tab has removed the folder."""

    error: type[DopplerError] = SourceError

    async def write(self, name: str, offset: int, data: Buffer) -> None:
        raise self.error(f"{name} is not there")


@pytest.mark.parametrize("error", [SourceError, FormatError, CorruptError])
def test_whatever_keeps_a_block_from_being_stored(
    scene: Callable[..., float], tmp_path: Path, error: type[DopplerError]
) -> None:
    """Who needs it has it, from a server or from peers, the transport hears of it, and it is no
    fault of the source.
    """
    server, peers = Scripted("server", range(4)), Scripted("peers", [4], in_order=False)
    peers.stalls = {4}
    storage, told = Removed(tmp_path), list[tuple[str, list[int], bool]]()
    storage.error = error

    async def test(store: ShardStore) -> None:
        store.scheduler.took = lambda it, indices, stored: told.append(
            (it.where(store._places[4]), [*indices], stored)
        )
        assert bytes(await store.block(0)) == MODEL.block(0)
        assert store.scheduler._book.standings[server].failures == 0
        wanted = asyncio.ensure_future(store.block(4))
        await asyncio.sleep(SECOND)
        unkept = await store.scheduler.offer(peers, 4, MODEL.block(4))
        assert isinstance(unkept, error)
        assert bytes(await wanted) == MODEL.block(4)
        with pytest.raises(error, match="is not there"):
            await store.scheduler.store([1], lambda count: None)

    scene(test, server, peers, storage=storage)
    assert [it[1:] for it in told] == [([0], False), ([4], False), ([1], False)]


def test_what_waits_is_looked_through_once(scene: Callable[..., float]) -> None:
    """Not for each request: a model has many thousands of blocks, and peers a part of them."""
    asked = Counter[int]()

    class Counted(Scripted):
        def has(self, index: int) -> bool:
            asked[index] += 1
            return super().has(index)

    peers = Counted("peers", range(6, COUNT, 2), in_order=False)
    peers.at_once, peers.stalls = 256, set(ALL)

    async def test(store: ShardStore) -> None:
        wanted = asyncio.ensure_future(store.scheduler.store(ALL, lambda count: None))
        await asyncio.sleep(0)
        assert max(asked[index] for index in range(5)) == 1
        for index in (6, 8, 10):
            await asyncio.sleep(SECOND)
            await store.scheduler.offer(peers, index, MODEL.block(index))
        assert max(asked[index] for index in range(5)) == 1, "what has not changed is asked again"
        peers.blocks = set(ALL)
        store.scheduler.look()
        assert max(asked[index] for index in range(5)) > 1
        wanted.cancel()
        await asyncio.wait([wanted])
        await asyncio.sleep(SECOND)

    scene(test, peers)


def test_what_comes_unasked_is_verified(scene: Callable[..., float]) -> None:
    peers = Scripted("peers", in_order=False)
    told = list[tuple[list[int], bool]]()

    async def test(store: ShardStore) -> None:
        store.scheduler.took = lambda source, indices, stored: told.append(([*indices], stored))
        peers.wrong = {2}
        for index in (1, 2):
            await store.scheduler.offer(peers, index, peers.bytes(index))
        assert await store.blocks.missing([1, 2]) == [2]

    scene(test, peers)
    assert told == [([1], True)]
    assert peers.blamed == [2]


def test_one_that_gives_in_any_order_is_told_what_is_urgent(scene: Callable[..., float]) -> None:
    peers = Scripted("peers", in_order=False)

    async def test(store: ShardStore) -> None:
        whole = asyncio.ensure_future(store.download(quiet))
        await asyncio.sleep(0.5 * SECOND)
        await store.block(0, "now")
        await whole

    scene(test, peers)
    assert peers.hurried == [0]
    assert Counter(peers.sent) == Counter(ALL)
    assert scheduler.LATE["now"] < scheduler.LATE["idle"]

"""The worker's end of the port: what it answers, and a model that goes from one page to another."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from doppler.errors import FormatError, RequestError, SourceError, StorageError
from doppler.inputs.buffers import Buffer, MemoryBuffers
from doppler.inputs.source import FileSource
from doppler.store.folder import FolderStorage
from doppler.store.manifest import MANIFEST_FILE, TOKENIZER_FILE, Manifest, TokenizerInfo
from doppler.store.shards import ShardStore
from doppler.store.sources.files import FileShards
from doppler.store.stored import read_manifest
from doppler.swarm_exchange.exchange import JOIN_SECONDS, Exchange
from storable import storable
from virtual_time import run

MODEL = storable()
TOKENIZER = b'{"a": "tokenizer"}'
INFO = TokenizerInfo(len(TOKENIZER), blake3(TOKENIZER).hexdigest(), None, (2,), False, None)
MANIFEST: Manifest = replace(MODEL.manifest, tokenizer=INFO)
TEXT = MANIFEST.to_json().encode()
COUNT = len(MANIFEST.blocks)
ALL = range(COUNT)
IDENTITY = MANIFEST.identity


class FolderShelf:
    """Models in folders, one store of each."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.is_full = folder, False
        self.stores: dict[str, ShardStore] = {}

    async def find(self, identity: str) -> ShardStore | None:
        if not (self.folder / MANIFEST_FILE).exists():
            return None
        return self._store((self.folder / MANIFEST_FILE).read_bytes())

    async def adopt(self, identity: str, manifest: bytes) -> ShardStore:
        if read_manifest(manifest, "from peers").identity != identity:
            raise FormatError("another model's manifest")
        if self.is_full:
            raise StorageError("no room")
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / MANIFEST_FILE).write_bytes(manifest)
        return self._store(manifest)

    def _store(self, text: bytes) -> ShardStore:
        manifest = read_manifest(text, "stored")
        if manifest.identity not in self.stores:
            store = ShardStore(manifest, FolderStorage(self.folder), (), MemoryBuffers())
            self.stores[manifest.identity] = store
        return self.stores[manifest.identity]


class Page:
    """A page's transport: what the worker told it, and what it does about that."""

    def __init__(self, folder: Path) -> None:
        self.told = list[tuple[dict[str, Any], bytes | None]]()
        self.shelf = FolderShelf(folder)
        self.exchange = Exchange(self.shelf, self._hear, MemoryBuffers())
        self.on: Callable[[dict[str, Any], bytes | None], None] = lambda message, data: None

    def _hear(self, message: dict[str, Any], name: str | None, data: Buffer | None) -> None:
        given = None if data is None else bytes(data)
        self.told.append((message, given))
        self.on(message, given)

    def say(self, kind: str, data: bytes | None = None, **fields: Any) -> None:
        self.exchange.hear({"type": kind, "identity": IDENTITY, **fields}, data)

    async def until(self, kind: str, count: int = 1) -> tuple[dict[str, Any], bytes | None]:
        """The last message of that kind, once there are so many."""
        for _ in range(1000):
            found = [it for it in self.told if it[0]["type"] == kind]
            if len(found) >= count:
                return found[-1]
            await asyncio.sleep(0.01)
        raise AssertionError(f"no {kind}: {[it[0]['type'] for it in self.told]}")

    @property
    def kinds(self) -> list[str]:
        return [message["type"] for message, _ in self.told]


def save(folder: Path) -> None:
    """All of the model."""
    MODEL.save(folder)
    (folder / MANIFEST_FILE).write_bytes(TEXT)
    (folder / TOKENIZER_FILE).write_bytes(TOKENIZER)


def quiet(done: int, total: int) -> None:
    """Progress that nobody watches."""


def played(test: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await test()

    run(main())


def test_what_is_stored_is_told_and_given(tmp_path: Path) -> None:
    save(tmp_path)
    damaged = bytearray(MODEL.shard(1))
    damaged[3] ^= 1
    (tmp_path / "shard-00001.bin").write_bytes(damaged)
    (tmp_path / "shard-00002.bin").unlink()

    async def test() -> None:
        page = Page(tmp_path)
        page.say("join")
        page.say("read", id=1, block=0)  # before it is answered
        message, have = await page.until("model")
        layout = message["layout"]
        assert layout["block_size"], layout["bytes"] == (MANIFEST.block_size, MANIFEST.bytes)
        assert [it["name"] for it in layout["shards"]] == [it.name for it in MANIFEST.shards]
        assert layout["manifest_bytes"] == len(TEXT)
        assert layout["tokenizer"] == {"bytes": len(TOKENIZER), "stored": True}
        assert have == bytes([0b11111111, 0b00001000])
        assert await page.until("data") == ({"type": "data", "id": 1}, MODEL.block(0))
        for number, block in enumerate((4, 8, COUNT, -1), 2):
            page.say("read", id=number, block=block)
            assert await page.until("data", number) == ({"type": "data", "id": number}, None)
        assert (await page.until("lost"))[0]["blocks"] == [4]
        assert page.kinds.index("lost") < page.kinds.index("data", page.kinds.index("data") + 1)
        for name, data in ((MANIFEST_FILE, TEXT), (TOKENIZER_FILE, TOKENIZER)):
            page.say("read_file", id=9, name=name, start=2, end=len(data))
            assert (await page.until("data", page.kinds.count("data") + 1))[1] == data[2:]
        page.say("read_file", id=9, name="origin.json", start=0, end=3)
        assert (await page.until("data", page.kinds.count("data") + 1))[1] is None

    played(test)


def test_files_that_peers_send_are_what_they_should_be_or_blamed(tmp_path: Path) -> None:
    async def test() -> None:
        page = Page(tmp_path / "empty")
        page.say("join")
        message, have = await page.until("model")
        assert (message["layout"], have) == (None, b"")
        other = MODEL.manifest.to_json().encode()
        lies = (b"", b"\xff\xfe", TEXT[:-9], other)
        for number, lie in enumerate(lies, 1):
            page.say("file", lie, name=MANIFEST_FILE)
            message, _ = await page.until("blame", number)
            assert (message["file"], message["block"]) == (MANIFEST_FILE, None)
        page.say("file", TOKENIZER, name=TOKENIZER_FILE)  # nobody knows its hash yet
        await page.until("blame", len(lies) + 1)
        assert not (tmp_path / "empty").exists()
        page.say("file", TEXT, name=MANIFEST_FILE)
        message, have = await page.until("model", 2)
        assert message["layout"]["tokenizer"] == {"bytes": len(TOKENIZER), "stored": False}
        assert have == bytes(2)
        page.say("file", TOKENIZER + b" ", name=TOKENIZER_FILE)
        await page.until("blame", len(lies) + 2)
        page.say("file", TOKENIZER, name=TOKENIZER_FILE)
        message, _ = await page.until("model", 3)
        assert message["layout"]["tokenizer"]["stored"]

    played(test)


def test_storage_that_is_full_is_no_peers_fault(tmp_path: Path) -> None:
    """Whoever waits for the model is told; it goes on when there is room."""

    async def test() -> None:
        page = Page(tmp_path / "two")
        page.say("join")
        opening = asyncio.ensure_future((await page.exchange.joined(IDENTITY)).opened())
        await page.until("model")
        page.shelf.is_full = True
        page.say("file", TEXT, name=MANIFEST_FILE)
        with pytest.raises(StorageError, match="no room"):
            await opening
        assert "blame" not in page.kinds
        assert page.kinds.count("model") == 1, "peers would be asked again and again"
        page.shelf.is_full = False
        opening = asyncio.ensure_future((await page.exchange.joined(IDENTITY)).opened())
        await page.until("model", 2)
        for name, data in ((MANIFEST_FILE, TEXT), (TOKENIZER_FILE, TOKENIZER)):
            page.say("file", data, name=name)
        await opening

    played(test)


def connect(giver: Page, taker: Page) -> list[tuple[int, str | None]]:
    """Whatever the taker wants and the giver has goes there, a block a tick; what was wanted."""
    wanted = list[tuple[int, str | None]]()
    asked = dict[int, int]()

    def hear(message: dict[str, Any], data: bytes | None) -> None:
        if message["type"] == "model" and message["layout"] is None:
            giver.say("read_file", id=-1, name=MANIFEST_FILE, start=0, end=len(TEXT))
        elif message["type"] == "model" and not message["layout"]["tokenizer"]["stored"]:
            giver.say("read_file", id=-2, name=TOKENIZER_FILE, start=0, end=len(TOKENIZER))
            taker.say("seen", bytes([1] * COUNT), peers=1)
        elif message["type"] == "want":
            for block in message["blocks"]:
                wanted.append((block, message["urgency"]))
                asked[len(asked)] = block
                giver.say("read", id=len(asked) - 1, block=block)

    def answer(message: dict[str, Any], data: bytes | None) -> None:
        if message["type"] == "data" and data is not None:
            name = {-1: MANIFEST_FILE, -2: TOKENIZER_FILE}.get(message["id"])
            if name is not None:
                taker.say("file", data, name=name)
            else:
                taker.say("write", data, block=asked[message["id"]], **{"from": "a" * 40})

    taker.on, giver.on = hear, answer
    return wanted


def test_a_model_goes_from_page_to_page(tmp_path: Path) -> None:
    """By its identity alone: manifest, tokenizer and all blocks, each wanted once."""
    save(tmp_path / "one")

    async def test() -> None:
        one, two = Page(tmp_path / "one"), Page(tmp_path / "two")
        wanted = connect(one, two)
        one.say("join")
        await one.until("model")
        two.say("join")
        shared = await two.exchange.joined(IDENTITY)
        await (await shared.opened()).download(quiet)
        assert sorted(wanted) == [(index, "idle") for index in ALL]
        done = [message for message in (it for it, _ in two.told) if message["type"] == "done"]
        assert sorted(it["block"] for it in done) == list(ALL)
        assert all(it["stored"] for it in done)

    played(test)
    for path in (tmp_path / "one").iterdir():
        if path.name != "have.map":
            assert (tmp_path / "two" / path.name).read_bytes() == path.read_bytes()


def test_what_few_have_is_kept_for_others_as_far_as_there_is_room(tmp_path: Path) -> None:
    """Unasked, once a person allowed it; what is loaded may push it out, and not the other way."""
    save(tmp_path / "one")
    save(tmp_path / "two")
    for index in range(len(MANIFEST.shards)):
        (tmp_path / "two" / f"shard-{index:05}.bin").unlink()
    half = COUNT // 2

    async def test() -> None:
        one, two = Page(tmp_path / "one"), Page(tmp_path / "two")
        wanted = connect(one, two)
        one.say("join")
        two.say("join")
        await two.until("model")
        two.say("seen", bytes([1] * COUNT), peers=1)
        await asyncio.sleep(60)
        assert wanted == []
        two.say("keep", least=4, room=half * MANIFEST.block_size + 7)
        await two.until("done", half)
        await asyncio.sleep(60)
        done = [message for message, _ in two.told if message["type"] == "done"]
        assert len(done) == half == len(wanted)
        assert all(it["stored"] and it["for_others"] for it in done)
        assert {urgency for _, urgency in wanted} == {"idle"}
        store = (await two.exchange.joined(IDENTITY)).store
        assert store is not None
        kept = {index for index in ALL if store.blocks.has(index)}
        assert kept == {it["block"] for it in done}
        missing = min(set(ALL) - kept)
        getting = asyncio.ensure_future(store.block(missing))
        assert bytes(await getting) == MODEL.block(missing)
        message, _ = await two.until("done", half + 1)
        assert (message["stored"], message["for_others"]) == (True, False)
        two.say("leave")
        two.say("join")
        two.say("seen", bytes([1] * COUNT), peers=1)
        await asyncio.sleep(60)
        assert len(wanted) == half + 1

    played(test)


def test_nothing_is_kept_for_others_while_somebody_here_waits(tmp_path: Path) -> None:
    save(tmp_path)
    (tmp_path / "shard-00000.bin").unlink()

    async def test() -> None:
        page = Page(tmp_path)
        page.say("join")
        await page.until("model")
        store = await (await page.exchange.joined(IDENTITY)).opened()
        getting = asyncio.ensure_future(store.download(quiet))
        page.say("keep", least=4, room=None)
        await asyncio.sleep(5)
        page.say("seen", bytes([1] * COUNT), peers=1)
        await asyncio.sleep(5)
        wants = [message for message, _ in page.told if message["type"] == "want"]
        assert [it["blocks"] for it in wants] == [[0, 1, 2, 3]]
        getting.cancel()
        await page.until("want", 3)
        idle = [message for message, _ in page.told if message["type"] == "want"][2:]
        assert all((len(it["blocks"]), it["urgency"]) == (1, "idle") for it in idle)

    played(test)


def test_files_that_are_handed_over_are_stored_whatever_is_kept_for_others(tmp_path: Path) -> None:
    """The room for what others lack is not that of what a person gives."""
    save(tmp_path)
    for shard in MANIFEST.shards:
        (tmp_path / shard.name).rename(tmp_path / f"given-{shard.name}")

    class Slow(FileSource):
        async def read(self, offset: int, length: int) -> Buffer:
            await asyncio.sleep(5)
            return await super().read(offset, length)

    async def test() -> None:
        page = Page(tmp_path)
        page.say("join")
        page.say("keep", least=4, room=COUNT // 2 * MANIFEST.block_size)
        store = await (await page.exchange.joined(IDENTITY)).opened()
        await asyncio.sleep(5)
        store.blocks.budget = None
        files = {it.name: Slow(tmp_path / f"given-{it.name}") for it in MANIFEST.shards}
        assert await store.take(await FileShards.among(files, MANIFEST), quiet) == 0
        for index, shard in enumerate(MANIFEST.shards):
            assert (tmp_path / shard.name).read_bytes() == MODEL.shard(index)

    played(test)


def test_bad_blocks_are_blamed_and_waited_for(tmp_path: Path) -> None:
    """The transport asks somebody else: nothing is wanted twice, and nothing bad is kept."""
    save(tmp_path)
    (tmp_path / "shard-00000.bin").unlink()

    async def test() -> None:
        page = Page(tmp_path)
        page.say("join")
        page.say("seen", bytes([3] * COUNT), peers=3)
        shared = await page.exchange.joined(IDENTITY)
        store = await shared.opened()
        getting = asyncio.ensure_future(store.block(2, "now"))
        message, _ = await page.until("want")
        assert (message["blocks"], message["urgency"]) == ([2], "now")
        for number in (1, 2):
            page.say("write", MODEL.block(1), block=2, **{"from": "b" * 40})
            message, _ = await page.until("blame", number)
            assert (message["block"], message["file"]) == (2, None)
        page.say("write", MODEL.block(2)[:-1], block=2, **{"from": "b" * 40})
        await page.until("blame", 3)
        assert not getting.done()
        page.say("write", MODEL.block(2), block=2, **{"from": "c" * 40})
        assert bytes(await getting) == MODEL.block(2)
        page.say("write", MODEL.block(3), block=3, **{"from": "c" * 40})  # that nobody wants
        message, _ = await page.until("done", 2)
        assert (message["block"], message["stored"]) == (3, True)
        assert page.kinds.count("want") == 1
        assert await store.blocks.missing(ALL) == [0, 1]

    played(test)


def test_what_is_wanted_no_more_is_told(tmp_path: Path) -> None:
    save(tmp_path)
    (tmp_path / "shard-00000.bin").unlink()

    async def test() -> None:
        page = Page(tmp_path)
        page.say("join")
        page.say("seen", bytes([3] * COUNT), peers=3)
        shared = await page.exchange.joined(IDENTITY)
        getting = asyncio.ensure_future((await shared.opened()).block(2, "soon"))
        await page.until("want")
        getting.cancel()
        message, _ = await page.until("want", 2)
        assert (message["blocks"], message["urgency"]) == ([2], None)

    played(test)


def test_what_is_asked_for_others_is_asked_for_still_when_nobody_here_waits(tmp_path: Path) -> None:
    save(tmp_path)
    (tmp_path / "shard-00002.bin").unlink()

    async def test() -> None:
        page = Page(tmp_path)
        page.say("join")
        page.say("keep", least=4, room=None)
        page.say("seen", bytes([1] * COUNT), peers=1)
        await page.until("want", 4)
        store = await (await page.exchange.joined(IDENTITY)).opened()
        page.told.clear()
        getting = asyncio.ensure_future(store.block(9))
        await asyncio.sleep(0.1)
        getting.cancel()
        await asyncio.sleep(10)
        wants = [message for message, _ in page.told if message["type"] == "want"]
        assert [(it["blocks"], it["urgency"]) for it in wants] == [([9], "now"), ([9], "idle")]

    played(test)


def test_a_model_that_is_left_or_was_never_joined(tmp_path: Path) -> None:
    save(tmp_path)

    async def test() -> None:
        page = Page(tmp_path)
        page.say("write", MODEL.block(0), block=0)
        page.say("seen", bytes(COUNT), peers=0)
        page.say("read", id=5, block=0)
        assert page.told == [({"type": "data", "id": 5}, None)]
        with pytest.raises(RequestError, match="turn sharing on"):
            await page.exchange.joined(IDENTITY)
        assert asyncio.get_running_loop().time() == pytest.approx(JOIN_SECONDS)
        page.say("join")
        await page.until("model")
        store = await (await page.exchange.joined(IDENTITY)).opened()
        assert len(store.scheduler.sources) == 1
        page.say("leave")
        assert store.scheduler.sources == []
        page.told.clear()
        store.blocks.gone([1])
        assert page.told == []
        page.say("join")
        page.say("join")
        await page.until("model", 2)
        page.shelf.stores.clear()  # another cut of it was downloaded
        await page.exchange.refresh(IDENTITY)
        await page.until("model", 3)
        assert store.scheduler.sources == []
        store = await (await page.exchange.joined(IDENTITY)).opened()
        page.exchange.forget(IDENTITY)  # it was deleted
        assert (await page.until("lost"))[0]["blocks"] == list(ALL)
        page.say("join")
        await page.until("model", 4)
        page.say("closed")
        assert store.scheduler.sources == []

    played(test)


def test_what_peers_ask_for_is_answered_whatever_goes_wrong(tmp_path: Path) -> None:
    """The transport waits for the answer, and gives it to whoever asks for the piece after it."""
    save(tmp_path)

    async def test() -> None:
        page = Page(tmp_path)
        page.say("join")
        await page.until("model")
        store = await (await page.exchange.joined(IDENTITY)).opened()

        async def broken(index: int) -> Buffer:
            raise ValueError("a mistake of ours")

        store.given = broken  # type: ignore[method-assign]
        page.say("read", id=7, block=0)
        assert await page.until("data") == ({"type": "data", "id": 7}, None)

    played(test)


def test_a_block_that_comes_while_another_cut_is_opened(tmp_path: Path) -> None:
    """The page hears what became of it: it asks nobody for the block before that."""
    save(tmp_path)
    block = (tmp_path / "shard-00000.bin").read_bytes()[: MANIFEST.block_size]
    (tmp_path / "shard-00000.bin").unlink()

    async def test() -> None:
        page = Page(tmp_path)
        page.say("join")
        await page.until("model")
        store = await (await page.exchange.joined(IDENTITY)).opened()
        write, written = store.storage.write, asyncio.Event()

        async def slow(name: str, at: int, data: Buffer) -> None:
            await written.wait()
            await write(name, at, data)

        store.storage.write = slow  # type: ignore[method-assign]
        page.say("write", block, block=0)
        await asyncio.sleep(1)
        page.shelf.stores.clear()
        await page.exchange.refresh(IDENTITY)
        written.set()
        assert (await page.until("done"))[0]["block"] == 0

    played(test)


@pytest.mark.parametrize("whole", [False, True])
def test_a_damaged_block_comes_from_peers_again(tmp_path: Path, whole: bool) -> None:
    """They are told first that it is not here: what is here, the transport asks nobody for."""
    save(tmp_path / "one")
    save(tmp_path / "two")
    path = tmp_path / "two" / "shard-00000.bin"
    data = bytearray(path.read_bytes())
    data[MANIFEST.block_size + 5] ^= 1
    path.write_bytes(data)

    async def test() -> None:
        one, two = Page(tmp_path / "one"), Page(tmp_path / "two")
        wanted = connect(one, two)
        one.say("join")
        two.say("join")
        await two.until("model")
        two.say("seen", bytes([1] * COUNT), peers=1)
        store = await (await two.exchange.joined(IDENTITY)).opened()
        if whole:
            await store.download(quiet)
        else:
            assert bytes(await store.block(1)) == MODEL.block(1)
        assert [block for block, _ in wanted] == [1]
        assert (await two.until("lost"))[0]["blocks"] == [1]
        assert two.kinds.index("lost") < two.kinds.index("want") < two.kinds.index("done")

    played(test)
    assert path.read_bytes() == MODEL.shard(0)


def test_whoever_waits_for_a_model_that_is_left_is_told(tmp_path: Path) -> None:
    async def test() -> None:
        page = Page(tmp_path / "empty")
        page.say("join")
        shared = await page.exchange.joined(IDENTITY)
        opening = asyncio.ensure_future(shared.opened())
        await page.until("model")
        page.say("leave")
        page.say("join")
        with pytest.raises(RequestError, match="not shared by this page any more"):
            await asyncio.wait_for(opening, 60)
        with pytest.raises(RequestError, match="not shared by this page any more"):
            await asyncio.wait_for(shared.opened(), 60)
        for name, data in ((MANIFEST_FILE, TEXT), (TOKENIZER_FILE, TOKENIZER)):
            page.say("file", data, name=name)
        await (await page.exchange.joined(IDENTITY)).opened()

    played(test)


def test_a_model_that_is_left_while_its_manifest_is_stored_has_no_peers(tmp_path: Path) -> None:
    async def test() -> None:
        page = Page(tmp_path / "slow")
        adopt = page.shelf.adopt

        async def slowly(identity: str, manifest: bytes) -> ShardStore:
            await asyncio.sleep(1)
            return await adopt(identity, manifest)

        page.shelf.adopt = slowly  # type: ignore[method-assign]
        page.say("join")
        await page.until("model")
        page.say("file", TEXT, name=MANIFEST_FILE)
        await asyncio.sleep(0.5)
        page.say("leave")
        await asyncio.sleep(60)
        assert page.shelf.stores[IDENTITY].scheduler.sources == []
        assert page.kinds.count("model") == 1

    played(test)


def test_storage_that_cannot_be_read_is_told_as_what_is_not_stored(tmp_path: Path) -> None:
    """Another tab has the file: the transport goes on, and whoever waits for the model is told."""
    save(tmp_path)

    async def test() -> None:
        page = Page(tmp_path)
        store = await page.shelf.find(IDENTITY)
        assert store is not None
        read, size = store.storage.read, store.storage.size

        async def locked(name: str, *args: int) -> Any:
            if name == broken:
                raise StorageError(f"{name} is in use by another tab")
            return await (read if args else size)(name, *args)

        store.storage.read = store.storage.size = locked  # type: ignore[method-assign]
        broken = TOKENIZER_FILE
        page.say("join")
        message, have = await page.until("model")
        tokenizer = {"bytes": len(TOKENIZER), "stored": False}
        assert (message["layout"]["tokenizer"], have) == (
            tokenizer,
            bytes([0b11111111, 0b11111000]),
        )
        shared = await page.exchange.joined(IDENTITY)
        with pytest.raises(StorageError, match="another tab"):
            await shared.opened()
        broken = MANIFEST_FILE
        await page.exchange.refresh(IDENTITY)
        message, have = await page.until("model", 2)
        assert (message["layout"], have) == (None, b"")
        broken = ""
        assert await shared.opened() is store
        message, _ = await page.until("model", 3)
        assert message["layout"]["tokenizer"]["stored"]

    played(test)


def test_a_file_that_storage_refuses_is_no_peers_fault(tmp_path: Path) -> None:
    """Whatever storage says: its folder may be gone."""

    async def test() -> None:
        page = Page(tmp_path / "gone")

        async def gone(identity: str, manifest: bytes) -> ShardStore:
            raise SourceError("the folder is gone")

        page.shelf.adopt = gone  # type: ignore[method-assign]
        page.say("join")
        opening = asyncio.ensure_future((await page.exchange.joined(IDENTITY)).opened())
        await page.until("model")
        page.say("file", TEXT, name=MANIFEST_FILE)
        with pytest.raises(SourceError, match="folder is gone"):
            await asyncio.wait_for(opening, 60)
        assert "blame" not in page.kinds

    played(test)

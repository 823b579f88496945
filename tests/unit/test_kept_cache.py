"""What is saved of one KV cache and restored into another: every row that a token then sees."""

from __future__ import annotations

import asyncio
import resource
import struct
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from doppler.api.host import Kept
from doppler.api.keeper import Keeper
from doppler.command.shapes import SHAPES
from doppler.engine import kept_cache, planes, segments
from doppler.engine.engine import Engine
from doppler.engine.kept_cache import KeptCache
from doppler.engine.layout_code import code_digest
from doppler.engine.planes import Plane, planes_of
from doppler.engine.prefix_cache import PrefixCache
from doppler.engine.segments import SegmentFolder
from doppler.gpu.step import View
from doppler.inputs.buffers import Buffer, MemoryBuffers
from doppler.plan.bindings import MemoryLayout
from doppler.plan.cache import CacheType
from doppler.store.folder import FolderStorage

WINDOWED, STATEFUL = "gemma-3-270m", "lfm2-1.2b"
MOST = 1 << 30


@dataclass
class ToyBinder:
    """Buffers of a layout in Python's memory."""

    buffers: dict[str, bytearray]
    uploaded: int = 0
    device: Any = field(
        default_factory=lambda: SimpleNamespace(kernels=SimpleNamespace(digest=lambda: "kernels"))
    )

    async def start_gather(self, views: Sequence[View]) -> Buffer:
        await asyncio.sleep(0)
        return b"".join(self.part(view) for view in views)

    def upload(self, view: View, data: Buffer, start: int) -> None:
        self.uploaded += view.size
        self.buffers[view.buffer][view.offset : view.offset + view.size] = bytes(
            data[start : start + view.size]
        )
        assert start + view.size <= len(data)

    def part(self, view: View) -> bytes:
        return bytes(self.buffers[view.buffer][view.offset : view.offset + view.size])


class Cache:
    """A cache whose rows say which layer, kind, head, position and id they are of."""

    def __init__(
        self,
        shape: str,
        context: int,
        batch: int,
        kv: CacheType = "f16",
        bound: int = 1 << 31,
    ) -> None:
        config = replace(SHAPES[shape], layers=SHAPES[shape].layers[:6])
        self.layout = MemoryLayout(config, context, batch, kv, bound)
        sizes = self.layout.cache | self.layout.states
        self.binder = ToyBinder({name: bytearray(size) for name, size in sizes.items()})
        self.planes = planes_of(self.layout)
        slots = len(self.layout.checkpoints)
        self.ids = PrefixCache(config.layers, self.layout.capacities, context, slots)
        model = SimpleNamespace(layout=self.layout, adapter=SimpleNamespace(half=True))
        self.kept = KeptCache(cast(Any, self.binder), cast(Any, model), self.ids)

    def run(self, ids: Sequence[int], ahead: int = 0) -> int:
        """As a generation does; `ahead` positions behind the end are written in vain. -> reused"""
        reused = self.ids.rewind(ids)
        self.ids.extend(ids[reused:])
        self.ids.mark(len(ids) + ahead)
        for plane in self.planes:
            for position in range(reused, len(ids)):
                self._write(plane, position, ids[position])
            for position in range(len(ids), min(len(ids) + ahead, self.layout.context)):
                self._write(plane, position, 1 << 20)
        if (slot := self.ids.keep(len(ids) + 8)) is not None:
            for index, state in self.layout.checkpoints[slot].items():
                content = struct.pack("<q", hash((index, *ids)))
                self.binder.buffers[state.whole.buffer][:] = content * (state.whole.size // 8)
        return reused

    def check(self, ids: Sequence[int], position: int) -> None:
        """Every row is there that a token at `position` sees."""
        for plane in self.planes:
            first = max(position - plane.window + 1, 0) if plane.window else 0
            for at in range(first, position):
                rows = self._rows(plane, at)
                wanted = [self._row(plane, head, at, ids[at]) for head in range(plane.heads)]
                assert [self.binder.part(view) for view in rows] == wanted, (plane, at)

    def _write(self, plane: Plane, position: int, token: int) -> None:
        for head, view in enumerate(self._rows(plane, position)):
            row = self._row(plane, head, position, token)
            self.binder.buffers[view.buffer][view.offset : view.offset + view.size] = row

    def _rows(self, plane: Plane, position: int) -> list[View]:
        index = position % plane.capacity
        return [
            View(view.buffer, (head * plane.capacity + index) * plane.row, plane.row)
            for count, view in plane.slices
            for head in range(count)
        ]

    def _row(self, plane: Plane, head: int, position: int, token: int) -> bytes:
        what = struct.pack("<HHI", 2 * plane.layer + (plane.kind == "keys"), head, position)
        return (what + struct.pack("<Q", token)) * (plane.row // 16)


def save(cache: Cache, folder: SegmentFolder, most: int = MOST) -> bool:
    return asyncio.run(cache.kept.save(folder, most))


def restore(cache: Cache, folder: SegmentFolder, ids: Sequence[int]) -> int:
    """How many ids are in the cache then."""
    asyncio.run(cache.kept.restore(folder, ids, lambda: False))
    return len(cache.ids.ids)


@pytest.fixture
def folder(tmp_path: Path) -> SegmentFolder:
    return SegmentFolder(FolderStorage(tmp_path), MemoryBuffers())


def ids_of(count: int, seed: int = 1) -> list[int]:
    found: list[int] = np.random.default_rng(seed).integers(0, 1000, count).tolist()
    return found


@pytest.mark.parametrize("bound", [1 << 31, 1 << 20])
@pytest.mark.parametrize("kv", ["f16", "f32", "q8"])
def test_a_conversation_fits_caches_of_other_sizes(
    monkeypatch: pytest.MonkeyPatch,
    folder: SegmentFolder,
    tmp_path: Path,
    kv: CacheType,
    bound: int,
) -> None:
    """Turn by turn, with rings that wrap; what is restored can be cut back, or says that not."""
    monkeypatch.setattr(kept_cache, "CHUNK", 100_000)
    monkeypatch.setattr(segments, "CHUNK", 100_000)
    first = Cache(WINDOWED, 4096, 64, kv)
    ids = ids_of(1900)
    for length in (300, 700, 1500, 1900):
        first.run(ids[:length], ahead=50)
        assert save(first, folder)
    assert len(list(tmp_path.iterdir())) == 4
    assert not save(first, folder)  # nothing is new
    for context, batch in ((4096, 64), (8192, 512), (2048, 16), (1950, 700)):
        other = Cache(WINDOWED, context, batch, kv, bound)
        assert restore(other, folder, [*ids, 1]) == 1900
        other.check(ids, 1900)
        reusable = 0
        for cut in (1899, 1880, 1850, 1700, 1300, 900, 100):
            if other.ids.reusable([*ids[:cut], 5]) == cut:
                other.check(ids, cut)
                reusable += 1
        assert 1 <= reusable < 7
        longer = [*ids, *ids_of(40, 2)]
        assert other.run(longer) == 1900
        other.check(longer, 1940)


def test_prompts_that_are_shorter_or_other(folder: SegmentFolder) -> None:
    """Where rings lack what is seen from the last shared id on, an earlier end will do."""
    first = Cache(WINDOWED, 4096, 64)
    ids = ids_of(1500)
    for length in (400, 1450, 1500):
        first.run(ids[:length])
        assert save(first, folder)
    for shared, wanted in ((1500, 1500), (1490, 1490), (1400, 1400), (1000, 400), (399, 399)):
        other = Cache(WINDOWED, 4096, 64)
        assert restore(other, folder, [*ids[:shared], 2000, 3]) == wanted
        other.check(ids, wanted)
    other = Cache(WINDOWED, 4096, 64)
    other.run(ids[:380])
    assert restore(other, folder, [*ids[:390], 2000]) == 380  # what is there is nearly as much
    assert other.binder.uploaded == 0


def test_another_course_replaces_what_is_kept(folder: SegmentFolder, tmp_path: Path) -> None:
    first = Cache(WINDOWED, 2048, 64)
    ids = ids_of(900)
    for length in (400, 600, 900):
        first.run(ids[:length])
        save(first, folder)
    first.run(ids[:500])
    assert not save(first, folder)  # all of it is kept, and more
    assert len(list(tmp_path.iterdir())) == 3
    first.run([*ids[:500], *ids_of(200, 2)])
    assert save(first, folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0-400", "400-700"]


def test_a_prompt_has_a_segment_of_its_own(folder: SegmentFolder, tmp_path: Path) -> None:
    """Another answer, or one whose thoughts are left out later, rewrites nothing before it."""
    cache = Cache(WINDOWED, 2048, 64)
    ids = ids_of(900)
    cache.run(ids[:500])
    assert asyncio.run(cache.kept.save(folder, MOST, 300))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0-300", "300-500"]
    before = (tmp_path / "0-300").stat().st_mtime_ns
    cache.run(other := [*ids[:300], *ids_of(300, 2)])
    assert asyncio.run(cache.kept.save(folder, MOST, 450))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0-300", "300-450", "450-600"]
    assert (tmp_path / "0-300").stat().st_mtime_ns == before
    restored = Cache(WINDOWED, 4096, 16)
    assert restore(restored, folder, [*other, 1]) == 600
    restored.check(other, 600)


def test_what_other_code_kept_is_not_used(
    folder: SegmentFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, ids = Cache(WINDOWED, 2048, 64), ids_of(400)
    cache.run(ids)
    assert save(cache, folder)
    assert restore(Cache(WINDOWED, 2048, 64), folder, [*ids, 1]) == 400
    source = Path(planes.__file__).read_text()
    (tmp_path / "planes.py").write_text(source + "\n# laid out in another way")
    other = SourceFileLoader(planes.__name__, str(tmp_path / "planes.py"))
    monkeypatch.setattr(planes, "__loader__", other)
    code_digest.cache_clear()
    try:
        assert restore(Cache(WINDOWED, 2048, 64), folder, [*ids, 1]) == 0
    finally:
        code_digest.cache_clear()


def test_what_no_prompt_could_go_on_from_is_not_kept(folder: SegmentFolder, tmp_path: Path) -> None:
    """Of layers with a window: their rings have lost what is seen from there."""
    cache = Cache(WINDOWED, 2048, 64)
    ids = ids_of(1500)
    cache.run(ids)
    assert asyncio.run(cache.kept.save(folder, MOST, 800))
    assert [path.name for path in tmp_path.iterdir()] == ["0-1500"]
    assert restore(Cache(WINDOWED, 2048, 64), folder, [*ids, 1]) == 1500
    cache.ids.cut(600)
    assert not save(cache, SegmentFolder(FolderStorage(tmp_path / "cut"), MemoryBuffers()))
    assert not (tmp_path / "cut").exists()


def test_a_state_is_kept_where_a_segment_ends(folder: SegmentFolder) -> None:
    first = Cache(STATEFUL, 2048, 64)
    ids = ids_of(900)
    first.run(ids[:500])
    assert save(first, folder)
    first.run(ids[:900])
    assert save(first, folder)
    for prompt, wanted in (([*ids, 1], 900), ([*ids[:899], 2000, 1], 500), (ids[:450], 0)):
        other = Cache(STATEFUL, 4096, 16)
        assert restore(other, folder, prompt) == wanted
        if wanted:
            other.check(ids, wanted)
            slot = other.ids.checkpoint
            assert slot is not None
            for index, state in other.layout.checkpoints[slot].items():
                content = struct.pack("<q", hash((index, *ids[:wanted])))
                assert other.binder.part(state.whole) == content * (state.whole.size // 8)
            assert other.ids.rewind(prompt) == wanted


def test_a_state_behind_the_end_of_an_answer_is_not_kept(folder: SegmentFolder) -> None:
    """What is queued behind an end token is kept as a checkpoint, of ids that nobody knows."""
    first, ids = Cache(STATEFUL, 4096, 64), ids_of(400)
    first.run(ids)
    behind = next(at for at in range(440, 500) if first.ids.keep_of_answer(at, 16) is not None)
    assert first.ids.savable == behind
    assert save(first, folder)
    second = Cache(STATEFUL, 4096, 64)
    assert restore(second, folder, [*ids_of(400), 1, 2]) <= 400
    assert second.ids.savable == first.ids.savable <= 400


def test_what_is_not_kept(folder: SegmentFolder, tmp_path: Path) -> None:
    """Few ids, what is longer than there is room for, and what changes meanwhile."""
    cache = Cache(WINDOWED, 2048, 64)
    cache.run(ids_of(200))
    assert not save(cache, folder)
    cache.run(ids_of(500))
    assert not save(cache, folder, 1 << 20)
    assert list(tmp_path.iterdir()) == []

    async def interrupted() -> bool:
        saving = asyncio.ensure_future(cache.kept.save(folder, MOST))
        while not list(tmp_path.iterdir()):
            await asyncio.sleep(0)
        cache.ids.mark(600)
        return await saving

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kept_cache, "CHUNK", 10_000)
        assert not asyncio.run(interrupted())
    assert list(tmp_path.iterdir()) == []


class Folders:
    """What is kept, of one conversation; counts how often room is made."""

    def __init__(self, folder: SegmentFolder) -> None:
        self.folder, self.rooms = folder, 0

    async def most(self) -> int:
        return MOST

    @asynccontextmanager
    async def open(self, identity: str, conversation: str) -> AsyncIterator[SegmentFolder]:
        yield self.folder

    async def make_room(self, identity: str, conversation: str) -> None:
        self.rooms += 1


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Who writes more to one is told that there is no room."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(("most", "rooms"), [(1 << 18, 1), (1 << 30, 1), (None, 0)])
def test_room_is_made_also_after_a_save_that_had_none(
    folder: SegmentFolder, tmp_path: Path, most: int | None, rooms: int
) -> None:
    """None: the save is stopped, twice. What was not written whole is gone then."""
    cache, kept = Cache(WINDOWED, 2048, 64), Folders(folder)
    cache.run(ids_of(500))
    engine = SimpleNamespace(keeping=lambda: cache.kept)
    keeper = Keeper(cast(Engine, engine), cast(Kept, kept), "model")

    async def saved() -> None:
        keeper.begin("talk", 0)
        if most is None:
            while not list(tmp_path.iterdir()):
                await asyncio.sleep(0)
            keeper.stop()
            await asyncio.sleep(0)
            await keeper.stopped()
        await keeper.finished()

    with pytest.MonkeyPatch.context() as patch, files_of_at_most(most or 1 << 30):
        patch.setattr("doppler.api.keeper.IDLE_SECONDS", 0)
        patch.setattr(kept_cache, "CHUNK", 100_000)
        asyncio.run(saved())
    assert (kept.rooms, len(list(tmp_path.iterdir()))) == (rooms, int(most == 1 << 30))


@pytest.mark.parametrize("damage", ["data", "about", "length", "cut", "other name", "other cache"])
def test_what_is_damaged_is_removed(folder: SegmentFolder, tmp_path: Path, damage: str) -> None:
    """What comes before it is used."""
    cache = Cache(WINDOWED, 2048, 64)
    ids = ids_of(900)
    for length in (400, 600, 900):
        cache.run(ids[:length])
        save(cache, folder)
    path = tmp_path / "400-600"
    data = bytearray(path.read_bytes())
    match damage:
        case "data" | "about" | "length":
            data[{"data": 5000, "about": -50, "length": -34}[damage]] ^= 1
        case "cut":
            del data[1000:]
        case "other name":
            path.rename(tmp_path / "0-600")
            path = tmp_path / "400-600 (1)"
        case "other cache":
            other = Cache(WINDOWED, 2048, 64, kv="f32")
            assert restore(other, folder, [*ids, 1]) == 0
            assert list(tmp_path.iterdir()) == []
            return
    path.write_bytes(data)
    other = Cache(WINDOWED, 2048, 64)
    assert restore(other, folder, [*ids, 1]) == 400
    other.check(ids, 400)
    assert [path.name for path in tmp_path.iterdir()] == ["0-400"]

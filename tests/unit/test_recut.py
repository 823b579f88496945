"""The same model in other shards: its manifest, its folder, and files of any cut as a source."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from doppler.cli import main
from doppler.convert.convert import convert_path
from doppler.errors import FormatError, RequestError, StorageError
from doppler.inputs.buffers import Buffer, MemoryBuffers
from doppler.inputs.source import Source, folder_sources
from doppler.store.cut import cut_to_store, is_same_cut, recut
from doppler.store.folder import FolderStorage
from doppler.store.manifest import BLOCK_SIZE, Manifest
from doppler.store.places import Place
from doppler.store.shards import ShardStore
from doppler.store.sources.files import FileShards
from storable import SHARD, storable

MODEL = storable()
COUNT = len(MODEL.manifest.blocks)
LAST = MODEL.manifest.shards[-1].bytes
SIZES = [BLOCK_SIZE, 3 * BLOCK_SIZE, 8 * BLOCK_SIZE, 1 << 40]
SOURCE = Path(__file__).parents[1] / "fixtures" / "gpt-oss-like"


def quiet(done: int, total: int) -> None:
    """Progress that nobody watches."""


def manifest_of(folder: Path) -> Manifest:
    return Manifest.from_json((folder / "manifest.json").read_text(), "manifest")


@pytest.mark.parametrize("size", SIZES)
def test_another_cut_is_the_same_model(size: int) -> None:
    cut = recut(MODEL.manifest, size)
    assert cut.identity == MODEL.manifest.identity
    assert cut.blocks == MODEL.manifest.blocks
    assert {shard.bytes for shard in cut.shards[:-1]} <= {size}
    assert sum(shard.bytes for shard in cut.shards) == MODEL.manifest.bytes
    again = Manifest.from_json(cut.to_json(), "recut")
    assert again == cut
    assert json.loads(cut.to_json())["doppler"] == 2
    assert is_same_cut(recut(again, SHARD), MODEL.manifest)


def test_what_is_known_of_a_shard_stays() -> None:
    """The same cut is the same manifest; a shard that both cuts have keeps its hashes."""
    assert recut(MODEL.manifest, SHARD) is MODEL.manifest
    assert json.loads(MODEL.manifest.to_json())["doppler"] == 1
    cut = recut(MODEL.manifest, 2 * SHARD)
    assert [shard.is_hashed for shard in cut.shards] == [False, False]
    three = recut(recut(MODEL.manifest, BLOCK_SIZE), SHARD)
    assert [it for it in three.shards if it.is_hashed] == [MODEL.manifest.shards[-1]]


@pytest.mark.parametrize("size", [0, -BLOCK_SIZE, 5, BLOCK_SIZE + 256])
def test_shards_are_whole_blocks(size: int) -> None:
    with pytest.raises(RequestError, match=f"{size} is no multiple of the block size {BLOCK_SIZE}"):
        recut(MODEL.manifest, size)


def test_hashes_are_missing_in_a_recut_manifest_only() -> None:
    """A manifest of version 1 has them all, and one that is no hash is refused in any."""
    data = json.loads(recut(MODEL.manifest, BLOCK_SIZE).to_json())
    data["doppler"] = 1
    with pytest.raises(FormatError, match="blake3"):
        Manifest.from_json(json.dumps(data), "there")
    data["doppler"] = 2
    data["shards"][1]["sha256"] = "5"
    with pytest.raises(FormatError, match="sha256 of shard-00001"):
        Manifest.from_json(json.dumps(data), "there")


def test_which_cut_is_stored() -> None:
    """What lies in shards keeps its cut, and another one is refused by name."""
    served, fine = MODEL.manifest, recut(MODEL.manifest, BLOCK_SIZE)
    assert cut_to_store(served, None, False, None) is served
    assert cut_to_store(served, None, False, BLOCK_SIZE) == fine
    assert cut_to_store(served, fine, True, None) == fine
    assert cut_to_store(served, fine, True, BLOCK_SIZE) == fine
    assert is_same_cut(cut_to_store(served, fine, False, 2 * SHARD), recut(served, 2 * SHARD))
    with pytest.raises(RequestError, match=f"stored in shards of {BLOCK_SIZE} bytes, and {SHARD} "):
        cut_to_store(served, fine, True, SHARD)


def test_a_folder_is_recut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As if it had been converted so, byte for byte; what was damaged is named, and no model."""
    folder, there = tmp_path / "tiny", tmp_path / "there"
    expected = FolderStorage(tmp_path / "expected")
    convert = convert_path(SOURCE, FolderStorage(folder), MemoryBuffers(), name="tiny")
    manifest = asyncio.run(convert)
    assert len(manifest.shards) == 1
    fine = convert_path(SOURCE, expected, MemoryBuffers(), name="tiny", shard_size=BLOCK_SIZE)
    assert len(asyncio.run(fine).shards) > 1
    (folder / "quality.json").write_text("{}")
    assert main(["recut", str(folder), "--shard-size", "1M", "-o", str(there), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["id"] == manifest.identity
    assert (told["shards_before"], told["shards"]) == (1, len(manifest_of(there).shards))
    (there / "quality.json").unlink()
    made = {path.name: path.read_bytes() for path in there.iterdir()}
    assert made == {path.name: path.read_bytes() for path in expected.folder.iterdir()}
    assert main(["verify", str(there)]) == 0
    assert main(["recut", str(there), "--shard-size", "1G", "-o", str(there / "b")]) == 0
    assert f"the identity is {manifest.identity} still" in capsys.readouterr().out
    assert (there / "b" / "manifest.json").read_bytes() == (folder / "manifest.json").read_bytes()

    damaged = there / "shard-00001.bin"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    assert main(["recut", str(there), "--shard-size", "1G", "-o", str(there / "b")]) == 2
    assert "has a manifest.json already" in capsys.readouterr().err
    assert main(["verify", str(there / "b")]) == 0
    assert main(["recut", str(there), "--shard-size", "1G", "-o", str(there / "c")]) == 1
    assert "block 31 of shard-00001.bin" in capsys.readouterr().err
    assert not (there / "c" / "manifest.json").exists()
    assert main(["recut", str(there), "--shard-size", "5", "-o", str(there / "c")]) == 2
    assert main(["recut", str(there), "--shard-size", "1M", "-o", str(there)]) == 2
    assert "give -o another folder" in capsys.readouterr().err


class Bench:
    """An empty store of the model in some cut, and files of another."""

    def __init__(self, folder: Path, stored: int = SHARD, cut: int = SHARD) -> None:
        self.cut, self.given = recut(MODEL.manifest, cut), folder / "given"
        self.given.mkdir()
        for shard in self.cut.shards:
            data = MODEL.data[shard.offset : shard.offset + shard.bytes]
            (self.given / shard.name).write_bytes(data)
        manifest = recut(MODEL.manifest, stored)
        self.storage = FolderStorage(folder / "stored")
        self.store = ShardStore(manifest, self.storage, [], MemoryBuffers())

    def take(self, store: ShardStore | None = None) -> tuple[int, dict[str, str]]:
        """Bytes that are lacking then, and what is wrong with files."""
        store = store or self.store
        files: Mapping[str, Source] = folder_sources(self.given)

        async def taken() -> tuple[int, dict[str, str]]:
            source = await FileShards.among(files, self.cut)
            lacking = await store.take(source, quiet)
            assert store.scheduler.sources == []
            for index in range(COUNT):
                block = await store.given(index)
                assert block is None or bytes(block) == MODEL.block(index)
            assert await store.stored_bytes() == MODEL.manifest.bytes - lacking
            return lacking, source.problems()

        return asyncio.run(taken())


@pytest.mark.parametrize(("stored", "cut"), [(SHARD, SHARD), (SHARD, BLOCK_SIZE), (SHARD, 1 << 40)])
def test_files_of_any_cut(tmp_path: Path, stored: int, cut: int) -> None:
    bench = Bench(tmp_path, stored, cut)
    assert bench.take() == (0, {})
    for index, shard in enumerate(MODEL.manifest.shards):
        assert (bench.storage.folder / shard.name).read_bytes() == MODEL.shard(index)


def test_what_is_good_of_bad_files_is_stored(tmp_path: Path) -> None:
    """A bit is flipped in one, one is cut off, one is missing; good ones go on from there."""
    bench = Bench(tmp_path)
    first, second, third, fourth = (bench.given / it.name for it in bench.cut.shards)
    good = first.read_bytes(), second.read_bytes(), third.read_bytes()
    first.write_bytes(
        good[0][:BLOCK_SIZE] + bytes([good[0][BLOCK_SIZE] ^ 1]) + good[0][BLOCK_SIZE + 1 :]
    )
    second.write_bytes(good[1][: 2 * BLOCK_SIZE + 100])
    third.unlink()
    fourth.write_bytes(fourth.read_bytes() + b"more")
    lacking, problems = bench.take()
    assert lacking == (1 + 2 + 4) * BLOCK_SIZE
    assert "1 of its 4 blocks are not the manifest's" in problems.pop(first.name)
    assert "cut off: it has 2,097,252 bytes of 4,194,304" in problems.pop(second.name)
    assert f"it has {LAST + 4:,} bytes, and the shard {LAST:,}" in problems.pop(fourth.name)
    assert problems == {}
    for path, data in zip((first, second, third), good, strict=True):
        path.write_bytes(data)
    fourth.unlink()  # which is stored
    assert bench.take() == (0, {})


def test_files_in_the_wrong_order(tmp_path: Path) -> None:
    """Blocks are what their hashes say, not what the file is called."""
    bench = Bench(tmp_path)
    first, second = (bench.given / it.name for it in bench.cut.shards[:2])
    first.rename(tmp_path / "aside")
    second.rename(first)
    (tmp_path / "aside").rename(second)
    lacking, problems = bench.take()
    assert lacking == 2 * SHARD
    assert {name: text[:18] for name, text in problems.items()} == {
        first.name: "4 of its 4 blocks ",
        second.name: "4 of its 4 blocks ",
    }


def test_damage_in_storage_is_mended_from_files(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.take()
    path = bench.storage.folder / MODEL.manifest.shards[2].name
    path.write_bytes(b"?" + path.read_bytes()[1:])
    assert bench.take() == (0, {})
    assert path.read_bytes() == MODEL.shard(2)


def test_no_room(tmp_path: Path) -> None:
    class Full(FolderStorage):
        async def write(self, name: str, offset: int, data: Buffer) -> None:
            raise StorageError("full")

    bench = Bench(tmp_path)
    full = Full(tmp_path / "stored")
    with pytest.raises(StorageError, match="full"):
        bench.take(ShardStore(MODEL.manifest, full, [], MemoryBuffers()))


def test_what_had_to_leave_again_is_lacking(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.store.blocks.budget = 5 * BLOCK_SIZE
    assert bench.take() == ((COUNT - 5) * BLOCK_SIZE, {})  # the last one, which is short, is there


def test_whoever_waits_gets_it_from_the_files(tmp_path: Path) -> None:
    """A download that stalls ends with what the files have."""

    class Silent:
        at_once, in_order = 3, True

        def where(self, place: Place) -> str:
            return "nowhere"

        def has(self, index: int) -> bool:
            return False

        def fetch(self, places: object, urgency: object) -> object:
            raise AssertionError("it has nothing")

        def hurry(self, index: int, urgency: object) -> None:
            pass

        def blame(self, index: int) -> bool:
            return False

    bench = Bench(tmp_path)

    async def test() -> None:
        bench.store.scheduler.add(Silent())  # type: ignore[arg-type]
        waiting = asyncio.ensure_future(bench.store.download(quiet))
        await asyncio.sleep(0.05)
        source = await FileShards.among(folder_sources(bench.given), bench.cut)
        assert await bench.store.take(source, quiet) == 0
        await asyncio.wait_for(waiting, 10)

    asyncio.run(test())

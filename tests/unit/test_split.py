"""Split GGUF files, as the gguf package writes them: the whole file's model, or why not."""

from __future__ import annotations

import asyncio
import tracemalloc
from pathlib import Path

import pytest

from doppler.convert.convert import convert_gguf, convert_path, model_name
from doppler.errors import FormatError, SourceError
from doppler.formats.parts import models_among
from doppler.inputs.buffers import MemoryBuffers
from doppler.inputs.source import FileSource
from doppler.store.folder import FolderStorage
from doppler.store.manifest import BLOCK_SIZE, Manifest
from doppler.store.verify import verify
from gguf_files import gguf_bytes, llama_metadata, llama_tensors, split_gguf, write_llama

Values = dict[str, int]


def convert(source: Path, folder: Path) -> Manifest:
    storage = FolderStorage(folder)
    return asyncio.run(convert_path(source, storage, MemoryBuffers(), shard_size=BLOCK_SIZE))


def refused(source: Path) -> str:
    """Why a path cannot be converted."""
    with pytest.raises(FormatError) as caught:
        convert(source, source.parent / "refused")
    assert not (source.parent / "refused").exists()
    return str(caught.value)


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """2.6 MB of weights: blocks and shards of it lie across parts."""
    tensors = llama_tensors("Q8_0")
    tensors["rope_freqs.weight"] = ("F32", (32,), b"\0\0\x80\x3f" * 32)
    path = tmp_path / "Tiny.gguf"
    path.write_bytes(gguf_bytes(llama_metadata(), tensors))
    return path


@pytest.fixture
def parts(tmp_path: Path, whole: Path) -> list[Path]:
    """The same in four parts, in a folder of their own; the first has no tensors."""
    return split_gguf(whole, tmp_path / "split", 7)


def test_any_part_and_the_folder_give_the_whole_model(
    tmp_path: Path, whole: Path, parts: list[Path]
) -> None:
    assert [path.name for path in parts] == [f"Tiny-0000{n}-of-00004.gguf" for n in (1, 2, 3, 4)]
    expected = convert(whole, tmp_path / "whole")
    assert len(expected.shards) > 1
    assert expected.config.ropes[0].factors == (1.0,) * 32
    for index, source in enumerate([*parts, parts[0].parent]):
        out = tmp_path / f"out-{index}"
        manifest = convert(source, out)
        assert manifest.blocks == expected.blocks
        assert manifest.identity == expected.identity
        assert (manifest.title, manifest.tokenizer) == (expected.title, expected.tokenizer)
        asyncio.run(verify(FolderStorage(out), manifest, MemoryBuffers()))


def test_parts_whose_first_has_tensors(tmp_path: Path, whole: Path) -> None:
    parts = split_gguf(whole, tmp_path / "split", 12, small_first=False)
    expected, manifest = convert(whole, tmp_path / "a"), convert(parts[1], tmp_path / "b")
    assert len(parts) == 2
    assert manifest.blocks == expected.blocks


def test_files_of_other_names_in_any_order(tmp_path: Path, whole: Path, parts: list[Path]) -> None:
    """What is picked in the page may be called anything: the headers tell which part is which."""
    renamed = [path.rename(path.with_name(f"{9 - i}.gguf")) for i, path in enumerate(parts)]
    sources = [FileSource(path) for path in sorted(renamed)]
    storage = FolderStorage(tmp_path / "out")
    manifest = asyncio.run(convert_gguf(sources, storage, MemoryBuffers(), name="x"))
    assert manifest.blocks == convert(whole, tmp_path / "whole").blocks


def test_a_folder_with_one_file(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    path = write_llama(tmp_path / "one" / "x.gguf")
    (tmp_path / "one" / "config.json").write_text("{}")  # repositories of GGUF files have it too
    one, other = convert(path, tmp_path / "a"), convert(tmp_path / "one", tmp_path / "b")
    assert one.blocks == other.blocks


def test_a_folder_with_several_models(parts: list[Path]) -> None:
    write_llama(parts[0].with_name("other.gguf"))
    message = refused(parts[0].parent)
    assert "split holds 2 GGUF models (Tiny, other): give a file of the one" in message


def test_missing_parts_are_named(parts: list[Path]) -> None:
    parts[2].unlink()
    for source in (parts[0], parts[3], parts[0].parent):
        message = refused(source)
        assert "part 3 (Tiny-00003-of-00004.gguf) is missing; put all parts into one" in message
    with pytest.raises(SourceError, match=r"Tiny-00003-of-00004\.gguf cannot be read"):
        convert(parts[2], parts[0].parent / "out")
    alone = parts[1].rename(parts[0].parent.parent / "alone.gguf")
    message = refused(alone)
    assert message.startswith("alone.gguf is part 2 of 4, and part 1, 3, 4 is missing"), message
    assert "choose all of them at once in the page" in message


def part(path: Path, values: Values, tensors: list[str]) -> Path:
    """A part made by hand, with the tiny model's tensors of these names."""
    keys = {f"split.{key}": ("i32", value) for key, value in values.items()}
    first = llama_metadata() if values.get("no") == 0 else {}
    every = llama_tensors()
    path.write_bytes(gguf_bytes(first | keys, {name: every[name] for name in tensors}))
    return path


NAMES = list(llama_tensors())
ALL = len(NAMES)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ({"no": 0, "count": 2}, {"no": 1, "count": 3}, "is part 2 of 3, as its header says"),
        ({"no": 0, "count": 2}, {"no": 0, "count": 2}, "is part 1 of 2, as its header says"),
        ({"no": 0, "count": 2}, {}, "x-00002-of-00002.gguf is a model of its own"),
        ({"no": 2, "count": 2}, {"no": 1, "count": 2}, "split.no is 2 and split.count 2"),
        ({"no": 0, "count": 2}, {"no": 1, "count": 2, "tensors.count": 9}, "and 9 in the other"),
    ],
)
def test_headers_that_contradict(
    tmp_path: Path, first: Values, second: Values, message: str
) -> None:
    total = {"tensors.count": ALL}
    path = part(tmp_path / "x-00001-of-00002.gguf", total | first, NAMES[:5])
    part(tmp_path / "x-00002-of-00002.gguf", total | second if second else {}, NAMES[5:])
    told = refused(path)
    assert message in told
    assert "x-0000" in told


@pytest.mark.parametrize(
    ("names", "values", "message"),
    [
        (
            ["a", "b"],
            [(0, 2), (1, 3)],
            "a.gguf and b.gguf are not parts of one model: one is part 1",
        ),
        (
            ["a", "b"],
            [(1, 2), (1, 2)],
            "a.gguf and b.gguf are not parts of one model: each is part 2",
        ),
        (["a", "b"], [(0, 1), (0, 1)], "each is a model of its own"),
        (
            ["a-00001-of-00002", "b-00002-of-00002"],
            [(0, 2), (1, 2)],
            "b-00002-of-00002.gguf are not parts of one model: their names differ",
        ),
    ],
)
def test_files_that_do_not_belong_together(
    tmp_path: Path, names: list[str], values: list[tuple[int, int]], message: str
) -> None:
    """As they are picked together in the page."""
    paths = [
        part(tmp_path / f"{name}.gguf", {"no": no, "count": n, "tensors.count": ALL}, NAMES[at::2])
        for at, (name, (no, n)) in enumerate(zip(names, values, strict=True))
    ]
    storage = FolderStorage(tmp_path / "out")
    sources = [FileSource(path) for path in paths]
    with pytest.raises(FormatError) as caught:
        asyncio.run(convert_gguf(sources, storage, MemoryBuffers(), name="x"))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("total", "own", "message"),
    [
        (ALL, NAMES[4:], f"tensor '{NAMES[4]}' is in x-00001-of-00002.gguf and in x-00002-of-"),
        (ALL + 1, NAMES[5:], f"split.tensors.count is {ALL + 1}, and the 2 parts have {ALL} tens"),
    ],
)
def test_tensors_that_do_not_add_up(
    tmp_path: Path, total: int, own: list[str], message: str
) -> None:
    values = {"count": 2, "tensors.count": total}
    path = part(tmp_path / "x-00001-of-00002.gguf", values | {"no": 0}, NAMES[:5])
    part(tmp_path / "x-00002-of-00002.gguf", values | {"no": 1}, own)
    assert message in refused(path)


def test_a_truncated_part_is_named(parts: list[Path]) -> None:
    parts[2].write_bytes(parts[2].read_bytes()[:-100])
    assert refused(parts[0]).startswith("Tiny-00003-of-00004.gguf is truncated: ")


def test_a_merged_file_is_whole(tmp_path: Path) -> None:
    path = part(tmp_path / "merged.gguf", {"no": 0, "count": 0, "tensors.count": 7}, NAMES)
    expected = convert(write_llama(tmp_path / "whole.gguf"), tmp_path / "a")
    assert convert(path, tmp_path / "b").blocks == expected.blocks


@pytest.mark.parametrize("count", [2**32 - 1, 2**31 - 1, 100_000, 99_999])
def test_parts_that_are_claimed_cost_nothing(tmp_path: Path, count: int) -> None:
    keys = {"split.no": 0, "split.count": count, "split.tensors.count": ALL}
    path = tmp_path / "x.gguf"
    path.write_bytes(gguf_bytes(llama_metadata() | keys, {}))
    tracemalloc.start()
    message = refused(path)
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()
    assert "part 2, 3, 4 and 99995 more" in message or f"split.count is {count}, and" in message


@pytest.mark.parametrize("numbers", ["00002-of-00001", "00001-of-00000", "00000-of-00003"])
def test_a_name_of_a_part_that_no_set_has(tmp_path: Path, numbers: str) -> None:
    """Such a file is one like any other, given itself or in a folder."""
    path = write_llama(tmp_path / f"x-{numbers}.gguf")
    for source in (path, tmp_path):
        assert len(convert(source, tmp_path / "out").blocks) == 1


def test_one_file_with_a_name_of_very_many(tmp_path: Path) -> None:
    """The header says that it is a model of its own."""
    path = write_llama(tmp_path / "x-00001-of-99999.gguf")
    assert "is a model of its own, as its header says" in refused(path)


def test_a_folder_of_parts_of_many_sets(tmp_path: Path) -> None:
    names = [f"m{i}-00001-of-99999.gguf" for i in range(500)]
    assert models_among(names) == [[name] for name in sorted(names)]
    for name in names[:9]:
        (tmp_path / name).write_bytes(b"")
    message = refused(tmp_path)
    assert "holds 9 GGUF models (m0, m1, m2, …)" in message


def test_names_of_models() -> None:
    assert model_name("Gemma-3-4B.Q4_K_M-00002-of-00003.gguf") == "gemma-3-4b.q4_k_m"

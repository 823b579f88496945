"""Files of this disk: small ones that are not small, and any that change while they are read."""

from __future__ import annotations

import asyncio
import shutil
import tracemalloc
from pathlib import Path

import pytest

from doppler.convert.convert import convert_path
from doppler.errors import FormatError, SourceError
from doppler.inputs.buffers import MemoryBuffers
from doppler.inputs.small import LIMITS
from doppler.inputs.source import FileSource
from doppler.store.folder import FolderStorage

FOLDER = Path(__file__).parents[1] / "fixtures" / "llama32-like"
# Those that no conversion reads.
OTHERS = ("manifest.json", "origin.json", "import.json", "list of files")
OTHERS += ("adapter_config.json", "adapter.json")
READ = [name for name in LIMITS if name not in OTHERS]


@pytest.mark.parametrize("name", READ)
def test_files_of_gigabytes(name: str, tmp_path: Path) -> None:
    """They are sparse: only a reader would make them real."""
    folder = tmp_path / "checkpoint"
    shutil.copytree(FOLDER, folder)
    tokenizer = folder / "tokenizer.json"
    if not tokenizer.exists():
        tokenizer.write_text('{"model": {"vocab": {"a": 0}}}')
    with (folder / name).open("ab") as file:
        file.truncate(3_000_000_000)
    work = convert_path(folder, FolderStorage(tmp_path / "out"), MemoryBuffers())
    tracemalloc.start()
    try:
        with pytest.raises(FormatError) as caught:
            asyncio.run(work)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert message.startswith(f"{name} has 3,000,000,000 bytes, more than the {LIMITS[name]:,}")
    assert not (tmp_path / "out").exists()


def test_a_file_that_changes_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"first version")
    source = FileSource(path)
    assert asyncio.run(source.read(0, 5)) == b"first"
    assert asyncio.run(source.read(6, 7)) == b"version"
    (tmp_path / "other").write_bytes(b"other version")
    (tmp_path / "other").replace(path)
    with pytest.raises(SourceError, match="changed since it was first read"):
        asyncio.run(source.read(6, 7))

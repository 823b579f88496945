"""Reading ahead: in order, a few at a time, with errors where they belong."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path

import pytest

from doppler.errors import CorruptError
from doppler.inputs.buffers import MemoryBuffers
from doppler.store.folder import FolderStorage
from doppler.store.shards import ShardStore
from doppler.weights.read_ahead import AHEAD, ReadAhead, Windows, measure_reading
from storable import storable

COUNT = 12


class Reader:
    """Gives b"0", b"1", …, of which some are bad; counts what is being read."""

    def __init__(self, bad: frozenset[int] = frozenset()) -> None:
        self.bad, self.begun, self.running, self.most = bad, list[int](), 0, 0

    async def __call__(self, index: int) -> bytes:
        self.begun.append(index)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(0.001 * (COUNT - index))  # later ones are there sooner
        finally:
            self.running -= 1
        if index in self.bad:
            raise CorruptError(f"part {index}")
        return str(index).encode()


def test_parts_in_order_a_few_at_a_time() -> None:
    reader = Reader()

    async def read() -> list[bytes]:
        async with aclosing(ReadAhead(reader, COUNT)) as ahead:
            return [await ahead.get(index) for index in range(COUNT) for _ in range(2)]

    assert asyncio.run(read()) == [str(index).encode() for index in range(COUNT) for _ in range(2)]
    assert reader.begun == list(range(COUNT)), "each is read once"
    assert reader.most == 1 + AHEAD


def test_an_error_is_that_of_the_part_that_is_asked_for() -> None:
    reader = Reader(frozenset({2, 4}))

    async def read() -> list[bytes]:
        async with aclosing(ReadAhead(reader, COUNT)) as ahead:
            found = [await ahead.get(0), await ahead.get(1)]
            with pytest.raises(CorruptError, match="part 2"):
                await ahead.get(2)
            with pytest.raises(CorruptError, match="part 2"):
                await ahead.get(2)
            return [*found, await ahead.get(3)]

    assert asyncio.run(read()) == [b"0", b"1", b"3"]
    assert reader.running == 0, "closing ends what is read"


def test_jumps() -> None:
    """What lies behind, or far ahead, is let go and read again where it is asked for."""
    reader = Reader()

    async def read() -> list[bytes]:
        async with aclosing(ReadAhead(reader, COUNT)) as ahead:
            return [await ahead.get(index) for index in (10, 0, 11, 1)]

    assert asyncio.run(read()) == [b"10", b"0", b"11", b"1"]
    assert reader.running == 0


def test_windows_are_the_stored_bytes(tmp_path: Path) -> None:
    """Several blocks at once, over the ends of shards, and the rest at last."""
    model = storable()
    model.save(tmp_path)
    store = ShardStore(model.manifest, FolderStorage(tmp_path), (), MemoryBuffers())

    async def read() -> tuple[list[int], bytes, int]:
        async with aclosing(Windows(store)) as windows:
            blocks = [block for n in range(windows.count) for block in windows.blocks_of(n)]
            parts = [bytes(await windows.get(n)) for n in range(windows.count)]
            return blocks, b"".join(parts), (await measure_reading(store)).bytes

    blocks, data, measured = asyncio.run(read())
    assert blocks == list(range(len(model.manifest.blocks)))
    assert data == model.data
    assert measured == model.manifest.bytes

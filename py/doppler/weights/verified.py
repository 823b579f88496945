"""Where an upload gets its bytes from: blocks that are verified by the host, or by the GPU.

The host's feed hashes each block before anything of it is used. The GPU's feed uploads blocks as
they are stored, many at a time, and hashes them there, beside what else is done with them; whoever
loads asks it for the bad ones before anything is computed with the weights.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from doppler.errors import SourceError
from doppler.gpu.device import Gpu, GpuBuffer, Slice
from doppler.gpu.kernels import Device, Dispatch, Recording
from doppler.inputs.buffers import Buffer, Buffers
from doppler.store.shards import ShardStore

CHUNK = 1024  # bytes: BLAKE3's
MOST_CHUNKS = 1024  # of a block, for blake3_tree.wgsl
WINDOW = 8  # blocks that are uploaded and hashed at once
WINDOWS_AHEAD = 4  # of uploads that the GPU has not worked off
DIGEST = 32
TRIAL = 2  # blocks on which host and GPU are compared


class Feed(Protocol):
    """Bytes of a model's byte space. Offsets and lengths of `stage` are multiples of 4."""

    async def stage(self, target: GpuBuffer, offset: int, length: int) -> None:
        """Queues a copy of bytes offset .. offset + length to the beginning of `target`."""
        ...

    async def read(self, offset: int, length: int) -> bytes:
        """The bytes, for the host."""
        ...

    async def check(self, offset: int, length: int) -> None:
        """Verifies bytes that stay where they are stored."""
        ...


class HostFeed:
    """Blocks that the store has verified (and mended, where they were bad)."""

    def __init__(self, gpu: Gpu, store: ShardStore) -> None:
        self._gpu, self._store = gpu, store
        self._manifest, self._buffers = store.manifest, store.buffers
        self._block: tuple[int, Buffer] | None = None

    async def stage(self, target: GpuBuffer, offset: int, length: int) -> None:
        at = 0
        async for block, start, end in self._parts(offset, length):
            self._gpu.upload(target, at, block, start, end - start)
            at += end - start

    async def read(self, offset: int, length: int) -> bytes:
        raw = bytearray()
        async for block, start, end in self._parts(offset, length):
            raw += self._buffers.to_bytes(self._buffers.part(block, start, end))
        return bytes(raw)

    async def check(self, offset: int, length: int) -> None:
        async for _ in self._parts(offset, length):
            pass

    async def _parts(self, offset: int, length: int) -> AsyncIterator[tuple[Buffer, int, int]]:
        """(verified block, start, end) pieces that together are `length` bytes from `offset` on."""
        for index, start, end in pieces(self._manifest.block_size, offset, length):
            if self._block is None or self._block[0] != index:
                self._block = (index, await self._store.block(index))
            yield self._block[1], start, end


class GpuFeed:
    """Windows of a few blocks, uploaded once: hashed where they lie, and copied from there."""

    def __init__(self, device: Device, store: ShardStore) -> None:
        self._gpu, self._store = device.gpu, store
        self._manifest, self._buffers = store.manifest, store.buffers
        self._size = WINDOW * self._manifest.block_size
        self._hasher = Hasher(device, self._manifest.block_size, WINDOW)
        count = len(self._manifest.blocks)
        self._found = self._gpu.buffer(DIGEST * count, "staging", "digests of all blocks")
        self._hashed: set[int] = set()  # blocks
        self._window: tuple[int, Buffer] | None = None
        self._working: list[Awaitable[Any]] = []

    def release(self) -> None:
        """Gives the GPU's memory back."""
        self._hasher.release()
        self._found.destroy()
        self._window = None

    async def stage(self, target: GpuBuffer, offset: int, length: int) -> None:
        at = 0
        for index, start, end in pieces(self._size, offset, length):
            await self._load(index)
            self._gpu.copy(Slice(self._hasher.data, start, end - start), target, at)
            at += end - start

    async def read(self, offset: int, length: int) -> bytes:
        raw = bytearray()
        for index, start, end in pieces(self._size, offset, length):
            data = await self._load(index)
            raw += self._buffers.to_bytes(self._buffers.part(data, start, end))
        return bytes(raw)

    async def check(self, offset: int, length: int) -> None:
        for index, _, _ in pieces(self._size, offset, length):
            await self._load(index)

    async def bad_blocks(self) -> set[int]:
        """Those of the blocks that were used whose digest is not the manifest's."""
        found = await self._gpu.read(Slice(self._found, 0, self._found.size))
        return {
            index
            for index in self._hashed
            if found[DIGEST * index : DIGEST * (index + 1)].hex() != self._manifest.blocks[index]
        }

    async def _load(self, index: int) -> Buffer:
        """Uploads and hashes a window, unless it is the one that is there; -> the host's copy."""
        if self._window is None or self._window[0] != index:
            if len(self._working) == WINDOWS_AHEAD:
                await self._working.pop(0)
            first = index * WINDOW
            count = min(WINDOW, len(self._manifest.blocks) - first)
            data = await self._stored(first, count)
            self._hasher.hash(data, self._buffers.length(data))
            digests = Slice(self._hasher.digests, 0, DIGEST * count)
            self._gpu.copy(digests, self._found, DIGEST * first)
            self._hashed.update(range(first, first + count))
            self._working.append(asyncio.ensure_future(self._gpu.done()))
            self._window = (index, data)
        return self._window[1]

    async def _stored(self, first: int, count: int) -> Buffer:
        try:
            return await self._store.unverified(first, count)
        except SourceError:  # some of it is missing: the store knows where to get it
            blocks = [await self._store.block(index) for index in range(first, first + count)]
            data = self._buffers.empty(sum(map(self._buffers.length, blocks)))
            for index, block in enumerate(blocks):
                self._buffers.put(data, index * self._manifest.block_size, block)
            return data


class Hasher:
    """BLAKE3 of up to `most` blocks of `block_size` bytes on the GPU: `data` -> `digests`."""

    def __init__(self, device: Device, block_size: int, most: int) -> None:
        self._gpu, self._kernels, self._block_size = device.gpu, device.kernels, block_size
        gpu = device.gpu
        self.data = gpu.buffer(most * block_size, "staging", "blocks to be hashed")
        self.digests = gpu.buffer(DIGEST * most, "staging", "digests")
        self._chains = gpu.buffer(most * block_size // CHUNK * DIGEST, "staging", "chaining values")
        self._recordings: dict[int, Recording] = {}  # by length

    def release(self) -> None:
        """Gives the GPU's memory back."""
        for buffer in (self.data, self.digests, self._chains):
            buffer.destroy()
        for recording in self._recordings.values():
            recording.destroy()

    def hash(self, data: Buffer | None, length: int) -> None:
        """Queues the upload of `length` bytes (None: of what is there) and their hashing."""
        if data is not None:
            self._gpu.upload(self.data, 0, data, 0, length)
        if length not in self._recordings:
            self._recordings[length] = self._kernels.record(self._dispatches(length))
        self._kernels.run(self._recordings[length])

    async def prepare(self) -> None:
        """Compiles the kernels."""
        for dispatch in self._dispatches(self._block_size):
            await self._kernels.prepare(dispatch.variant)

    def _dispatches(self, length: int) -> list[Dispatch]:
        params = {"length": length, "block": self._block_size // CHUNK}
        data, chains, digests = (
            Slice(buffer, 0, buffer.size) for buffer in (self.data, self._chains, self.digests)
        )
        given = {
            "blake3": {"data": data, "chains": chains},
            "blake3_tree": {"chains": chains, "digests": digests},
        }
        return [
            self._kernels.dispatch(
                name, {}, bindings, params, self._kernels.grid(name, params), name
            )
            for name, bindings in given.items()
        ]


_quicker: WeakKeyDictionary[Gpu, bool] = WeakKeyDictionary()


async def is_quicker_on_gpu(device: Device, block_size: int, buffers: Buffers) -> bool:
    """Whether this device hashes blocks faster than the host: measured once, on a few of zeros.

    A processor that passes for a GPU does not, and takes seconds to compile the kernels.
    """
    gpu = device.gpu
    if gpu.is_cpu or block_size % CHUNK or block_size > MOST_CHUNKS * CHUNK:
        return False
    if gpu not in _quicker:
        began = time.perf_counter()
        buffers.blake3(buffers.empty(block_size))
        host = TRIAL * (time.perf_counter() - began)
        hasher = Hasher(device, block_size, TRIAL)
        try:
            await hasher.prepare()
            hasher.hash(None, TRIAL * block_size)
            await gpu.done()  # the first run of a pipeline takes longer
            began = time.perf_counter()
            hasher.hash(None, TRIAL * block_size)
            await gpu.done()
            _quicker[gpu] = time.perf_counter() - began < host
        finally:
            hasher.release()
    return _quicker[gpu]


def pieces(size: int, offset: int, length: int) -> list[tuple[int, int, int]]:
    """(index, start, end) of the parts of `size` bytes in which bytes offset .. + length lie."""
    found = []
    end = offset + length
    while offset < end:
        index, start = divmod(offset, size)
        stop = min(size, start + end - offset)
        found.append((index, start, stop))
        offset += stop - start
    return found

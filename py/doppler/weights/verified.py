"""Where an upload gets its bytes from: blocks that are verified by the host, or by the GPU.

The host's feed hashes each block before anything of it is used. The GPU's feed uploads blocks as
they are stored, many at a time, and hashes them there, beside what else is done with them; whoever
loads asks it for the bad ones before anything is computed with the weights.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Protocol
from weakref import WeakKeyDictionary

from doppler.gpu.device import Gpu, GpuBuffer, Slice
from doppler.gpu.kernels import Device, Dispatch, Recording
from doppler.gpu.staging import BUFFER_BYTES, BUFFERS, StagingRing
from doppler.inputs.buffers import Buffer, Buffers
from doppler.store.shards import ShardStore
from doppler.weights.read_ahead import ReadAhead, Windows

CHUNK = 1024  # bytes: BLAKE3's
MOST_CHUNKS = 1024  # of a block, for blake3_tree.wgsl
DIGEST = 32
PARAMETERS = 256  # bytes that a dispatch's take
HASHER_BUFFERS = 2  # of a GpuHasher's ring


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

    async def aclose(self) -> None:
        """Ends what is being read, and gives the GPU's memory back."""
        ...


class HostFeed:
    """Blocks that the store has verified (and mended, where they were bad).

    Its ring has BUFFERS · ring_bytes(size) bytes.
    """

    def __init__(self, gpu: Gpu, store: ShardStore, size: int) -> None:
        self._block_size, self._buffers = store.manifest.block_size, store.buffers
        blocks = partial(store.block, urgency="soon")
        self._blocks = ReadAhead(blocks, len(store.manifest.blocks))
        each = min(self._block_size, ring_bytes(size))  # a buffer of the ring takes a block
        self._ring = StagingRing(gpu, each, BUFFERS * ring_bytes(size) // each)

    async def stage(self, target: GpuBuffer, offset: int, length: int) -> None:
        at = 0
        async for block, start, end in self._parts(offset, length):
            await self._ring.upload(target, at, block, start, end - start)
            at += end - start

    async def read(self, offset: int, length: int) -> bytes:
        raw = bytearray()
        async for block, start, end in self._parts(offset, length):
            raw += self._buffers.to_bytes(self._buffers.part(block, start, end))
        return bytes(raw)

    async def check(self, offset: int, length: int) -> None:
        async for _ in self._parts(offset, length):
            pass

    async def aclose(self) -> None:
        await self._blocks.aclose()
        self._ring.destroy()

    async def _parts(self, offset: int, length: int) -> AsyncIterator[tuple[Buffer, int, int]]:
        """(verified block, start, end) pieces that together are `length` bytes from `offset` on."""
        for index, start, end in pieces(self._block_size, offset, length):
            yield await self._blocks.get(index), start, end


class GpuFeed:
    """Windows of some blocks, uploaded once: hashed where they lie, and copied from there.

    A window has `size` bytes, or a block: each costs a wait for the storage.
    """

    def __init__(self, device: Device, store: ShardStore, size: int) -> None:
        self._gpu, self._buffers = device.gpu, store.buffers
        self._expected, self._windows = store.manifest.blocks, Windows(store, size)
        self._ring = StagingRing(device.gpu, ring_bytes(size))
        self._hasher = Hasher(device, store.manifest.block_size, self._windows.blocks)
        found = DIGEST * len(self._expected)
        self._found = self._gpu.buffer(found, "staging", "digests of all blocks")
        self._hashed: set[int] = set()  # blocks
        self._there: int | None = None  # the window that the GPU has

    async def aclose(self) -> None:
        await self._windows.aclose()
        self._ring.destroy()
        self._hasher.release()
        self._found.destroy()

    async def stage(self, target: GpuBuffer, offset: int, length: int) -> None:
        at = 0
        for index, start, end in pieces(self._windows.bytes, offset, length):
            await self._load(index)
            self._gpu.copy(Slice(self._hasher.data, start, end - start), target, at)
            at += end - start

    async def read(self, offset: int, length: int) -> bytes:
        raw = bytearray()
        for index, start, end in pieces(self._windows.bytes, offset, length):
            data = await self._load(index)
            raw += self._buffers.to_bytes(self._buffers.part(data, start, end))
        return bytes(raw)

    async def check(self, offset: int, length: int) -> None:
        for index, _, _ in pieces(self._windows.bytes, offset, length):
            await self._load(index)

    async def bad_blocks(self) -> set[int]:
        """Those of the blocks that were used whose digest is not the manifest's."""
        found = await self._gpu.read(Slice(self._found, 0, self._found.size))
        return {
            index
            for index in self._hashed
            if found[DIGEST * index : DIGEST * (index + 1)].hex() != self._expected[index]
        }

    async def _load(self, index: int) -> Buffer:
        """Uploads and hashes a window, unless it is the one that is there; -> the host's copy."""
        data = await self._windows.get(index)
        if self._there != index:
            length, blocks = self._buffers.length(data), self._windows.blocks_of(index)
            await self._ring.upload(self._hasher.data, 0, data, 0, length)
            self._hasher.hash(length)
            digests = Slice(self._hasher.digests, 0, DIGEST * len(blocks))
            self._gpu.copy(digests, self._found, DIGEST * blocks.start)
            self._hashed.update(blocks)
            self._there = index
        return data


def ring_bytes(size: int) -> int:
    """Of each buffer of a ring, where `size` bytes are enough for everything else."""
    return min(size, BUFFER_BYTES)


def hashing_bytes(most: int, block_size: int, blocks: int) -> int:
    """What a GpuFeed takes on the GPU, with windows of up to `most` of a model's blocks."""
    each = block_size + DIGEST + block_size // CHUNK * DIGEST
    return most * each + DIGEST * blocks + 2 * PARAMETERS


class Hasher:
    """BLAKE3 of up to `most` blocks of `block_size` bytes on the GPU: `data` -> `digests`."""

    def __init__(self, device: Device, block_size: int, most: int) -> None:
        self._kernels, self._block_size = device.kernels, block_size
        gpu = device.gpu
        self.data = gpu.buffer(most * block_size, "staging", "blocks to be hashed")
        self.digests = gpu.buffer(DIGEST * most, "staging", "digests")
        self._chains = gpu.buffer(most * block_size // CHUNK * DIGEST, "staging", "chaining values")
        self._recorded: tuple[int, Recording] | None = None  # for the length that came last

    def release(self) -> None:
        """Gives the GPU's memory back."""
        for buffer in (self.data, self.digests, self._chains):
            buffer.destroy()
        self._forget()

    def hash(self, length: int) -> None:
        """Queues the hashing of the first `length` bytes of `data`."""
        if self._recorded is None or self._recorded[0] != length:
            self._forget()
            self._recorded = length, self._kernels.record(self._dispatches(length))
        self._kernels.run(self._recorded[1])

    def _forget(self) -> None:
        if self._recorded is not None:
            self._recorded[1].destroy()
            self._recorded = None

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


class GpuHasher:
    """BLAKE3 of stored blocks that stay with the host, by the GPU: a store's `hasher`.

    It takes `hasher_bytes` on the GPU, once it is used, for up to `most` blocks at a time.
    """

    def __init__(self, device: Device, block_size: int, most: int, buffers: Buffers) -> None:
        self._device, self._block_size, self._most = device, block_size, most
        self._buffers, self._turn = buffers, asyncio.Lock()
        self._hasher: Hasher | None = None
        self._ring: StagingRing | None = None

    async def __call__(self, data: Buffer) -> list[str]:
        """Of blocks in a row, the last of which may be shorter. Raises DeviceError."""
        found, length, step = list[str](), self._buffers.length(data), self._most * self._block_size
        async with self._turn:
            for at in range(0, length, step):
                found += await self._digests(data, at, min(step, length - at))
        return found

    async def rest(self) -> None:
        """Gives the GPU's memory back once what it hashes is done; it is taken again when used."""
        async with self._turn:
            self.release()

    def release(self) -> None:
        """Gives the GPU's memory back at once."""
        if self._hasher is not None:
            self._hasher.release()
        if self._ring is not None:
            self._ring.destroy()
        self._hasher = self._ring = None

    async def _digests(self, data: Buffer, start: int, length: int) -> list[str]:
        if self._hasher is None or self._ring is None:
            self._hasher = Hasher(self._device, self._block_size, self._most)
            size = _hasher_ring(self._block_size, self._most)
            self._ring = StagingRing(self._device.gpu, size, HASHER_BUFFERS)
        hasher, count = self._hasher, -(-length // self._block_size)
        await self._ring.upload(hasher.data, 0, data, start, length)
        hasher.hash(length)
        found = await self._device.gpu.read(Slice(hasher.digests, 0, DIGEST * count))
        return [found[at : at + DIGEST].hex() for at in range(0, len(found), DIGEST)]


def hasher_bytes(block_size: int, most: int) -> int:
    """What a GpuHasher takes on the GPU."""
    return hashing_bytes(most, block_size, 0) + HASHER_BUFFERS * _hasher_ring(block_size, most)


def _hasher_ring(block_size: int, most: int) -> int:
    return ring_bytes(most * block_size)


_quicker: WeakKeyDictionary[Gpu, dict[tuple[int, int], bool]] = WeakKeyDictionary()


async def is_quicker_on_gpu(device: Device, block_size: int, count: int, buffers: Buffers) -> bool:
    """Whether this device hashes windows of `count` blocks faster than the host: measured once, on
    zeros. Of small blocks it takes many to be worth a wait for the GPU.

    A processor that passes for a GPU does not, and takes seconds to compile the kernels.
    """
    gpu, window = device.gpu, (block_size, count)
    if gpu.is_cpu or block_size % CHUNK or block_size > MOST_CHUNKS * CHUNK:
        return False
    known = _quicker.setdefault(gpu, {})
    if window not in known:
        began = time.perf_counter()
        buffers.blake3(buffers.empty(block_size))
        host = count * (time.perf_counter() - began)
        hasher = Hasher(device, block_size, count)
        try:
            await hasher.prepare()
            hasher.hash(count * block_size)
            await gpu.done()  # the first run of a pipeline takes longer
            began = time.perf_counter()
            hasher.hash(count * block_size)
            await gpu.done()
            known[window] = time.perf_counter() - began < host
        finally:
            hasher.release()
    return known[window]


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

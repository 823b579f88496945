"""Where an upload gets its bytes from: blocks that are verified by the host, or by the GPU.

The host's feed hashes each block before anything of it is used. The GPU's feed uploads blocks as
they are stored, many at a time, and hashes them there, beside what else is done with them; whoever
loads asks it for the bad ones before anything is computed with the weights.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import Protocol

from doppler.gpu.device import Gpu, GpuBuffer, Slice
from doppler.gpu.kernels import Device
from doppler.gpu.staging import BUFFERS, StagingRing, ring_bytes
from doppler.inputs.buffers import Buffer
from doppler.store.shards import ShardStore
from doppler.weights.hashing import DIGEST, Hasher, hashing_bytes
from doppler.weights.read_ahead import ReadAhead, Windows


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


def gpu_feed_bytes(block_size: int, most: int, blocks: int) -> int:
    """What a GpuFeed takes on the GPU beside its ring, with windows of up to `most` of a model's
    blocks.
    """
    return hashing_bytes(block_size, most) + DIGEST * blocks


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

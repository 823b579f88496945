"""BLAKE3 of stored blocks on the GPU, where that is quicker than on the host."""

from __future__ import annotations

import asyncio
import time
from weakref import WeakKeyDictionary

from doppler.gpu.device import Gpu, Slice
from doppler.gpu.kernels import Device, Dispatch, Recording, recorded_bytes
from doppler.gpu.staging import StagingRing, ring_bytes
from doppler.inputs.buffers import Buffer, Buffers

CHUNK = 1024  # bytes: BLAKE3's
MOST_CHUNKS = 1024  # of a block, for blake3_tree.wgsl
DIGEST = 32
HASHER_BUFFERS = 2  # of a GpuHasher's ring


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


def hashing_bytes(block_size: int, most: int) -> int:
    """What a Hasher takes on the GPU."""
    each = block_size + DIGEST + block_size // CHUNK * DIGEST
    return most * each + recorded_bytes(2)


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
            size = ring_bytes(self._most * self._block_size)
            self._ring = StagingRing(self._device.gpu, size, HASHER_BUFFERS)
        hasher, count = self._hasher, -(-length // self._block_size)
        await self._ring.upload(hasher.data, 0, data, start, length)
        hasher.hash(length)
        found = await self._device.gpu.read(Slice(hasher.digests, 0, DIGEST * count))
        return [found[at : at + DIGEST].hex() for at in range(0, len(found), DIGEST)]


def hasher_bytes(block_size: int, most: int) -> int:
    """What a GpuHasher takes on the GPU."""
    return hashing_bytes(block_size, most) + HASHER_BUFFERS * ring_bytes(most * block_size)


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

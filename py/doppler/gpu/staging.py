"""How megabytes reach the GPU: through a ring of mapped buffers, several times `writeBuffer`."""

from __future__ import annotations

from typing import Any

from doppler.gpu.device import Gpu, GpuBuffer

BUFFERS = 4
BUFFER_BYTES = 4 << 20


class StagingRing:
    """`count` buffers of `size` bytes, a multiple of 4: while the GPU copies from some, others are
    written to.
    """

    def __init__(self, gpu: Gpu, size: int = BUFFER_BYTES, count: int = BUFFERS) -> None:
        import doppler_runtime
        from pyodide.ffi import to_js

        self._gpu = gpu
        self._buffers = [gpu.mapped_buffer(size, "staging ring") for _ in range(count)]
        self._js = doppler_runtime.stagingRing(gpu.device, to_js([it.js for it in self._buffers]))

    async def upload(
        self, buffer: GpuBuffer, offset: int, array: Any, start: int, length: int
    ) -> None:
        """Queues a copy of bytes start .. start + length of a JavaScript Uint8Array to byte
        `offset` of a buffer. Multiples of 4, offset and length.

        Waits for room in the ring. Once this returns, the array may change, and whatever is queued
        from then on finds its bytes there; of uploads at the same time, any may be queued first.
        Raises DeviceError.
        """
        from pyodide.ffi import JsException

        assert offset % 4 == length % 4 == 0, "the GPU copies words"
        try:
            await self._js.upload(buffer.js, offset, array.subarray(start, start + length))
        except JsException as error:
            raise await self._gpu.not_mapped(
                f"bringing {length} bytes to the GPU", error
            ) from error
        self._gpu.check()

    def destroy(self) -> None:
        """Gives the GPU's memory back. What was queued is copied all the same."""
        for buffer in self._buffers:
            buffer.destroy()


def ring_bytes(size: int) -> int:
    """Of each buffer of a ring, where `size` bytes are enough for everything else."""
    return min(size, BUFFER_BYTES)

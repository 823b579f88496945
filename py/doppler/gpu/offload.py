"""Rows of keys and values on their way from host memory to the GPU, and back (offload.js)."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any

from doppler.gpu.device import Gpu, Slice, js_object
from doppler.gpu.staging import BUFFER_BYTES, BUFFERS

READERS, READER_BYTES = 8, 1 << 20  # for what comes back; what goes there has a staging ring's
STEP = 256  # bytes by which sizes grow


def rings_bytes(most: int) -> int:
    """What the rings take on the GPU, where a layer's rows have up to `most` bytes."""
    up, down = _sizes(most)
    return BUFFERS * up + READERS * down


def _sizes(most: int) -> tuple[int, int]:
    """Bytes of each buffer that rows go through, and come back through: no ring needs more in all
    than a layer has.
    """
    up, down = (-(-most // (STEP * count)) * STEP for count in (BUFFERS, READERS))
    return min(up, BUFFER_BYTES), min(down, READER_BYTES)


class Offload:
    """The rings of one model. Calls must not overlap; all of them raise DeviceError."""

    def __init__(self, gpu: Gpu, most: int) -> None:
        import doppler_runtime
        from pyodide.ffi import to_js

        self._gpu = gpu
        to_gpu, from_gpu = _sizes(most)
        up = [gpu.mapped_buffer(to_gpu, "rows brought") for _ in range(BUFFERS)]
        down = [gpu.readback_buffer(from_gpu, "rows kept") for _ in range(READERS)]
        self._buffers = [*up, *down]
        rings = ([it.js for it in up], [it.js for it in down])
        self._js = doppler_runtime.offload(gpu.device, *map(to_js, rings))

    async def bring(self, data: Any, heads: Any, runs: Sequence[tuple[int, int]]) -> None:
        """Queues copies of (start, length) bytes of each head's rows, multiples of 4, from `data`,
        a JavaScript Uint8Array, to the GPU. Waits for what is still to come back to `data`.
        """
        await self._done(self._js.bring(data, heads, _js(runs)))

    async def keep(self, data: Any, heads: Any, runs: Sequence[tuple[int, int]]) -> None:
        """Queues copies of the same from the GPU, which come to `data` some time later."""
        await self._done(self._js.keep(data, heads, _js(runs)))

    async def settled(self) -> None:
        """Waits until all that was kept has come."""
        await self._done(self._js.settled())

    def destroy(self) -> None:
        """Gives the GPU's memory back; what was to come back may not."""
        for buffer in self._buffers:
            buffer.destroy()

    async def _done(self, work: Awaitable[Any]) -> None:
        from pyodide.ffi import JsException

        try:
            await work
        except JsException as error:
            raise await self._gpu.not_mapped(
                "bringing keys and values to the GPU, or back from it", error
            ) from error
        self._gpu.check()


def heads_of(heads: Sequence[tuple[Slice, int]]) -> Any:
    """For JavaScript: where the rows of each head begin on the GPU, and at which byte in `data`."""
    from pyodide.ffi import to_js

    return to_js([js_object(buffer=it.buffer.js, offset=it.offset, at=at) for it, at in heads])


def _js(runs: Sequence[tuple[int, int]]) -> Any:
    from pyodide.ffi import to_js

    return to_js([list(run) for run in runs])

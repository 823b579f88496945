"""The buffers of one model on one device, by name: plans name what they bind, and find it here."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Mapping, Sequence
from typing import Any

from doppler.gpu.device import GpuBuffer, MemoryKind, Slice
from doppler.gpu.kernels import Device, Dispatch, Recording
from doppler.gpu.step import Step, View


class Binder:
    """Allocates buffers, binds views of them, and gives all of them back together."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self._buffers: dict[str, GpuBuffer] = {}

    def allocate(self, names: Sequence[str], size: int, kind: MemoryKind) -> None:
        """One zeroed buffer of `size` bytes, a multiple of 4, that goes by each of `names`.

        Raises DeviceError where the adapter has none of that size.
        """
        buffer = self.device.gpu.buffer(size, kind, " and ".join(names))
        self._buffers |= dict.fromkeys(names, buffer)

    def __contains__(self, name: str) -> bool:
        return name in self._buffers

    def slice(self, view: View) -> Slice:
        """Where a view lies."""
        return Slice(self._buffers[view.buffer], view.offset, view.size)

    def slices(self, views: Mapping[str, View]) -> dict[str, Slice]:
        """Where each of the views lies."""
        return {name: self.slice(view) for name, view in views.items()}

    def write(self, view: View, data: bytes | bytearray, at: int = 0) -> None:
        """Copies bytes, a multiple of 4, to byte `at` of a view."""
        assert at + len(data) <= view.size
        self.device.gpu.write(self._buffers[view.buffer], view.offset + at, data)

    def start_read(self, view: View) -> Awaitable[bytes]:
        """Queues a copy of a view now; the result gives its bytes."""
        return self.device.gpu.start_read(self.slice(view))

    def start_join(self, views: Sequence[View]) -> Awaitable[bytes]:
        """Queues copies of views now; the result gives their bytes, one behind the other."""
        return self.device.gpu.start_join([self.slice(view) for view in views])

    def start_gather(self, views: Sequence[View]) -> Awaitable[Any]:
        """Queues copies of views now, one behind the other; the result is a Uint8Array of them."""
        return self.device.gpu.start_gather([self.slice(view) for view in views])

    def upload(self, view: View, array: Any, start: int) -> None:
        """Fills a view with bytes of a Uint8Array, from `start` on."""
        part = self.slice(view)
        self.device.gpu.write(part.buffer, part.offset, array.subarray(start, start + part.size))

    def record(self, steps: Iterable[Step]) -> Recording:
        """A plan, ready to be run any number of times."""
        return self.device.kernels.record([self._dispatch(step) for step in steps])

    def destroy(self) -> None:
        """Gives every buffer back."""
        for buffer in self._buffers.values():
            buffer.destroy()
        self._buffers.clear()

    def _dispatch(self, step: Step) -> Dispatch:
        kernels = self.device.kernels
        grid = kernels.grid(step.kernel, {**step.constants, **step.params}, step.tokens)
        bindings = self.slices(step.bindings)
        return kernels.dispatch(
            step.kernel, step.constants, bindings, step.params, grid, step.label
        )

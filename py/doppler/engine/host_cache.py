"""Keys and values of layers that have no room for them on the GPU: they lie in host memory.

Two such layers have room at once. Before one is run, the rows that its tokens see are brought; the
new ones go back behind it. All that goes through the queue of the GPU is in order there; what comes
back is waited for when the layer's turn comes again, or when its rows are saved.

Host memory has the rows as the GPU would: [heads, capacity] of keys, then of values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from doppler.errors import RequestError
from doppler.gpu.binder import Binder
from doppler.gpu.kernels import Device
from doppler.gpu.offload import Offload, heads_of
from doppler.gpu.step import View
from doppler.inputs.buffers import Buffer, Buffers
from doppler.plan.bindings import MemoryLayout
from doppler.plan.cache import CacheSlice, slots_of


@dataclass(frozen=True)
class HostLayer:
    """One layer's rows: `places` says at which byte of `data` each of its buffers begins."""

    data: Buffer
    places: dict[str, int]
    capacity: int  # positions
    row: int  # bytes
    window: int  # positions that a token sees; 0: all
    heads: Any  # as Offload takes them

    def runs(self, first: int, stop: int) -> list[tuple[int, int]]:
        """Positions first .. stop - 1, as bytes of each head: (start, length)."""
        slots = slots_of(self.capacity, first, stop)
        return [(slot * self.row, count * self.row) for slot, count in slots]


class HostCache:
    """The rows of the layers that a layout has in host memory."""

    def __init__(self, binder: Binder, layout: MemoryLayout, buffers: Buffers) -> None:
        self._binder, self._buffers, self._layout = binder, buffers, layout
        sizes = {index: sum(layout.cache_of(index).values()) for index in layout.hosted}
        self.bytes = sum(sizes.values())  # of host memory
        self.brought = self.read = 0  # bytes, to the GPU and from it
        self._layers = {index: self._layer(index, size) for index, size in sizes.items()}
        self._most = layout.largest_hosted
        self._rings: Offload | None = None  # once something was brought or kept

    @property
    def layers(self) -> frozenset[int]:
        """Those that it has rows of."""
        return self._layout.hosted

    @property
    def device(self) -> Device:
        """Where they are brought to."""
        return self._binder.device

    def release(self) -> None:
        """Lets all of it go."""
        if self._rings is not None:
            self._rings.destroy()
        self._layers.clear()

    async def bring(self, index: int, position: int) -> None:
        """Queues that a layer has on the GPU what tokens from `position` on see of those before it.

        Raises DeviceError.
        """
        layer = self._layers[index]
        first = max(position - layer.window + 1, 0) if layer.window else 0
        if runs := layer.runs(first, max(position, first)):
            await self._offload().bring(layer.data, layer.heads, runs)
            self.brought += self._size(layer, runs)

    async def keep(self, index: int, position: int, count: int) -> None:
        """Queues that `count` rows from `position` on, which were just run, are put here. Raises
        DeviceError.
        """
        layer = self._layers[index]
        runs = layer.runs(position, position + count)
        await self._offload().keep(layer.data, layer.heads, runs)
        self.read += self._size(layer, runs)

    async def settled(self) -> None:
        """Waits until all rows are here that were to be put here. Raises DeviceError."""
        if self._rings is not None:
            await self._rings.settled()

    async def start_gather(self, views: Sequence[View]) -> Buffer:
        """Copies of views of the cache as they are now, one behind the other, wherever they lie."""
        out, at = self._buffers.empty(sum(view.size for view in views)), 0
        there: list[tuple[View, int]] = []
        for view in views:
            if (found := self._host(view)) is None:
                there.append((view, at))
            else:
                layer, start = found
                self._buffers.put(out, at, self._buffers.part(layer.data, start, start + view.size))
            at += view.size
        if there:
            gathered = await self._binder.start_gather([view for view, _ in there])
            done = 0
            for view, at in there:
                self._buffers.put(out, at, self._buffers.part(gathered, done, done + view.size))
                done += view.size
        return out

    def upload(self, view: View, array: Buffer, start: int) -> None:
        """Fills a view of the cache, wherever it lies, with bytes of an array, from `start` on."""
        if (found := self._host(view)) is None:
            self._binder.upload(view, array, start)
            return
        layer, at = found
        self._buffers.put(layer.data, at, self._buffers.part(array, start, start + view.size))

    def _host(self, view: View) -> tuple[HostLayer, int] | None:
        """Whose rows a view's are, and where they begin; None of what is on the GPU."""
        for layer in self._layers.values():
            if view.buffer in layer.places:
                return layer, layer.places[view.buffer] + view.offset
        return None

    def _layer(self, index: int, size: int) -> HostLayer:
        slices = self._layout.cache_slices(index)
        sizes = self._layout.cache_of(index)
        starts = (0, *accumulate(sizes.values()))
        places = dict(zip(sizes, starts, strict=False))
        return HostLayer(
            self._room(size),
            places,
            slices[0].capacity,
            slices[0].row,
            self._layout.config.layers[index].window,
            heads_of([it for part in slices for it in self._heads(part, places)]),
        )

    def _room(self, size: int) -> Buffer:
        from pyodide.ffi import JsException

        try:
            return self._buffers.empty(size)
        except JsException as error:
            raise RequestError(
                f"the browser gives no {self.bytes} bytes of host memory for keys and values: "
                "load the model with a shorter context, or allow more of the GPU's memory"
            ) from error

    def _heads(self, part: CacheSlice, places: dict[str, int]) -> list[tuple[Any, int]]:
        size = part.capacity * part.row
        found = []
        for view in (part.keys, part.values):
            for head in range(part.heads):
                rows = View(view.buffer, view.offset + head * size, size)
                found.append((self._binder.slice(rows), places[view.buffer] + head * size))
        return found

    def _offload(self) -> Offload:
        if self._rings is None:
            self._rings = Offload(self._binder.device.gpu, self._most)
        return self._rings

    @staticmethod
    def _size(layer: HostLayer, runs: Sequence[tuple[int, int]]) -> int:
        return len(layer.heads) * sum(length for _, length in runs)

"""Brings the matrices of streamed layers, one layer after another, for each token or batch.

All goes through one queue: what is queued after a layer was brought finds it, what was queued
before finds what lay in its buffers until then. While the GPU works that off, the next parts are
read from storage, those of the next token too.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from doppler.gpu.binder import Binder
from doppler.gpu.kernels import Recording
from doppler.gpu.staging import BUFFERS, StagingRing, ring_bytes
from doppler.inputs.buffers import Buffer
from doppler.residency.tiers import Tier
from doppler.store.manifest import Tensor
from doppler.store.shards import ShardStore
from doppler.weights.host_tier import HostTier, Span, Unit
from doppler.weights.moves import Move, moves
from doppler.weights.placement import Streamed, Weights, aligned

PART_BYTES = 16 << 20  # of a layer that are read at once; at least a tensor
AHEAD = 2  # parts that are read while another is used


@dataclass(frozen=True)
class Staged:
    """Bytes start .. start + length of a part, and what moves them to their places."""

    start: int
    length: int
    recording: Recording


class LayerStream:
    """The streamed layers of one model, of whose bytes the host keeps up to `budget`."""

    def __init__(
        self, binder: Binder, weights: Weights, streamed: Streamed, store: ShardStore, budget: int
    ) -> None:
        self._binder, self._weights = binder, weights
        self._raw = binder.slice(streamed.raw).buffer
        self.layers = streamed.layers.keys()
        self._parts = _parts(streamed.layers)
        self._order = list(self._parts)
        self._place = {unit: place for place, unit in enumerate(self._order)}
        self._spans = spans = {unit: _span(tensors) for unit, tensors in self._parts.items()}
        self.tier = HostTier(store, _for_keeping(budget, spans), spans, periodic=True)
        self.budget = budget
        self._reads: dict[Unit, asyncio.Task[tuple[Buffer, Tier]]] = {}
        self._staged: dict[Unit, list[Staged]] = {}
        # Layers of one shape share them, parameters too. A Mover writes these before each run: a
        # copy more for each of a layer's many moves, and each token moves all layers.
        self._recordings: dict[Hashable, Recording] = {}
        self._ring: StagingRing | None = None  # once something was brought

    def release(self) -> None:
        """Gives back what is its own, and ends what is being read."""
        self.forget_recordings()
        for read in self._reads.values():
            read.cancel()
        self._reads.clear()
        self._free_ring()
        self.tier.release()

    def forget_recordings(self) -> None:
        """What moves weights is recorded anew where it is needed."""
        for recording in self._recordings.values():
            recording.destroy()
        self._recordings.clear()
        self._staged.clear()

    def resize(self, budget: int) -> None:
        """Another budget of the host from now on."""
        self.budget = budget
        self.tier.resize(_for_keeping(budget, self._spans))

    async def fill(self) -> None:
        """Brings parts into the host's memory, as far as its budget goes. Cancel it at any time."""
        await self.tier.fill()

    async def bring(self, layer: int) -> None:
        """Queues that a layer's matrices lie in its buffers.

        Raises CorruptError, SourceError or DeviceError; what lies there is of no use then.
        """
        number = 0
        while (unit := (layer, number)) in self._parts:
            await self._move(unit, await self._get(unit))
            number += 1

    async def rest(self) -> None:
        """Nothing is brought for a while: ends what is being read, and gives back what layers go
        through.
        """
        self._free_ring()
        reads = list(self._reads.values())
        self._reads.clear()
        for read in reads:
            read.cancel()
        await asyncio.gather(*reads, return_exceptions=True)

    def _free_ring(self) -> None:
        if self._ring is not None:
            self._ring.destroy()
            self._ring = None

    async def _get(self, unit: Unit) -> Buffer:
        """A part's bytes; the next ones are on their way from then on."""
        began, place = time.perf_counter(), self._place[unit]
        for step in range(1 + AHEAD):
            self._start(self._order[(place + step) % len(self._order)])
        data, tier = await self._reads.pop(unit)
        self.tier.traffic.waited({tier}, 1000 * (time.perf_counter() - began))
        return data

    def _start(self, unit: Unit) -> None:
        known = self._reads.get(unit)
        if known is None or (known.done() and (known.cancelled() or known.exception())):
            self._reads[unit] = asyncio.ensure_future(self.tier.get(unit))
            self._reads[unit].add_done_callback(_heard)

    async def _move(self, unit: Unit, data: Buffer) -> None:
        if unit not in self._staged:
            self._staged[unit] = list(self._stages(unit))
        if self._ring is None:
            self._ring = StagingRing(self._binder.device.gpu, ring_bytes(self._raw.size))
        for staged in self._staged[unit]:
            await self._ring.upload(self._raw, 0, data, staged.start, staged.length)
            self._binder.device.kernels.run(staged.recording)

    def _stages(self, unit: Unit) -> Iterator[Staged]:
        first = self.tier.range(unit).offset
        for tensor in self._parts[unit]:
            for move in moves(tensor, *self._weights.places[tensor.name], self._raw.size):
                yield Staged(move.offset - first, move.length, self._recording(move))

    def _recording(self, move: Move) -> Recording:
        dispatch = move.dispatch(self._binder, self._raw, "relayout of a streamed layer")
        key = dispatch.variant, tuple(dispatch.bindings.values()), dispatch.uniform
        if key not in self._recordings:
            self._recordings[key] = self._binder.device.kernels.record([dispatch])
        return self._recordings[key]


def ring_needed(streamed: Streamed) -> int:
    """Bytes on the GPU of what streamed layers go through."""
    return BUFFERS * ring_bytes(streamed.raw.size)


def _parts(layers: Mapping[int, Sequence[Tensor]]) -> dict[Unit, list[Tensor]]:
    """The matrices of each layer, in parts of up to PART_BYTES, in the order of their use."""
    parts = dict[Unit, list[Tensor]]()
    for layer, tensors in layers.items():
        number = 0
        for tensor in tensors:
            part = parts.setdefault((layer, number), [])
            if part and tensor.offset + tensor.bytes - part[0].offset > PART_BYTES:
                number += 1
                part = parts.setdefault((layer, number), [])
            part.append(tensor)
    return parts


def _span(tensors: Sequence[Tensor]) -> Span:
    """From the first of them to the end of the last, rounded up as the byte space is padded."""
    first, last = tensors[0], tensors[-1]
    return Span(first.offset, aligned(last.offset + last.bytes) - first.offset)


def _for_keeping(budget: int, spans: Mapping[Unit, Span]) -> int:
    """What of the budget is for parts that stay, where not all do: the others pass through."""
    sizes = [span.bytes for span in spans.values()]
    return budget if sum(sizes) <= budget else max(budget - (1 + AHEAD) * max(sizes), 0)


def _heard(read: asyncio.Task[tuple[Buffer, Tier]]) -> None:
    """Takes note of an error: nobody may come to wait for what was read ahead."""
    if not read.cancelled():
        read.exception()

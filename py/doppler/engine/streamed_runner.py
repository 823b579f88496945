"""A runner of a dense model that is not all on the GPU: matrices of the last layers, or keys and
values of some, are brought before the layer is run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from doppler.engine.memory import EngineMemory
from doppler.engine.paged_runner import Paging
from doppler.engine.plans import Key
from doppler.engine.protocol import Chunk
from doppler.engine.runner import GpuRunner
from doppler.gpu.binder import Binder
from doppler.plan.layer import PlannedModel
from doppler.plan.segments import Part
from doppler.residency.tiers import TIERS
from doppler.weights.host_rows import HostRows
from doppler.weights.layer_stream import LayerStream

if TYPE_CHECKING:
    from doppler.engine.host_cache import HostCache


class StreamedRunner(GpuRunner):
    """A GpuRunner whose plans stop before each layer of `stream`, for which nothing is read back,
    and of `cache`, whose new rows are.
    """

    def __init__(
        self,
        binder: Binder,
        memory: EngineMemory,
        model: PlannedModel,
        rows: Sequence[HostRows],
        stream: LayerStream | None,
        cache: HostCache | None,
    ) -> None:
        super().__init__(binder, memory, model, rows)
        self._stream, self._cache = stream, cache
        self._position, self._count = 0, 1  # of what is run next: where its tokens come, how many

    @property
    def can_draft(self) -> bool:
        return False

    async def paging(self) -> Paging:
        """What was brought so far."""
        none, stream, cache = dict.fromkeys(TIERS, 0), self._stream, self._cache
        return Paging(
            pairs=0,
            misses=0,
            ahead=0,
            replays=0,
            halted_ms=0.0,
            bytes=dict(stream.tier.traffic.bytes) if stream else none,
            waited_ms=dict(stream.tier.traffic.waited_ms) if stream else none,
            slots=0,
            experts=0,
            host_bytes=(stream.tier.bytes if stream else 0) + (cache.bytes if cache else 0),
            layers=len(stream.layers) if stream else 0,
            kv_layers=len(cache.layers) if cache else 0,
            kv_brought=cache.brought if cache else 0,
            kv_read=cache.read if cache else 0,
        )

    async def prefill(self, chunk: Chunk) -> None:
        self._position, self._count = chunk.position, len(chunk.ids)
        await super().prefill(chunk)
        self._position, self._count = chunk.position + len(chunk.ids), 1

    async def decode(self, steps: int, end: int, mask: bytes | None = None) -> None:
        keys = self._keys(end, mask)
        for _ in range(steps):
            await self._pass(keys)
            self._position += 1

    async def _pass(self, keys: Sequence[Key], times: int = 1) -> None:
        """Plans in stretches, each of which ends before a layer for which something is brought."""
        assert times == 1, "where a token comes is counted by whoever queues it"
        places, start = self._recordings.places(keys), None
        streamed = self._stream.layers if self._stream else ()
        hosted = self._cache.layers if self._cache else ()
        run: int | None = None  # a layer of the stretch before, whose new rows are to be kept
        for place in places:
            if place.part == Part.ATTENTION and (place.layer in streamed or place.layer in hosted):
                if place != places[0]:
                    self._run(keys, start=start, stop=place)
                await self._keep(run)
                await self._bring(place.layer)
                start, run = place, place.layer
        self._run(keys, start=start)
        await self._keep(run)

    async def _bring(self, layer: int) -> None:
        if self._cache is not None and layer in self._cache.layers:
            await self._cache.bring(layer, self._position)
        if self._stream is not None and layer in self._stream.layers:
            await self._stream.bring(layer)

    async def _keep(self, layer: int | None) -> None:
        if self._cache is not None and layer in self._cache.layers:
            await self._cache.keep(layer, self._position, self._count)

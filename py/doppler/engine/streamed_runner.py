"""A runner of a model whose last layers are not on the GPU: each is brought before it is run."""

from __future__ import annotations

from collections.abc import Sequence

from doppler.engine.memory import EngineMemory
from doppler.engine.paged_runner import Paging
from doppler.engine.recordings import Key
from doppler.engine.runner import GpuRunner
from doppler.gpu.binder import Binder
from doppler.plan.layer import PlannedModel
from doppler.plan.segments import Part
from doppler.weights.host_rows import HostRows
from doppler.weights.layer_stream import LayerStream


class StreamedRunner(GpuRunner):
    """A GpuRunner whose plans stop before each layer of `stream`. Nothing is read back for it."""

    def __init__(
        self,
        binder: Binder,
        memory: EngineMemory,
        model: PlannedModel,
        rows: Sequence[HostRows],
        stream: LayerStream,
    ) -> None:
        super().__init__(binder, memory, model, rows)
        self._stream = stream

    @property
    def can_draft(self) -> bool:
        return False

    async def paging(self) -> Paging:
        """What was brought so far."""
        tier, traffic = self._stream.tier, self._stream.tier.traffic
        return Paging(
            pairs=0,
            misses=0,
            ahead=0,
            replays=0,
            bytes=dict(traffic.bytes),
            waited_ms=dict(traffic.waited_ms),
            slots=0,
            experts=0,
            budget=self._stream.budget,
            host_bytes=tier.bytes,
            layers=len(self._stream.layers),
        )

    async def _pass(self, keys: Sequence[Key], times: int = 1) -> None:
        for _ in range(times):
            await self._stream_through(keys)

    async def _stream_through(self, keys: Sequence[Key]) -> None:
        """Plans in stretches, each of which ends before a layer that is to be brought."""
        places, start = self._recordings.places(keys), None
        for place in places:
            if place.part == Part.ATTENTION and place.layer in self._stream.layers:
                if place != places[0]:
                    self._run(keys, start=start, stop=place)
                await self._stream.bring(place.layer)
                start = place
        self._run(keys, start=start)

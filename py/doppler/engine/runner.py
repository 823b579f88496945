"""What runs a model's plans on a device: work is queued in order, and ids are read back later."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Awaitable, Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from doppler.engine.memory import EngineMemory
from doppler.engine.plans import Key, Plan, Plans
from doppler.engine.protocol import Chunk, Sampled
from doppler.engine.recordings import Recordings
from doppler.gpu.binder import Binder
from doppler.gpu.step import Step
from doppler.plan.bindings import MOST_AHEAD
from doppler.plan.layer import PlannedModel
from doppler.plan.segments import Part, Place
from doppler.sampling import Sampling
from doppler.weights.host_rows import HostRows

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


class GpuRunner:
    """`plans` of one model, recorded when they are first run. A `Runner`, and more to measure."""

    def __init__(
        self,
        binder: Binder,
        memory: EngineMemory,
        model: PlannedModel,
        rows: Sequence[HostRows],
    ) -> None:
        self._rows = rows
        self._binder, self._kernels = binder, binder.device.kernels
        self._memory, self._model = memory, model
        self.plans = Plans(model, memory)
        self._recordings = Recordings(binder, self.plans.segments)
        self._routed: Callable[[int], None] | None = None  # is told of each router that is queued
        self._needs_rest = False  # before logits of the chunk that was run
        self._drafts_ready: asyncio.Future[None] | None = None  # compiled once they are wanted

    async def compile(self, progress: Callable[[int, int], None]) -> None:
        """Compiles every pipeline that prefill, decode and sampling need."""
        await self._compile(self.plans.to_compile(), progress)

    def replan(self, model: PlannedModel) -> None:
        """Weights lie elsewhere from now on; nothing is queued."""
        self._recordings.destroy()
        self._model, self.plans = model, Plans(model, self._memory)
        self._recordings = Recordings(self._binder, self.plans.segments)

    def destroy(self) -> None:
        """Gives what was recorded back."""
        self._recordings.destroy()

    def begin(self, ids: Sequence[int], sampling: Sampling) -> None:
        self._memory.write_sampling(sampling, ids)

    @property
    def is_fed(self) -> bool:
        return len(self._rows) > 0

    @property
    def most_ahead(self) -> int:
        return MOST_AHEAD

    @property
    def can_draft(self) -> bool:
        return not self.is_fed and not self._model.layout.slots

    async def bring(self, ids: Sequence[int]) -> None:
        for rows in self._rows:
            await rows.bring(ids)

    async def prefill(self, chunk: Chunk) -> None:
        self._memory.write_batch(chunk.ids, chunk.position, chunk.seed, chunk.step)
        await self._pass(self._body(chunk))
        self._needs_rest = not chunk.is_end and self.plans.has_rest(chunk.size)

    def resume_prefill(self, place: Place, chunk: Chunk) -> None:
        """Ends the halt, and runs the rest of the chunk that it stopped, from `place` on.

        States of layers below have moved on before the halt; whatever was queued behind the chunk,
        to keep them or to sample, is queued again by the caller.
        """
        is_alone = self.plans.has_rest(chunk.size) and place.layer >= self._model.config.own_layers
        self._memory.end_halt(1 if is_alone else len(chunk.ids))
        self._run(self._body(chunk), start=place)

    def keep(self, slot: int) -> None:
        self._run([Key(Plan.KEEP, slot)])

    def restore(self, slot: int) -> None:
        self._memory.end_halt(0)  # of a sequence that was given up while it was halted
        self._run([Key(Plan.RESTORE, slot)])

    def sample(self, size: int, mask: bytes | None = None) -> None:
        self._run([self.plans.head(size), Key(self._sampler(mask))])

    async def decode(self, steps: int, end: int, mask: bytes | None = None) -> None:
        await self._pass(self._keys(end, mask), steps)

    def resume_decode(self, place: Place, steps: int, end: int, mask: bytes | None = None) -> None:
        """Ends the halt, and runs the rest of the token that it stopped, from `place` on, and those
        behind it: `steps` in all.
        """
        self._memory.end_halt(1)
        keys = self._keys(end, mask)
        self._run(keys, start=place)
        self._run(keys, steps - 1)

    def draft(self, steps: int) -> None:
        self._run([Key(Plan.DRAFT)], steps)

    def compile_drafts(self) -> asyncio.Future[None]:
        if self._drafts_ready is None:
            ready = self._compile(self.plans.steps(Key(Plan.DRAFT)))
            self._drafts_ready = asyncio.ensure_future(ready)
        return self._drafts_ready

    async def compile_masked(self) -> None:
        await self._compile(self.plans.steps(Key(Plan.MASKED_SAMPLE)))

    def start_read(self) -> Sampled:
        return self._memory.start_read()

    async def done(self) -> None:
        await self._binder.device.gpu.done()

    async def logits(self, size: int, row: int, rows: int) -> npt.NDArray[np.float32]:
        """[rows, vocab] from `row` on, of a chunk of `size` tokens that was just run.

        There are at most HEAD_ROWS at once; of a chunk of one, that one. It `is_end` of no prompt.
        """
        memory = self._memory
        if size == 1:
            self._run([Key(Plan.HEAD, 1)])
            return await memory.read_logits(self._model.layout.of_token["logits"], 1)
        if self._needs_rest:
            await self._pass([Key(Plan.REST, size)])
            self._needs_rest = False
        memory.write_count(rows)  # or the head would do the whole batch
        self._run([Key(Plan.ROWS, row)])
        return await memory.read_logits(self._model.layout.rows_of_logits, rows)

    async def routes(self, chunk: Chunk) -> dict[int, Sequence[int]]:
        """Runs a chunk, which `is_end` of no prompt; -> of each layer with a router, the experts of
        the first token, then of the second, and so on.
        """
        reads: dict[int, Awaitable[bytes]] = {}

        def read(layer: int) -> None:  # again where a plan that was halted goes on from it
            reads[layer] = self._memory.start_read_routes(layer, chunk.size, len(chunk.ids))

        self._routed = read
        try:
            await self.prefill(chunk)
            if self._needs_rest:
                await self._pass([Key(Plan.REST, chunk.size)])
                self._needs_rest = False
        finally:
            self._routed = None
        return {layer: array("I", await data) for layer, data in reads.items()}

    def _body(self, chunk: Chunk) -> list[Key]:
        return self.plans.chunk(chunk.position, chunk.size, chunk.is_end)

    def _keys(self, end: int, mask: bytes | None) -> list[Key]:
        """A token of decode before place `end` of the cache, of those that the mask allows."""
        return self.plans.token(self.plans.bucket(end), self._sampler(mask))

    def _sampler(self, mask: bytes | None) -> Plan:
        """What samples the next tokens, once they are queued; writes the mask for it."""
        if mask is None:
            return Plan.SAMPLE
        self._memory.write_mask(mask)
        return Plan.MASKED_SAMPLE

    async def _pass(self, keys: Sequence[Key], times: int = 1) -> None:
        """Queues plans that pass through layers."""
        self._run(keys, times)

    def _run(
        self,
        keys: Sequence[Key],
        times: int = 1,
        start: Place | None = None,
        stop: Place | None = None,
    ) -> None:
        if self._routed is not None:
            start = self._run_routers(self._routed, keys, start, stop)
        if times:
            self._kernels.run(*[self._recordings.get(keys, start, stop)] * times)

    def _run_routers(
        self,
        routed: Callable[[int], None],
        keys: Sequence[Key],
        start: Place | None,
        stop: Place | None,
    ) -> Place | None:
        """Up to the last router before `stop`, with a stop behind each; -> from where to go on."""
        places = self._recordings.places(keys)
        first = 0 if start is None else places.index(start)
        end = len(places) if stop is None else places.index(stop, first)
        for place, following in pairwise(places[first:end]):
            if place.part == Part.ROUTER:
                self._kernels.run(self._recordings.get(keys, start, following))
                routed(place.layer)
                start = following
        return start

    async def _compile(
        self, steps: list[Step], progress: Callable[[int, int], None] = lambda *_: None
    ) -> None:
        variants = {self._kernels.variant(s.kernel, s.constants, s.bindings) for s in steps}
        pending = [self._kernels.prepare(variant) for variant in variants]
        for done, ready in enumerate(asyncio.as_completed(pending), start=1):
            await ready
            progress(done, len(variants))

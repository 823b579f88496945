"""Prefill and decode, on token ids only.

Decoding never waits for a token before it queues the next: the sampled id stays on the GPU, where
the same recorded list reads it back in, and ids arrive here through a ring a few tokens late.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from doppler.config import ModelConfig
from doppler.engine.autotune import tune
from doppler.engine.chunks import Batches
from doppler.engine.generation import Clock, FinishReason, Generation
from doppler.engine.memory import HEAD_ROWS, MOST_AHEAD, EngineMemory
from doppler.engine.prefix_cache import CachedIds
from doppler.engine.speculate import Flight, Pace, Speculate, Speculation
from doppler.errors import ContextError, RequestError
from doppler.gpu.device import Gpu
from doppler.gpu.kernels import Kernels, Recording
from doppler.gpu.profile import Timing, Work, profile, work
from doppler.gpu.step import Step
from doppler.plan.capabilities import Adapter
from doppler.plan.decode import DecodePlan
from doppler.plan.draft import draft_steps
from doppler.plan.layer import PlannedModel
from doppler.plan.matvec_configs import Cuts, unknown
from doppler.plan.prefill import PrefillPlan
from doppler.sampling import Sampling
from doppler.weights.placement import Weights

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

REACHES = (256, 1024, 4096)  # contexts for which decoding is recorded, and then the whole
AHEAD_MS = 30.0  # of decoding queued before the host looks at what came out


class Engine:
    """One model with one KV cache. Calls must not overlap."""

    def __init__(
        self,
        gpu: Gpu,
        kernels: Kernels,
        config: ModelConfig,
        weights: Weights,
        memory: EngineMemory,
        adapter: Adapter,
        cuts: Cuts,
    ) -> None:
        self.config, self.context, self.batch = config, memory.context, memory.batch
        self.half_cache, self.adapter = memory.half_cache, adapter
        self._gpu, self._kernels, self._weights, self._memory = gpu, kernels, weights, memory
        model = PlannedModel(
            config,
            weights,
            memory.token,
            memory.context,
            memory.capacities,
            adapter,
            memory.half_cache,
            cuts,
        )
        if self.batch > 1:
            memory.add_batch(gpu, lambda m: PrefillPlan(replace(model, memory=m)).all(self.batch))
            model = replace(model, memory=memory.token)
        self._plan(model)
        self._recordings: dict[str, Recording] = {}
        self._cached = CachedIds(config.layers, memory.capacities, memory.context)
        self._cancelled = False
        self._batches = Batches(self.batch)
        self._pace = Pace()  # of decoding
        self._drafts_ready: asyncio.Future[None] | None = None  # compiled once they are wanted

    def _plan(self, model: PlannedModel) -> None:
        self._model = model
        self._decode_plan = DecodePlan(model)
        self._prefill_plan = PrefillPlan(replace(model, memory=self._memory.slices))
        self._sample_steps = model.sample

    @property
    def can_tune(self) -> bool:
        """Whether something is to be measured, and can be."""
        can = not self._gpu.is_cpu and "timestamp-query" in self._gpu.features
        return can and bool(unknown(self._tuned_steps(), self._model.cuts))

    async def tune(self, turn: asyncio.Lock) -> Cuts:
        """Measures what is not known of this device; -> all that is known and used from now on.

        Call it when the weights are there. Whoever holds `turn` uses the engine alone.
        """
        steps, known = self._tuned_steps(), self._model.cuts
        new = await tune(self._kernels, steps, known, partial(self._lent, turn))
        async with turn:
            self._plan(replace(self._model, cuts={**known, **new}))
            self._forget_recordings()
            self._drafts_ready = None
        return self._model.cuts

    def _tuned_steps(self) -> list[Step]:
        return self._decode_steps(self._reach(1)) + self._prefill_plan.head()

    @asynccontextmanager
    async def _lent(self, turn: asyncio.Lock) -> AsyncIterator[None]:
        """Decoding steps may run meanwhile: at the cache's end, where a conversation comes last.

        That place a layer with a window has for earlier positions too: they count as overwritten.
        """
        async with turn, self._gpu.scope("measuring kernels"):
            last = self.context - 1
            self._cached.cut(last)
            self._cached.mark(self.context)
            self._memory.write_sampling(self._gpu, self._kernels, Sampling(greedy=True), [])
            self._memory.write_batch(self._gpu, [1], last, 0)
            yield

    async def prepare(self, progress: Callable[[int, int], None]) -> None:
        """Compiles every pipeline that prefill, decode and sampling need."""
        reaches = {self._reach(reach) for reach in (1, *REACHES, self.context)}
        steps = [step for reach in reaches for step in self._decode_steps(reach)]
        if self.batch > 1:
            steps += self._prefill_plan.all(self.batch)
        await self._compile(steps, progress)

    async def _compile(
        self, steps: list[Step], progress: Callable[[int, int], None] = lambda *_: None
    ) -> None:
        variants = {self._kernels.variant(s.kernel, s.constants, s.bindings) for s in steps}
        pending = [self._kernels.prepare(variant) for variant in variants]
        for done, ready in enumerate(asyncio.as_completed(pending), start=1):
            await ready
            progress(done, len(variants))

    def destroy(self) -> None:
        """Gives the GPU memory back; the engine is of no use afterwards."""
        self._forget_recordings()
        self._memory.destroy()
        self._weights.destroy()

    def _forget_recordings(self) -> None:
        for recording in self._recordings.values():
            recording.destroy()
        self._recordings.clear()

    def ready(self) -> None:
        """Forgets a `cancel`, which was meant for the call that has ended."""
        self._cancelled = False

    def cancel(self) -> None:
        """Ends the running call within a token of decoding or a batch of prefill.

        Where the call is not here yet, it ends as soon as it comes.
        """
        self._cancelled = True

    def check(self, ids: Sequence[int]) -> None:
        """Raises RequestError for an empty or too long prompt or an id outside the vocabulary."""
        if not ids:
            raise RequestError("the prompt is empty: give at least one token")
        if len(ids) >= self.context:
            raise ContextError(
                f"the prompt has {len(ids)} tokens and the context holds {self.context}: "
                "shorten it, or load the model with a longer context"
            )
        wrong = next((i for i in ids if not 0 <= i < self.config.vocab), None)
        if wrong is not None:
            raise RequestError(f"token id {wrong} is not in the vocabulary of {self.config.vocab}")

    async def generate(
        self,
        ids: Sequence[int],
        sampling: Sampling,
        max_tokens: int,
        accept: Callable[[int], bool],
        on_prefill: Callable[[int, int], None],
        speculate: Speculate,
    ) -> Generation:
        """Continues `ids`; `accept` gets each new id and returns False to stop after it.

        Keys and values of the longest prefix shared with what the cache holds are reused, unless
        what its end sees was overwritten.
        """
        self.check(ids)
        clock = Clock()
        reused = self._cached.rewind(ids)
        self._memory.write_sampling(self._gpu, self._kernels, sampling, ids)
        batch = await self._prefill(ids, reused, sampling.seed, on_prefill)
        limit = min(max_tokens, self.context - len(ids))
        mode = speculate if self.batch > 1 else "off"  # there is room for one token only
        speculation = Speculation(mode, ids, self._pace)
        if mode == "on":
            await self._compile_drafts()
        out: list[int] = []
        reason: FinishReason = "cancelled" if self._cancelled else "length"
        if not self._cancelled and limit > 0:
            self._run_head(batch)
            reason = await self._decode(limit, accept, out, clock, len(ids), speculation)
            self._cached.extend(out[:-1])
        if reason == "length" and limit < max_tokens:
            reason = "context"
        return clock.generation(out, reason, reused, len(ids), speculation)

    async def logits(
        self, ids: Sequence[int], batch: int
    ) -> AsyncIterator[npt.NDArray[np.float32]]:
        """Logits of every position, in order, as arrays [a few rows, vocab]; prefills anew.

        `batch` tokens are prefilled at a time (1: the decode path), at most the engine's batch.
        """
        self.check(ids)
        if not 1 <= batch <= self.batch:
            raise RequestError(f"batch is {batch}; this model was loaded for 1 to {self.batch}")
        self._cached.cut(0)
        for start in range(0, len(ids), batch):
            piece = ids[start : start + batch]
            self._memory.write_batch(self._gpu, piece, start, 0)
            self._kernels.run(self._body(batch, start))
            for row in range(0, len(piece), HEAD_ROWS):
                yield await self._head_rows(batch, row, min(HEAD_ROWS, len(piece) - row))

    async def profile(self, tokens: int, batch: int) -> list[Timing]:
        """GPU time of every dispatch that a token takes after `tokens` of context, or, where
        `batch` is more than 1, that a prefill batch takes. The KV cache is lost.
        """
        self._cached.cut(0)
        ids = [token % self.config.vocab for token in range(batch)]  # various: experts depend on it
        rewind = partial(self._memory.write_batch, self._gpu, ids, tokens, 0)
        return await profile(self._gpu, self._kernels, self.steps(tokens, batch), tokens, rewind)

    def work(self, tokens: int, batch: int) -> list[Work]:
        """What every dispatch has to do that `profile` would time."""
        return work(self.steps(tokens, batch), tokens)

    def steps(self, tokens: int, batch: int) -> list[Step]:
        """The dispatches of a token after `tokens` of context, or of a prefill batch."""
        if batch > 1:
            return self._prefill_plan.all(batch)
        return self._decode_steps(self._reach(tokens + 1))

    async def _head_rows(self, batch: int, row: int, rows: int) -> npt.NDArray[np.float32]:
        memory = self._memory
        if batch == 1:
            self._run("logits", self._decode_plan.head)
            return await memory.read_logits(self._gpu, memory.slices.logits, 1)
        memory.write_count(self._gpu, rows)  # or the head would do the whole batch
        x, out = memory.head_rows(self._gpu, row)
        self._run(f"logits {row}", lambda: self._prefill_plan.head_of_all(HEAD_ROWS, x, out))
        return await memory.read_logits(self._gpu, out, rows)

    async def _prefill(
        self, ids: Sequence[int], start: int, seed: int, on_prefill: Callable[[int, int], None]
    ) -> int:
        """Runs what is left of the prompt; the size of the last batch, which is only queued."""
        total, size = len(ids) - start, 0
        while start < len(ids) and not self._cancelled:
            size = self._batches.size(len(ids) - start)
            piece, body = ids[start : start + size], self._body(size, start)
            began = time.perf_counter()
            self._memory.write_batch(self._gpu, piece, start, seed)
            self._kernels.run(body)
            self._cached.extend(piece)
            start += len(piece)
            if start < len(ids):
                await self._gpu.done()
                self._batches.note(size, len(piece), 1000 * (time.perf_counter() - began))
            on_prefill(total - (len(ids) - start), total)
        return size

    async def _decode(
        self,
        limit: int,
        accept: Callable[[int], bool],
        out: list[int],
        clock: Clock,
        prompt: int,
        speculation: Speculation,
    ) -> FinishReason:
        """Reads back and queues in turn until `limit` ids are out, or accept or cancel ends it.

        Steps with drafts may bring more ids than are wanted: those go nowhere.
        """
        flight = Flight(1)  # what is read: first the token that prefill sampled
        while True:
            reading = self._memory.start_read(self._gpu)
            unread, position = len(out) + flight.steps, prompt + len(out) + flight.most
            following = self._queue(speculation, 0, limit - unread, position)
            tokens = (await reading.tokens(len(out)))[: limit - len(out)]
            speculation.note(flight, tokens, time.perf_counter())
            for token in tokens:
                out.append(token)
                clock.token()
                if not accept(token):
                    return "stop"
                if self._cancelled:
                    return "cancelled"
            if len(out) == limit:
                return "length"
            flight = following
            if not flight.steps:
                flight = self._queue(speculation, 1, limit - len(out), prompt + len(out))

    def _queue(self, speculation: Speculation, least: int, most: int, position: int) -> Flight:
        """Queues `least` to `most` steps, as many as the host has time to look away for; the first
        token goes at most to place `position` of the cache.
        """
        drafts = self._carries_drafts(speculation)
        flight = Flight(max(min(self._ahead(drafts), most), least), drafts)
        if flight.steps > 0:
            reach = self._reach(position + flight.most)
            name, steps = f"decode {reach}", lambda: self._decode_steps(reach)
            if drafts:
                name, steps = "drafts", self._draft_steps
            recording = self._recording(name, steps)
            self._kernels.run(*[recording] * flight.steps)
            self._cached.mark(position + flight.most)
        return flight

    def _ahead(self, drafts: bool) -> int:
        """Steps to queue behind those being read; none where a step alone takes long."""
        most = MOST_AHEAD // Flight(1, drafts).most
        return min(self._pace.steps_within(AHEAD_MS, drafts), most)

    def _carries_drafts(self, speculation: Speculation) -> bool:
        """Whether the next steps carry drafts: they are wanted, and their kernels compiled."""
        if not speculation.wanted:
            return False
        compiling = self._compile_drafts()
        return compiling.done() and compiling.result() is None  # or raises what went wrong

    def _compile_drafts(self) -> asyncio.Future[None]:
        if self._drafts_ready is None:
            self._drafts_ready = asyncio.ensure_future(self._compile(self._draft_steps()))
        return self._drafts_ready

    def _decode_steps(self, reach: int) -> list[Step]:
        return self._decode_plan.body(reach) + self._decode_plan.head() + self._sample_steps()

    def _draft_steps(self) -> list[Step]:
        normed, logits = self._memory.head_rows(self._gpu, 0)
        return draft_steps(self._model, self._prefill_plan, normed, logits)

    def _reach(self, tokens: int) -> int:
        """The context for which a list is recorded that serves `tokens` tokens."""
        return next((r for r in REACHES if tokens <= r < self.context), self.context)

    def _recording(self, name: str, steps: Callable[[], list[Step]]) -> Recording:
        if name not in self._recordings:
            self._recordings[name] = self._kernels.record_steps(steps())
        return self._recordings[name]

    def _run(self, name: str, steps: Callable[[], list[Step]]) -> None:
        self._kernels.run(self._recording(name, steps))

    def _body(self, batch: int, position: int) -> Recording:
        """A batch from its ids to normed hidden states."""
        if batch == 1:
            reach = self._reach(position + 1)
            return self._recording(f"body of one {reach}", lambda: self._decode_plan.body(reach))
        return self._recording(f"body {batch}", lambda: self._prefill_plan.body(batch))

    def _run_head(self, batch: int) -> None:
        """Samples the token after a batch that was just run."""
        name, plan = ("one", self._decode_plan) if batch == 1 else ("many", self._prefill_plan)
        self._run(f"head after {name}", lambda: plan.head() + self._sample_steps())

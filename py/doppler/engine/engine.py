"""One loaded model: sequences on token ids, logits, and the measuring of its kernels."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Literal

from doppler.engine.autotune import tune
from doppler.engine.chunks import ChunkSizes
from doppler.engine.footprint import Options
from doppler.engine.generation import GenerationConfig
from doppler.engine.gpu_budget import GpuBudget
from doppler.engine.kept_cache import KeptCache
from doppler.engine.memory import EngineMemory
from doppler.engine.offloaded import Offloaded
from doppler.engine.paged_runner import ExpertUse, PagedRunner, Paging
from doppler.engine.prefix_cache import PrefixCache
from doppler.engine.protocol import Chunk
from doppler.engine.routing import Routes, routes
from doppler.engine.runner import GpuRunner
from doppler.engine.sequence import Ids, Sequence, Session
from doppler.engine.speculate import StepTimes
from doppler.engine.stopping import Cancellation
from doppler.engine.streamed_runner import StreamedRunner
from doppler.errors import ContextError, RequestError
from doppler.gpu.binder import Binder
from doppler.gpu.profile import Timing, Work, profile, profile_bytes, work
from doppler.gpu.step import Step
from doppler.plan.bindings import HEAD_ROWS
from doppler.plan.layer import PlannedModel
from doppler.plan.matvec_configs import Cuts, unknown
from doppler.sampling import Sampling
from doppler.store.shards import ShardStore

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


class Engine:
    """One model with one KV cache, placed as `gpu_budget` says. Calls must not overlap."""

    def __init__(
        self, binder: Binder, memory: EngineMemory, model: PlannedModel, gpu_budget: GpuBudget
    ) -> None:
        layout = model.layout
        self.config, self.context, self.batch = layout.config, layout.context, layout.batch
        self.kv, self.adapter = layout.kv, model.adapter
        self.binder, self.weights, self._memory = binder, model.weights, memory
        self.gpu_budget, self.offloaded = gpu_budget, Offloaded(binder)
        self._gpu = binder.device.gpu
        self._plan(model)
        self.cancellation = Cancellation()
        layers, slots = self.config.layers, len(layout.checkpoints)
        self._cache = PrefixCache(layers, layout.capacities, self.context, slots)
        brings = model.weights.streamed is not None or bool(layout.slots) or bool(layout.hosted)
        self._chunks = ChunkSizes(self.batch, are_few=brings)  # each chunk of a prompt brings it
        self._times = StepTimes()

    def _plan(self, model: PlannedModel) -> None:
        self._model, there = model, self.offloaded
        parts = self.binder, self._memory, model, there.rows
        self._runner: GpuRunner
        if there.pools is not None:
            self._runner = PagedRunner(*parts, there.pools)
        elif there.stream is not None or there.cache is not None:
            self._runner = StreamedRunner(*parts, there.stream, there.cache)
        else:
            self._runner = GpuRunner(*parts)

    @property
    def table(self) -> Literal["gpu", "host"] | None:
        """Where embeddings are that layers have of their own; None where they have none."""
        if not self.config.per_layer:
            return None
        return "gpu" if self.weights.on_host is None else "host"

    def feed(self, store: ShardStore, host_budget: int) -> None:
        """What is not on the GPU comes from there from now on: see `Offloaded`, whose errors it
        raises.
        """
        self.offloaded.feed(self._model, store, host_budget)
        self._plan(self._model)

    def hash_on_gpu(self, store: ShardStore) -> None:
        """Weights that `store` gives while the model runs are hashed by the GPU from now on, if it
        has room for them.
        """
        if self.offloaded.brings_weights:
            self.gpu_budget.hash_for(store)

    async def paging(self) -> Paging | None:
        """What was brought since the model was loaded; None where all of it is on the GPU."""
        runner = self._runner
        return await runner.paging() if isinstance(runner, PagedRunner | StreamedRunner) else None

    async def experts(self) -> dict[int, ExpertUse]:
        """Of each layer that has slots for some of its experts."""
        return await self._runner.experts() if isinstance(self._runner, PagedRunner) else {}

    def keep_to(self, options: Options) -> None:
        """Other budgets, by which it lies where it does."""
        self.gpu_budget.keep_to(options, self._model)

    @property
    def can_resize(self) -> bool:
        """Whether another budget of the GPU can count at once: there are slots for experts."""
        return self.offloaded.pools is not None

    async def set_gpu_budget(self, budget: int | None) -> None:
        """Layers have more or fewer slots from now on, as `budget` bytes allow (None: for all, as
        far as the GPU has room). What is queued runs first; keys and values stay.

        Raises RequestError, and changes nothing, where it is too small; and DeviceError.
        """
        pools, options = self.offloaded.pools, replace(self.gpu_budget.options, gpu_budget=budget)
        assert pools is not None, "there are no slots"
        done = self._runner.done
        self._model = await self.gpu_budget.resize(pools, options, self._model, done)
        self.weights = self._model.weights
        self._runner.replan(self._model)
        await self._runner.compile(lambda done, total: None)
        self.keep_to(options)

    @property
    def can_tune(self) -> bool:
        """Whether something is to be measured, and can be."""
        can = not self._gpu.is_cpu and "timestamp-query" in self._gpu.features
        if self._model.layout.slots:  # which expert a matvec reads is the lookup's to say
            return False
        return can and bool(unknown(self._runner.plans.to_tune(), self._model.cuts))

    async def tune(self, turn: asyncio.Lock) -> tuple[Cuts, int]:
        """Measures what is not known of this device; -> all that is known and used from now on, and
        how many kinds of matrices were left out, since the budget leaves no room to measure them.

        Call it when the weights are there. Whoever holds `turn` uses the engine alone.
        """
        steps, known = self._runner.plans.to_tune(), self._model.cuts
        spare = self.gpu_budget.spare
        new, refused = await tune(self.binder, steps, known, partial(self._lent, turn), spare)
        if new:
            async with turn:
                self._runner.destroy()
                self._plan(replace(self._model, cuts={**known, **new}))
        return self._model.cuts, refused

    @asynccontextmanager
    async def _lent(self, turn: asyncio.Lock) -> AsyncIterator[None]:
        """Decoding steps may run meanwhile: at the cache's end, where a conversation comes last.

        That place a layer with a window has for earlier positions too: they count as overwritten.
        """
        async with turn, self._gpu.scope("measuring kernels"):
            last = self.context - 1
            self._cache.cut(last)
            self._cache.mark(self.context)
            self._runner.begin([], Sampling(greedy=True))
            self._memory.write_batch([1], last, 0)
            yield

    async def prepare(self, progress: Callable[[int, int], None]) -> None:
        """Compiles every pipeline that prefill, decode and sampling need."""
        await self._runner.compile(progress)

    def renew(self) -> None:
        """Kernels have changed: records them anew, and forgets the keys and values of the old."""
        self._runner.destroy()
        self.offloaded.forget_recordings()
        self._cache.cut(0)

    async def keeping(self) -> KeptCache:
        """What saves the KV cache and restores it. Raises DeviceError."""
        if (on_host := self.offloaded.cache) is not None:
            await on_host.settled()
        return KeptCache(on_host or self.binder, self._model, self._cache)

    def destroy(self) -> None:
        """Gives the GPU memory back; the engine is of no use afterwards."""
        self._runner.destroy()
        self.offloaded.release()
        self.gpu_budget.release()
        self.binder.destroy()

    def check(self, ids: Ids) -> None:
        """Raises RequestError for an empty or too long prompt or an id outside the vocabulary."""
        if not ids:
            raise RequestError("the prompt is empty: give at least one token")
        if len(ids) >= self.context:
            raise ContextError(
                f"the prompt has {len(ids)} tokens and the context holds {self.context}: "
                "shorten it, or load the model with a longer context"
            )
        self._check_vocab(ids)

    def _check_vocab(self, ids: Ids) -> None:
        wrong = next((i for i in ids if not 0 <= i < self.config.vocab), None)
        if wrong is not None:
            raise RequestError(f"token id {wrong} is not in the vocabulary of {self.config.vocab}")

    def start(self, ids: Ids, config: GenerationConfig, written: Ids = ()) -> Sequence:
        """A sequence that continues `ids`; it must be done before the next one starts.

        written: what it generated before it was cut off.
        """
        self.check(ids)
        self._check_vocab(written)
        if len(ids) + len(written) > self.context:
            raise ContextError(
                f"the prompt has {len(ids)} tokens, {len(written)} were written after it, and the "
                f"context holds {self.context}: load the model with a longer context"
            )
        if self.batch == 1:  # there is room for one token only
            config = replace(config, speculate="off")
        vocab, cache = self.config.vocab, self._cache
        session = Session(self._runner, self.context, vocab, cache, self._chunks, self._times)
        return Sequence(session, ids, config, self.cancellation, written)

    async def logits(self, ids: Ids, batch: int) -> AsyncIterator[npt.NDArray[np.float32]]:
        """Logits of every position, in order, as arrays [a few rows, vocab]; prefills anew.

        `batch` tokens are prefilled at a time (1: the decode path), at most the engine's batch.
        """
        self.check(ids)
        if not 1 <= batch <= self.batch:
            raise RequestError(f"batch is {batch}; this model was loaded for 1 to {self.batch}")
        self._cache.cut(0)
        try:
            for start in range(0, len(ids), batch):
                piece = ids[start : start + batch]
                await self._runner.bring(piece)
                await self._runner.prefill(Chunk(piece, start, batch, is_end=False))
                for row in range(0, len(piece), HEAD_ROWS):
                    yield await self._runner.logits(batch, row, min(HEAD_ROWS, len(piece) - row))
        finally:
            await self.offloaded.rest()

    async def routes(self, ids: Ids) -> Routes:
        """The experts that each id uses in each layer; none in layers that have no router. It
        prefills anew. Raises RequestError where no layer has one.
        """
        self.check(ids)
        if self.config.experts is None:
            raise RequestError("this model has no experts: there is nothing to trace")
        self._cache.cut(0)
        try:
            return await routes(self._runner, self.config, ids, self.batch)
        finally:
            await self.offloaded.rest()

    async def profile(self, tokens: int, batch: int) -> list[Timing]:
        """GPU time of every dispatch that a token takes after `tokens` of context, or, where
        `batch` is more than 1, that a prefill batch takes. The KV cache is lost.

        Raises RequestError where the budget has no room for that.
        """
        steps = self.steps(tokens, batch)
        self.gpu_budget.check_room(profile_bytes(steps), "timing of kernels")
        self._cache.cut(0)
        ids = [token % self.config.vocab for token in range(batch)]  # various: experts depend on it
        rewind = partial(self._memory.write_batch, ids, tokens, 0)
        return await profile(self.binder, steps, tokens, rewind)

    def work(self, tokens: int, batch: int) -> list[Work]:
        """What every dispatch has to do that `profile` would time."""
        return work(self.steps(tokens, batch), tokens)

    def steps(self, tokens: int, batch: int) -> list[Step]:
        """The dispatches of a token after `tokens` of context, or of a prefill batch."""
        return self._runner.plans.to_measure(tokens, batch)

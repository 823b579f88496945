"""One loaded model: sequences on token ids, logits, and the measuring of its kernels."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Literal

from doppler.engine.autotune import tune
from doppler.engine.chunks import ChunkSizes
from doppler.engine.fit import slots_within
from doppler.engine.footprint import Fit, Options, hashed_blocks, hashing_room, needed_by
from doppler.engine.generation import GenerationConfig
from doppler.engine.kept_cache import KeptCache
from doppler.engine.memory import EngineMemory
from doppler.engine.paged_runner import ExpertUse, PagedRunner, Paging
from doppler.engine.prefix_cache import PrefixCache
from doppler.engine.protocol import Chunk
from doppler.engine.routing import Routes, routes
from doppler.engine.runner import GpuRunner
from doppler.engine.sequence import Ids, Sequence, Session
from doppler.engine.speculate import StepTimes
from doppler.engine.stopping import Cancellation
from doppler.engine.streamed_runner import StreamedRunner
from doppler.errors import ContextError, DopplerError, RequestError
from doppler.gpu.binder import Binder
from doppler.gpu.profile import Timing, Work, profile, profile_bytes, work
from doppler.gpu.step import Step
from doppler.plan.bindings import HEAD_ROWS
from doppler.plan.layer import PlannedModel
from doppler.plan.matvec_configs import Cuts, unknown
from doppler.sampling import Sampling
from doppler.store.manifest import Manifest
from doppler.store.shards import ShardStore
from doppler.weights.expert_pools import ExpertPools
from doppler.weights.hashing import GpuHasher
from doppler.weights.host_rows import HostRows
from doppler.weights.host_tier import HostTier, expert_spans
from doppler.weights.layer_stream import LayerStream
from doppler.weights.placement import place_weights

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from doppler.engine.host_cache import HostCache


class Engine:
    """One model with one KV cache, placed as `fit` says. Calls must not overlap."""

    def __init__(
        self,
        binder: Binder,
        memory: EngineMemory,
        model: PlannedModel,
        manifest: Manifest,
        options: Options,
        fit: Fit,
    ) -> None:
        layout = model.layout
        self._manifest, self._options, self._fit = manifest, options, fit
        self.config, self.context, self.batch = layout.config, layout.context, layout.batch
        self.kv, self.adapter = layout.kv, model.adapter
        self.binder, self.weights, self._memory = binder, model.weights, memory
        self._gpu, self._rows = binder.device.gpu, list[HostRows]()
        self._pools: ExpertPools | None = None
        self._stream: LayerStream | None = None
        self._host: HostCache | None = None
        self._hashed: ShardStore | None = None  # whose blocks are hashed on the GPU, if it can be
        self._hasher: GpuHasher | None = None
        self._plan(model)
        self._settle()
        self.cancellation = Cancellation()
        layers, slots = self.config.layers, len(layout.checkpoints)
        self._cache = PrefixCache(layers, layout.capacities, self.context, slots)
        are_few = self._brings(model) or bool(layout.hosted)
        self._chunks = ChunkSizes(self.batch, are_few=are_few)
        self._times = StepTimes()

    @staticmethod
    def _brings(model: PlannedModel) -> bool:
        """Whether each chunk of a prompt brings weights: the fewer there are, the better."""
        return model.weights.streamed is not None or bool(model.layout.slots)

    def _settle(self) -> None:
        """`spare` is what the budget leaves for what is only measured; None: none was set. To count
        what the model needs takes time: a load without a budget does not wait for it.
        """
        if (budget := self._options.gpu_budget) is None:
            self.spare = None
        else:
            self.spare = budget - needed_by(self._model, self._manifest, self._options)
        self._settle_hasher()

    def _settle_hasher(self) -> None:
        """Hashes on the GPU where that is wanted and there is room to spare for it."""
        manifest, store = self._manifest, self._hashed
        if store is None:
            return
        size, most = hashing_room(manifest), hashed_blocks(manifest)
        if self.spare is not None and self.spare < size:
            if self._hasher is not None:
                self._hasher.release()
            self._hasher = store.hasher = None
            return
        if self._hasher is None:
            device, block = self.binder.device, manifest.block_size
            self._hasher = store.hasher = GpuHasher(device, block, most, store.buffers)
        if self.spare is not None:
            self.spare -= size

    @property
    def reads_storage(self) -> bool:
        """Whether it needs the stored weights while it runs."""
        return self.weights.on_host is not None or self._brings(self._model)

    def _plan(self, model: PlannedModel) -> None:
        self._model = model
        parts = self.binder, self._memory, model, self._rows
        self._runner: GpuRunner
        if self._pools is not None:
            self._runner = PagedRunner(*parts, self._pools)
        elif self._stream is not None or self._host is not None:
            self._runner = StreamedRunner(*parts, self._stream, self._host)
        else:
            self._runner = GpuRunner(*parts)

    @property
    def table(self) -> Literal["gpu", "host"] | None:
        """Where embeddings are that layers have of their own; None where they have none."""
        if not self.config.per_layer:
            return None
        return "gpu" if self.weights.on_host is None else "host"

    def feed(self, store: ShardStore, host_budget: int) -> None:
        """What is not on the GPU comes from there from now on: rows of a table, and experts or
        layers, of which the host keeps so many bytes, with keys and values that lie there.

        Raises RequestError where there is no room for these.
        """
        if (table := self.weights.on_host) is not None:
            self._rows.append(HostRows(self.binder, table, store))
        layout = self._model.layout
        if layout.slots:
            tables = {layer: layout.slot_table(layer) for layer in layout.slots}
            tier = HostTier(store, host_budget, expert_spans(store.manifest.experts))
            self._pools = ExpertPools(self.binder, self.weights, tables, tier)
            self._pools.reset(layout.slots)
            self._plan(self._model)
        if layout.hosted:
            from doppler.engine.host_cache import HostCache  # which few models need

            self._host = HostCache(self.binder, layout, store.buffers)
        if (streamed := self.weights.streamed) is not None:
            budget = host_budget - self.least_on_host
            self._stream = LayerStream(self.binder, self.weights, streamed, store, budget)
        if self._host is not None or self._stream is not None:
            self._plan(self._model)

    @property
    def least_on_host(self) -> int:
        """Bytes that keys and values take there for as long as it is loaded."""
        return 0 if self._host is None else self._host.bytes

    def hash_on_gpu(self, store: ShardStore) -> None:
        """Weights that `store` gives while the model runs are hashed by the GPU from now on, if it
        has room for them.
        """
        if self._brings(self._model):
            self._hashed = store
            self._settle_hasher()

    async def fill_host(self) -> None:
        """Brings what is not on the GPU into the host's memory, as far as its budget goes.

        Cancel it at any time. Raises nothing: what is damaged is said when it is needed.
        """
        source = self._pools or self._stream
        if source is not None:
            with suppress(DopplerError):
                await source.fill()

    async def rest(self) -> None:
        """No token may come for a while: ends what is being read ahead of one, and gives back what
        weights go through to the GPU.
        """
        if self._pools is not None:
            self._pools.rest()
        if self._stream is not None:
            await self._stream.rest()

    async def paging(self) -> Paging | None:
        """What was brought since the model was loaded; None where all of it is on the GPU."""
        runner = self._runner
        return await runner.paging() if isinstance(runner, PagedRunner | StreamedRunner) else None

    async def experts(self) -> dict[int, ExpertUse]:
        """Of each layer that has slots for some of its experts."""
        return await self._runner.experts() if isinstance(self._runner, PagedRunner) else {}

    @property
    def host_peak(self) -> int:
        """Bytes that the host has held at once of what is not on the GPU."""
        source = self._pools or self._stream
        return self.least_on_host + (0 if source is None else source.tier.peak)

    def set_host_budget(self, budget: int) -> None:
        """What the host keeps from now on of what is not on the GPU, in bytes: `least_on_host` at
        least.
        """
        assert budget >= self.least_on_host, "keys and values stay where they are"
        if self._pools is not None:
            self._pools.tier.resize(budget)
        if self._stream is not None:
            self._stream.resize(budget - self.least_on_host)

    def is_placed_as(self, options: Options, fit: Fit) -> bool:
        """Whether it lies on the GPU and on the host as that says, for batches of that size."""
        return (self._options.batch, self._fit) == (options.batch, fit)

    def keep_to(self, options: Options) -> None:
        """Other budgets, by which it lies where it does."""
        self._options = replace(options, batch=self._options.batch)
        self._settle()
        self._gpu.reset_peak()

    @property
    def can_resize(self) -> bool:
        """Whether another budget of the GPU can count at once: there are slots for experts."""
        return self._pools is not None

    async def set_gpu_budget(self, budget: int | None) -> None:
        """Layers have more or fewer slots from now on, as `budget` bytes allow (None: for all, as
        far as the GPU has room). What is queued runs first; keys and values stay.

        Raises RequestError, and changes nothing, where it is too small; and DeviceError.
        """
        pools = self._pools
        assert pools is not None, "there are no slots"
        manifest, before = self._manifest, self._options.gpu_budget
        options = replace(self._options, gpu_budget=budget)
        slots = slots_within(self._gpu, manifest, options, self._fit)
        await self._runner.done()
        if self._hasher is not None:
            await self._hasher.rest()
        most = None if before is None or budget is None else max(before, budget)
        place = partial(place_weights, manifest, self._gpu.limits, self._fit.host_rows)
        self.weights = await pools.resize(place, slots, most)
        there = {layer: pools.slots(layer) for layer in slots}
        self._fit = replace(self._fit, slots=there)
        layout = replace(self._model.layout, slots=there)
        self._model = replace(self._model, weights=self.weights, layout=layout)
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
        new, refused = await tune(self.binder, steps, known, partial(self._lent, turn), self.spare)
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

    def check_room(self, size: int, what: str) -> None:
        """Raises RequestError where the budget has not so many bytes to spare."""
        if self.spare is not None and size > self.spare:
            raise RequestError(
                f"{what} takes {size} bytes of the GPU's memory, and the budget leaves "
                f"{max(self.spare, 0)}: allow more, or load the model without a budget"
            )

    async def prepare(self, progress: Callable[[int, int], None]) -> None:
        """Compiles every pipeline that prefill, decode and sampling need."""
        await self._runner.compile(progress)

    def renew(self) -> None:
        """Kernels have changed: records them anew, and forgets the keys and values of the old."""
        self._runner.destroy()
        for rows in self._rows:
            rows.destroy()
        if self._pools is not None:
            self._pools.forget_recordings()
        if self._stream is not None:
            self._stream.forget_recordings()
        self._cache.cut(0)

    async def keeping(self) -> KeptCache:
        """What saves the KV cache and restores it. Raises DeviceError."""
        if self._host is not None:
            await self._host.settled()
        return KeptCache(self._host or self.binder, self._model, self._cache)

    def destroy(self) -> None:
        """Gives the GPU memory back; the engine is of no use afterwards."""
        self._runner.destroy()
        for rows in self._rows:
            rows.destroy()
        if self._pools is not None:
            self._pools.release()
        if self._stream is not None:
            self._stream.release()
        if self._host is not None:
            self._host.release()
        if self._hasher is not None:
            self._hasher.release()
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
            await self.rest()

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
            await self.rest()

    async def profile(self, tokens: int, batch: int) -> list[Timing]:
        """GPU time of every dispatch that a token takes after `tokens` of context, or, where
        `batch` is more than 1, that a prefill batch takes. The KV cache is lost.

        Raises RequestError where the budget has no room for that.
        """
        steps = self.steps(tokens, batch)
        self.check_room(profile_bytes(steps), "timing of kernels")
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

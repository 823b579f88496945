"""The GPU's memory that a loaded model keeps to: what of it is to spare, also when it changes, and
the hashing of blocks there, which has some of that.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial

from doppler.engine.fit import slots_within
from doppler.engine.footprint import Fit, Options, hashed_blocks, hashing_room, needed_by
from doppler.errors import RequestError
from doppler.gpu.kernels import Device
from doppler.plan.layer import PlannedModel
from doppler.store.manifest import Manifest
from doppler.store.shards import ShardStore
from doppler.weights.expert_pools import ExpertPools
from doppler.weights.hashing import GpuHasher
from doppler.weights.placement import place_weights


class GpuBudget:
    """Of one model, which is placed as `fit` says. The budget is that of `options`."""

    def __init__(
        self, device: Device, manifest: Manifest, options: Options, fit: Fit, model: PlannedModel
    ) -> None:
        self._device, self._manifest, self._fit = device, manifest, fit
        self.options = options
        self._hashed: ShardStore | None = None  # whose blocks are hashed on the GPU, if it can be
        self._hasher: GpuHasher | None = None
        self._settle(model)

    def _settle(self, model: PlannedModel) -> None:
        """`spare` is what the budget leaves for what is only measured; None: none was set. To count
        what the model needs takes time: a load without a budget does not wait for it.
        """
        if (budget := self.options.gpu_budget) is None:
            self.spare = None
        else:
            self.spare = budget - needed_by(model, self._manifest, self.options)
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
            block = manifest.block_size
            self._hasher = store.hasher = GpuHasher(self._device, block, most, store.buffers)
        if self.spare is not None:
            self.spare -= size

    def hash_for(self, store: ShardStore) -> None:
        """What `store` gives while the model runs is hashed by the GPU from now on, if it has room
        for that.
        """
        self._hashed = store
        self._settle_hasher()

    def check_room(self, size: int, what: str) -> None:
        """Raises RequestError where the budget has not so many bytes to spare."""
        if self.spare is not None and size > self.spare:
            raise RequestError(
                f"{what} takes {size} bytes of the GPU's memory, and the budget leaves "
                f"{max(self.spare, 0)}: allow more, or load the model without a budget"
            )

    def is_placed_as(self, options: Options, fit: Fit) -> bool:
        """Whether the model lies on GPU and host as that says, for batches of that size."""
        return (self.options.batch, self._fit) == (options.batch, fit)

    def keep_to(self, options: Options, model: PlannedModel) -> None:
        """Other budgets, by which the model lies where it does."""
        self.options = replace(options, batch=self.options.batch)
        self._settle(model)
        self._device.gpu.reset_peak()

    async def resize(
        self,
        pools: ExpertPools,
        options: Options,
        model: PlannedModel,
        done: Callable[[], Awaitable[None]],
    ) -> PlannedModel:
        """Layers have more or fewer slots, as the budget of `options` allows (None: for all, as far
        as the GPU has room), once `done` has waited for what is queued; -> the model as it lies
        then. Until `keep_to` says so, that budget does not count.

        Raises RequestError, and changes nothing, where it is too small; and DeviceError.
        """
        gpu, manifest = self._device.gpu, self._manifest
        before, budget = self.options.gpu_budget, options.gpu_budget
        slots = slots_within(gpu, manifest, options, self._fit)
        await done()
        if self._hasher is not None:
            await self._hasher.rest()
        most = None if before is None or budget is None else max(before, budget)
        place = partial(place_weights, manifest, gpu.limits, self._fit.host_rows)
        weights = await pools.resize(place, slots, most)
        there = {layer: pools.slots(layer) for layer in slots}
        self._fit = replace(self._fit, slots=there)
        return replace(model, weights=weights, layout=replace(model.layout, slots=there))

    def release(self) -> None:
        """Ends the hashing."""
        if self._hasher is not None:
            self._hasher.release()

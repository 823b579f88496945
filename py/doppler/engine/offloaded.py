"""What a loaded model has elsewhere than on the GPU, and what brings it: rows of a table of
embeddings, experts, layers, and keys and values, as much of it in the host's memory as its budget
allows.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from doppler.errors import DopplerError
from doppler.gpu.binder import Binder
from doppler.plan.layer import PlannedModel
from doppler.store.shards import ShardStore
from doppler.weights.expert_pools import ExpertPools
from doppler.weights.host_rows import HostRows
from doppler.weights.host_tier import HostTier, expert_spans
from doppler.weights.layer_stream import LayerStream

if TYPE_CHECKING:
    from doppler.engine.host_cache import HostCache


class Offloaded:
    """Of one model; each part is there if the model was placed so, once `feed` was called."""

    def __init__(self, binder: Binder) -> None:
        self._binder = binder
        self.rows = list[HostRows]()  # of a table; one or none
        self.pools: ExpertPools | None = None
        self.stream: LayerStream | None = None
        self.cache: HostCache | None = None

    def feed(self, model: PlannedModel, store: ShardStore, budget: int) -> None:
        """What is not on the GPU comes from `store` from now on; of experts or layers, and of keys
        and values that lie there, the host keeps `budget` bytes.

        Raises RequestError where there is no room for these.
        """
        weights, layout = model.weights, model.layout
        if (table := weights.on_host) is not None:
            self.rows.append(HostRows(self._binder, table, store))
        if layout.slots:
            tables = {layer: layout.slot_table(layer) for layer in layout.slots}
            tier = HostTier(store, budget, expert_spans(store.manifest.experts))
            self.pools = ExpertPools(self._binder, weights, tables, tier)
            self.pools.reset(layout.slots)
        if layout.hosted:
            from doppler.engine.host_cache import HostCache  # which few models need

            self.cache = HostCache(self._binder, layout, store.buffers)
        if (streamed := weights.streamed) is not None:
            left = budget - self.least
            self.stream = LayerStream(self._binder, weights, streamed, store, left)

    @property
    def brings_weights(self) -> bool:
        """Whether weights come to the GPU while the model runs."""
        return self.pools is not None or self.stream is not None

    @property
    def reads_storage(self) -> bool:
        """Whether the stored weights are needed while the model runs."""
        return bool(self.rows) or self.brings_weights

    @property
    def least(self) -> int:
        """Bytes of the host that keys and values take for as long as the model is loaded."""
        return 0 if self.cache is None else self.cache.bytes

    @property
    def peak(self) -> int:
        """Bytes that the host has held at once."""
        source = self.pools or self.stream
        return self.least + (0 if source is None else source.tier.peak)

    def resize(self, budget: int) -> None:
        """What the host keeps from now on, in bytes: `least` at least."""
        assert budget >= self.least, "keys and values stay where they are"
        if self.pools is not None:
            self.pools.tier.resize(budget)
        if self.stream is not None:
            self.stream.resize(budget - self.least)

    async def fill(self) -> None:
        """Brings experts or layers into the host's memory, as far as its budget goes.

        Cancel it at any time. Raises nothing: what is damaged is said when it is needed.
        """
        source = self.pools or self.stream
        if source is not None:
            with suppress(DopplerError):
                await source.fill()

    async def rest(self) -> None:
        """No token may come for a while: ends what is being read ahead of one, and gives back what
        weights go through to the GPU.
        """
        if self.pools is not None:
            self.pools.rest()
        if self.stream is not None:
            await self.stream.rest()

    def forget_recordings(self) -> None:
        """What was recorded is made anew where it is needed."""
        for rows in self.rows:
            rows.destroy()
        if self.pools is not None:
            self.pools.forget_recordings()
        if self.stream is not None:
            self.stream.forget_recordings()

    def release(self) -> None:
        """Gives back all that is its own."""
        for rows in self.rows:
            rows.destroy()
        if self.pools is not None:
            self.pools.release()
        if self.stream is not None:
            self.stream.release()
        if self.cache is not None:
            self.cache.release()

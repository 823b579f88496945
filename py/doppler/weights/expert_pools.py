"""The experts of a mixture that share slots on the GPU: which lie where, and bringing others.

A layer that does not hold all of its experts has slots for some. A table on the GPU has the slot of
each. All goes through one queue: what is queued after an expert was brought finds it, what was
queued before still finds what lay there.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from doppler.gpu.binder import Binder
from doppler.gpu.device import GpuBuffer
from doppler.gpu.kernels import Dispatch
from doppler.gpu.staging import StagingRing, ring_bytes
from doppler.gpu.step import View
from doppler.inputs.buffers import Buffer
from doppler.quantization.block_types import float32_bytes
from doppler.residency.policy import DEFAULT, policy
from doppler.residency.sightings import Sightings
from doppler.residency.tiers import Tier
from doppler.store.manifest import Manifest, Tensor
from doppler.weights.host_tier import HostTier, Unit
from doppler.weights.moves import Mover, moves
from doppler.weights.placement import Weights
from doppler.weights.read_ahead import ReadAhead

NONE = 0xFFFFFFFF  # in a table: an expert that has no slot
EMPTY = -1  # in place of an expert's number: a slot that holds none


@dataclass
class Counts:
    """Of a loaded model so far. misses, ahead: experts that were brought for what was missed, and
    for what was expected. replays: of a batch from a router on; halted_ms: until they were queued.
    passed: by layer, tokens that used each expert in passes, which lookups do not count.
    """

    misses: int = 0
    ahead: int = 0
    replays: int = 0
    halted_ms: float = 0.0
    passed: dict[int, list[int]] = field(default_factory=dict)


class ExpertPools:
    """The slots of each layer that has some. At first each holds the expert of its number.

    tables: the view of each layer's table of slots.
    """

    def __init__(
        self, binder: Binder, weights: Weights, tables: Mapping[int, View], tier: HostTier
    ) -> None:
        self._binder, self._weights, self._tables, self.tier = binder, weights, tables, tier
        manifest = tier.manifest
        self._experts = manifest.config.experts.count if manifest.config.experts else 0
        layers = len(manifest.config.layers)
        self._policy = policy(DEFAULT, layers, self._experts)
        self._sightings = Sightings(self._policy, layers, self._experts, len(tables))
        self._tensors = _by_unit(manifest)
        self._held: dict[int, list[int]] = {}  # layer -> the expert in each slot
        self._moves: dict[tuple[int, int], list[Dispatch]] = {}  # by layer and slot
        self._mover = Mover(binder.device.kernels, most=len(tables))
        self.counts = Counts()
        self._raw: GpuBuffer | None = None  # an expert as it is stored, once one was brought
        self._ring: StagingRing | None = None

    def reset(self, slots: Mapping[int, int]) -> None:
        """The weights were uploaded: each slot holds the expert of its number."""
        for layer, count in slots.items():
            self._held[layer] = list(range(count))
            self.counts.passed[layer] = [0] * self._experts
            self._write_table(layer)

    def release(self) -> None:
        """Gives back what is the pools' own."""
        self.forget_recordings()
        self.rest()
        if self._raw is not None:
            self._raw.destroy()
        self.tier.release()

    def rest(self) -> None:
        """Nothing is brought for a while: gives back what experts go through."""
        if self._ring is not None:
            self._ring.destroy()
            self._ring = None

    def forget_recordings(self) -> None:
        """What moves experts is recorded anew where it is needed."""
        self._mover.release()
        self._moves.clear()

    async def resize(
        self,
        place: Callable[[Mapping[int, int]], Weights],
        slots: Mapping[int, int],
        most: int | None,
    ) -> Weights:
        """Other numbers of slots, by layer, while nothing is queued; -> where weights are then.

        place: where they are with so many. Meanwhile everything on the GPU takes at most `most`
        bytes (None: what there is). Layers for which the device has no room keep what they had.
        Raises DeviceError where it has gone.
        """
        self.forget_recordings()
        wanted = place(slots)
        for layer, count in slots.items():
            if count != self.slots(layer):
                await self._resize_layer(layer, count, wanted, most)
        self._weights = place({layer: self.slots(layer) for layer in self._held})
        return self._weights

    async def _resize_layer(self, layer: int, count: int, new: Weights, most: int | None) -> None:
        from doppler.weights.pool_sizes import change_buffers, changed, copies_of  # seldom needed

        held = self._held[layer]
        there = [expert for expert in held if expert != EMPTY]
        excess = max(len(there) - count, 0)
        leaving = set(self._policy.victims(layer, there, excess, ()))
        staying = [expert for expert in there if expert not in leaving]
        slots = [
            (self._tensors[layer, held.index(expert)], self._tensors[layer, slot])
            for slot, expert in enumerate(staying)
        ]
        before, after = changed(self._weights, new, layer)
        copies = list(copies_of(self._weights, new, slots))
        outcome = await change_buffers(self._binder, before, after, copies, most)
        if not outcome.is_new:
            staying, count = (held if outcome.is_full else []), len(held)
        elif not outcome.is_full:
            staying = []
        self._held[layer] = [*staying, *[EMPTY] * (count - len(staying))]
        self._write_table(layer)

    async def fill(self) -> None:
        """Brings experts into the host's memory, as far as its budget goes: first those without a
        slot. Cancel it at any time.
        """
        there = {layer: set(held) for layer, held in self._held.items()}

        def is_on_gpu(unit: Unit) -> bool:
            layer, expert = unit
            return layer not in there or expert in there[layer]

        await self.tier.fill(is_on_gpu)

    def slots(self, layer: int) -> int:
        """Of a layer."""
        return len(self._held[layer])

    def resident(self, layer: int) -> list[int]:
        """The experts of a layer that are there, in order."""
        return sorted(set(self._held[layer]) - {EMPTY})

    def missing(self, layer: int, wanted: Collection[int]) -> list[int]:
        """Those that have no slot, in order."""
        return sorted(set(wanted) - set(self._held[layer])) if layer in self._held else []

    def passes(self, layer: int, wanted: Mapping[int, int]) -> list[list[int]]:
        """Experts of a batch, each with its tokens, in groups that have room together: those that
        are there come first, and those that most tokens want last, so that they stay. They count as
        used from then on.
        """
        count, passed = self.slots(layer), self.counts.passed[layer]
        self._sightings.passed(layer, wanted)
        for expert, tokens in wanted.items():
            passed[expert] += tokens
        here = [expert for expert in self._held[layer] if expert in wanted]
        ordered = here + sorted(self.missing(layer, wanted), key=lambda it: wanted[it])
        return [ordered[at : at + count] for at in range(0, len(ordered), count)]

    def note(self, layer: int, last: Sequence[int], counts: Sequence[int]) -> None:
        """When each expert of a layer was used last, by a clock, and how often so far."""
        self._sightings.note(layer, last, counts)

    async def bring(
        self, layer: int, wanted: Collection[int], keep: Collection[int] | None = None
    ) -> int:
        """Queues that all of `wanted` lie in slots, at most as many as there are; -> how many came.

        keep: who stays for it, if not only those; then fewer may come. Raises CorruptError or
        SourceError where one cannot be had; those before it have come.
        """
        coming, began = self.missing(layer, wanted), time.perf_counter()
        leaving = self._leaving(layer, wanted if keep is None else keep, len(coming))
        coming = coming[: len(leaving)]
        if not coming:
            return 0
        coming.sort(key=lambda expert: not self.tier.holds((layer, expert)))  # those first
        tiers: set[Tier] = set()
        reads = ReadAhead(lambda number: self.tier.get((layer, coming[number])), len(coming))
        try:
            for number, (expert, slot) in enumerate(zip(coming, leaving, strict=True)):
                is_here = self.tier.holds((layer, expert))  # then nothing is waited for
                got = self.tier.get((layer, expert)) if is_here else reads.get(number)
                data, tier = await got
                await self._move(layer, slot, expert, data)
                tiers.add(tier)
        finally:
            await reads.aclose()
            self._write_table(layer)
        self.tier.traffic.waited(tiers, 1000 * (time.perf_counter() - began))
        return len(coming)

    def pass_table(self, layer: int, experts: Collection[int]) -> bytes:
        """A table that has these experts alone, all of which are there."""
        held = self._held[layer]
        return self._table({expert: held.index(expert) for expert in experts})

    def _leaving(self, layer: int, kept: Collection[int], count: int) -> list[int]:
        """Slots that are empty, and then those whose experts leave, by the policy."""
        held = self._held.get(layer, [])
        free = [slot for slot, expert in enumerate(held) if expert == EMPTY][:count]
        there = [expert for expert in held if expert != EMPTY]
        leaving = self._policy.victims(layer, there, count - len(free), kept)
        return free + [held.index(expert) for expert in leaving]

    async def _move(self, layer: int, slot: int, expert: int, data: Buffer) -> None:
        """Queues that an expert's bytes become the weights of a slot."""
        gpu, buffers = self._binder.device.gpu, self.tier.buffers
        if self._ring is None:
            self._ring = StagingRing(gpu, expert_ring_bytes(self.tier.manifest))
        await self._ring.upload(self._room(), 0, data, 0, buffers.length(data))
        if (layer, slot) not in self._moves:
            self._moves[layer, slot] = list(self._dispatches(layer, slot))
        self._mover.run(self._moves[layer, slot])
        where = self.tier.range((layer, expert))
        for own, slots in self._pairs(layer, slot, expert):
            if slots.name in self._weights.vectors:
                at = own.offset - where.offset
                raw = buffers.to_bytes(buffers.part(data, at, at + own.bytes))
                view = self._weights.vectors[slots.name]
                self._binder.write(view, float32_bytes(own.type, raw))
        self._held[layer][slot] = expert

    def _room(self) -> GpuBuffer:
        """For an expert's bytes."""
        if self._raw is None:
            size = max(it.bytes for it in self.tier.manifest.experts)
            self._raw = self._binder.device.gpu.buffer(size, "staging", "an expert as it is stored")
        return self._raw

    def _dispatches(self, layer: int, slot: int) -> Iterator[Dispatch]:
        """What moves the matrices of what was uploaded into a slot."""
        first, label = self.tier.range((layer, slot)).offset, f"slot {slot} of layer {layer}"
        for tensor in self._tensors[layer, slot]:
            if tensor.name in self._weights.places:
                for move in moves(tensor, *self._weights.places[tensor.name], None):
                    yield move.dispatch(self._binder, self._room(), label, move.offset - first)

    def _pairs(self, layer: int, slot: int, expert: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Each tensor of an expert, and the one whose place in the slot it takes."""
        return zip(self._tensors[layer, expert], self._tensors[layer, slot], strict=True)

    def _write_table(self, layer: int) -> None:
        held = self._held[layer]
        table = self._table({expert: slot for slot, expert in enumerate(held)})
        self._binder.write(self._tables[layer], table)

    def _table(self, slots: Mapping[int, int]) -> bytes:
        return array("I", (slots.get(it, NONE) for it in range(self._experts))).tobytes()


def expert_ring_bytes(manifest: Manifest) -> int:
    """Of each buffer of the ring that experts go through: one takes an expert, if it is small."""
    return ring_bytes(max(it.bytes for it in manifest.experts))


def _by_unit(manifest: Manifest) -> dict[tuple[int, int], list[Tensor]]:
    """The tensors of each expert, by layer and number, in the order of its range."""
    config, found = manifest.config, dict[tuple[int, int], list[Tensor]]()
    for it in manifest.experts:
        names = config.expert_shapes(it.layer, it.expert)
        found[it.layer, it.expert] = [manifest.tensor(name) for name in names]
    return found

"""What of a model goes where, so that it fits: all of it on the GPU, or less, within a budget.

A table of embeddings may stay in storage, layers of a mixture may hold some of their experts only,
and of a dense model the last layers may be streamed. Everything that is ever allocated is counted
here before anything is.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from doppler.errors import DeviceError
from doppler.gpu.device import Gpu
from doppler.gpu.staging import BUFFERS
from doppler.plan.arena import batch_groups
from doppler.plan.bindings import MemoryLayout
from doppler.plan.cache import CacheType
from doppler.plan.capabilities import MATRIX_UNIT_BYTES, Adapter
from doppler.plan.decode import DecodePlan
from doppler.plan.layer import PlannedModel
from doppler.plan.matvec_configs import Cuts
from doppler.plan.prefill import PrefillPlan
from doppler.plan.segments import steps_of
from doppler.store.manifest import Manifest
from doppler.weights.expert_pools import ring_bytes
from doppler.weights.layer_stream import PART_BYTES, ring_needed
from doppler.weights.moves import moves
from doppler.weights.placement import Streamed, Weights, aligned, place_weights
from doppler.weights.streamed import RINGS, stream_layers
from doppler.weights.upload import staging_bytes, staging_needed
from doppler.weights.verified import hasher_bytes

TablePlace = Literal["gpu", "host", "auto"]
WIDE = 16  # lanes of a subgroup from which sharing a row among them pays: CPUs have 4 or 8
PARAMETERS = 256  # bytes that a dispatch's take
RECORDED = 6  # contexts, and sizes of chunks, for which plans are recorded
MOST_READ = 4 << 20  # bytes at once, of what is saved
READERS = 64 << 10  # bytes of what small readings go through
HOST_BUDGET = 2 << 30
SMALL_BATCHES = (64, 16)  # tokens
SMALLER = 0.75  # of the slots, where the device had no room


@dataclass(frozen=True)
class Options:
    """How a model is loaded: room for how many tokens, and with how many bits it computes."""

    context: int  # positions in the KV cache
    batch: int  # tokens of a prefill batch at most
    kv: CacheType  # what keys and values are kept as
    half: bool  # weights and activations are multiplied as f16
    table: TablePlace = "auto"  # where embeddings are that layers have of their own
    gpu_budget: int | None = None  # bytes that it never exceeds; None: what the device has
    host_budget: int = HOST_BUDGET  # bytes of experts in the host's memory
    taken_for: Mapping[str, Any] = field(default_factory=dict)  # of the adapter, in tests
    cuts: Cuts = field(default_factory=dict)  # of matvecs, as they were measured


@dataclass(frozen=True)
class Fit:
    """A way to place a model: rows of its table that have room on the GPU (0: all have), slots for
    experts by layer (layers that have none hold all), and the layers that stay, from the first on,
    where those behind them are streamed.
    """

    host_rows: int = 0
    slots: Mapping[int, int] = field(default_factory=dict)
    kept: int | None = None


def fits(gpu: Gpu, manifest: Manifest, options: Options) -> Iterator[tuple[Options, Fit]]:
    """Ways to place a model, the one that needs most memory first; none exceeds the budget.

    Batches become smaller where nothing else helps but to stream layers, and then where that does
    not help. Raises DeviceError where the least that it can do with is more than the budget.
    """
    batches = sorted({min(options.batch, it) for it in (options.batch, *SMALL_BATCHES)})
    needs = list[int]()
    for streams in (False, True):
        for batch in reversed(batches):
            smaller, found = replace(options, batch=batch), False
            for fit in _fits(gpu, manifest, smaller, streams, needs):
                found = True
                yield smaller, fit
            if found:
                break
    if needs and (least := min(needs)) > (options.gpu_budget or 0):
        raise DeviceError(
            f"{manifest.title} needs {least} bytes of GPU memory at least with a context of "
            f"{options.context} tokens, and the budget is {options.gpu_budget}: "
            "allow more, or load it with a shorter context"
        )


def _fits(
    gpu: Gpu, manifest: Manifest, options: Options, streams: bool, needs: list[int]
) -> Iterator[Fit]:
    """Ways with these batches, and with streamed layers or without; `needs` gets their bytes."""
    budget, tables = options.gpu_budget, _tables(manifest, options)

    def has_room(fit: Fit) -> bool:
        if budget is None:
            return True
        needs.append(needed(gpu, manifest, options, fit))
        return needs[-1] <= budget

    slots = _least_slots(manifest)
    if streams:
        smallest = Fit(tables[-1], kept=0)
        if not slots and _most_kept(manifest) >= 0 and has_room(smallest):
            yield from _with_layers(gpu, manifest, options, smallest)
        return
    yield from filter(has_room, map(Fit, tables))
    if slots and has_room(smallest := Fit(tables[-1], slots)):
        yield from _with_slots(gpu, manifest, options, smallest)


def _tables(manifest: Manifest, options: Options) -> list[int]:
    """Rows of the table that have room, as often as that can be tried; 0 is all."""
    if not manifest.config.per_layer:
        return [0]
    return {"gpu": [0], "host": [options.batch], "auto": [0, options.batch]}[options.table]


def _least_slots(manifest: Manifest) -> dict[int, int]:
    """Room for one token's experts, in every layer that has some."""
    config = manifest.config
    mixtures = ((index, config.mixture(index)) for index in range(len(config.layers)))
    return {index: it.used for index, it in mixtures if it is not None and it.used < it.count}


def _with_slots(gpu: Gpu, manifest: Manifest, options: Options, least: Fit) -> Iterator[Fit]:
    """As many slots as the budget has room for; then fewer, down to the least."""
    config = manifest.config
    counts = {index: len(config.expert_numbers(index)) for index in least.slots}
    slots = {index: count - 1 for index, count in counts.items()}
    if options.gpu_budget is not None:
        slots = _most_slots(gpu, manifest, options, least)
    while slots != least.slots:
        yield replace(least, slots=slots)
        slots = {it: max(int(SMALLER * n), least.slots[it]) for it, n in slots.items()}
    yield least


def _most_slots(gpu: Gpu, manifest: Manifest, options: Options, least: Fit) -> dict[int, int]:
    """Slots within the budget: alike in all layers, then one more in the first few."""
    assert options.gpu_budget is not None
    budget, config = options.gpu_budget, manifest.config
    counts = {index: len(config.expert_numbers(index)) for index in least.slots}

    def slots(more: int) -> dict[int, int]:
        """`more` of them than the least, dealt out over the layers in turn."""
        each, rest = divmod(more, len(counts))
        return {
            layer: min(least.slots[layer] + each + (place < rest), counts[layer])
            for place, layer in enumerate(counts)
        }

    def bytes_of(more: int) -> int:
        return needed(gpu, manifest, options, replace(least, slots=slots(more)))

    # Bytes are nearly in proportion, so that a guess between two known counts is nearly right.
    low, high = 0, sum(count - least.slots[layer] for layer, count in counts.items())
    of_low, of_high = bytes_of(low), bytes_of(high)
    while low < high and of_high > budget:
        share = (budget - of_low) / (of_high - of_low)
        guess = min(max(low + int(share * (high - low)), low + 1), high - 1)
        if guess == low:
            break
        if (of_guess := bytes_of(guess)) <= budget:
            low, of_low = guess, of_guess
        else:
            high, of_high = guess, of_guess
    return slots(high if of_high <= budget else low)


def _most_kept(manifest: Manifest) -> int:
    """Layers that stay where others are streamed: with one more, all would have room."""
    return len(manifest.config.layers) - RINGS - 1


def _with_layers(gpu: Gpu, manifest: Manifest, options: Options, least: Fit) -> Iterator[Fit]:
    """As many layers that stay as the budget has room for; then fewer, down to none."""
    kept = _most_kept(manifest)
    if options.gpu_budget is not None:

        def weights(count: int) -> int:
            return _allocated(planned(gpu, manifest, options, replace(least, kept=count)))

        # They are all that grows with the layers that stay.
        room = options.gpu_budget - needed(gpu, manifest, options, least) + weights(0)
        kept = bisect_right(range(1, kept + 1), room, key=weights)
    while kept:
        yield replace(least, kept=kept)
        kept = int(SMALLER * kept)
    yield least


def planned(gpu: Gpu, manifest: Manifest, options: Options, fit: Fit) -> PlannedModel:
    """What plans read of a model that is placed so. Raises as `place_weights` does."""
    layout = MemoryLayout(
        config=manifest.config,
        context=options.context,
        batch=options.batch,
        kv=options.kv,
        most_bound=gpu.limits["maxStorageBufferBindingSize"],
        slots=fit.slots,
    )
    weights = place_weights(manifest, gpu.limits, fit.host_rows, fit.slots)
    if fit.kept is not None:
        staging = staging_bytes(options.gpu_budget)
        weights = stream_layers(manifest, weights, fit.kept, staging)
    return PlannedModel(weights, layout, adapter_of(gpu, options), options.cuts)


def needed(gpu: Gpu, manifest: Manifest, options: Options, fit: Fit) -> int:
    """Bytes on the GPU at most, from the first of loading to the last of running."""
    return needed_by(planned(gpu, manifest, options, fit), manifest, options)


def needed_by(model: PlannedModel, manifest: Manifest, options: Options) -> int:
    """The same of a model that is planned."""
    layout, groups = model.layout, batch_groups(model)
    own = (layout.activations | layout.cache | layout.states).values()
    shared = (layout.batch_activations[group[0]] for group in groups)
    held = _allocated(model) + sum(aligned(it, 16) for it in (*own, *shared))
    return held + passing(model, manifest, options)


def passing(model: PlannedModel, manifest: Manifest, options: Options) -> int:
    """Bytes at most of what comes and goes while a model is loaded, or while it runs."""
    return READERS + max(staging_needed(manifest, options.gpu_budget), _running(model, manifest))


def bounds(gpu: Gpu, manifest: Manifest, options: Options) -> tuple[int, int]:
    """The least budget that a model runs in, and the least in which all of it is on the GPU."""
    small = replace(options, batch=min(options.batch, *SMALL_BATCHES))
    tables, slots = _tables(manifest, small), _least_slots(manifest)
    ways = [Fit(tables[-1], slots)]
    if not slots and _most_kept(manifest) >= 0:
        ways.append(Fit(tables[-1], kept=0))
    least = min(_least_budget(gpu, manifest, small, it) for it in ways)
    keeps_batches = slots or len(tables) > 1  # rather than all of it
    return least, _least_budget(gpu, manifest, options if keeps_batches else small, Fit())


def _least_budget(gpu: Gpu, manifest: Manifest, options: Options, fit: Fit) -> int:
    """Of staging, which takes a share of the budget, a small one has less."""
    size = needed(gpu, manifest, replace(options, gpu_budget=None), fit)
    while staging_bytes(size) < staging_bytes(None):
        smaller = needed(gpu, manifest, replace(options, gpu_budget=size), fit)
        if smaller >= size:
            break
        size = smaller
    return size


def _allocated(model: PlannedModel) -> int:
    """Bytes of weights, and of what brings them."""
    return sum(size for _, size in model.weights.allocations)


def _running(model: PlannedModel, manifest: Manifest) -> int:
    """Bytes that come and go while it runs: parameters of what is recorded, an expert."""
    decode, prefill, layout = DecodePlan(model), PrefillPlan(model), model.layout
    token = [*decode.body(layout.context), decode.head(), model.sample(), model.masked_sample()]
    steps = len(steps_of(token))
    if layout.batch > 1:
        steps += len(steps_of([*prefill.all(layout.batch), *prefill.passes(layout.batch)]))
    slots = sum(layout.slots.values())
    members = 3 if slots else 0  # matrices of an expert, each moved by a dispatch
    pools = 0
    if slots:
        through = max(it.bytes for it in manifest.experts) + BUFFERS * ring_bytes(manifest)
        watched = sum(view.size for view in layout.watched)  # by two flights; the uses by a panel
        pools = through + 2 * watched + layout.of_token["uses"].size
        if not model.adapter.is_cpu:
            pools += hasher_bytes(manifest.block_size, hashed_blocks(model, manifest))
    moved = members * len(layout.slots)
    if (streamed := model.weights.streamed) is not None:
        pools = ring_needed(streamed)
        moved = _moves(model.weights, streamed, manifest)
    asked = layout.rows_of_logits.size  # by drafts, and by whoever wants logits of all positions
    kept = min(sum(layout.cache.values()), MOST_READ)  # of keys and values that are saved
    return PARAMETERS * (RECORDED * steps + moved) + pools + asked + kept


def hashed_blocks(model: PlannedModel, manifest: Manifest) -> int:
    """The most blocks in which something lies that is brought at once: an expert, or a part."""
    experts = (it.bytes for it in manifest.experts)
    largest = max(experts) if model.layout.slots else PART_BYTES
    return largest // manifest.block_size + 2  # one more at each end


def _moves(weights: Weights, streamed: Streamed, manifest: Manifest) -> int:
    """Dispatches that streamed layers are moved by, as if all were streamed and no two alike."""
    size, places = streamed.raw.size, weights.places
    layers = (it for it in manifest.tensors if it.name in places and it.name.startswith("blk."))
    return sum(len(list(moves(it, *places[it.name], size))) for it in layers)


def adapter_of(gpu: Gpu, options: Options) -> Adapter:
    """What plans are made for."""
    wide = "subgroups" in gpu.features and gpu.subgroup_size >= WIDE
    workgroup_bytes = gpu.limits["maxComputeWorkgroupStorageSize"]
    has_units = gpu.has_matrix_units and workgroup_bytes >= MATRIX_UNIT_BYTES
    adapter = Adapter(
        subgroup_size=gpu.subgroup_size if wide else 0,
        workgroup_bytes=workgroup_bytes,
        is_cpu=gpu.is_cpu,
        half=options.half,
        matrix_units=options.half and has_units,
    )
    return replace(adapter, **options.taken_for)

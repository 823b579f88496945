"""How much of a model lies where, and the bytes on the GPU that this takes: all that is ever
allocated is counted here before anything is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from doppler.gpu.device import Gpu
from doppler.gpu.kernels import recorded_bytes
from doppler.gpu.offload import rings_bytes
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
from doppler.weights.expert_pools import expert_ring_bytes
from doppler.weights.hashing import hasher_bytes
from doppler.weights.layer_stream import PART_BYTES, ring_needed
from doppler.weights.moves import moves
from doppler.weights.placement import Streamed, Weights, aligned, place_weights
from doppler.weights.streamed import stream_layers
from doppler.weights.upload import staging_bytes, staging_needed

TablePlace = Literal["gpu", "host", "auto"]
WIDE = 16  # lanes of a subgroup from which sharing a row among them pays: CPUs have 4 or 8
RECORDED = 6  # contexts, and sizes of chunks, for which plans are recorded
MOST_READ = 4 << 20  # bytes at once, of what is saved
READERS = 64 << 10  # bytes of what small readings go through
HOST_BUDGET = 2 << 30


@dataclass(frozen=True)
class Options:
    """How a model is loaded: room for how many tokens, and with how many bits it computes."""

    context: int  # positions in the KV cache
    batch: int  # tokens of a prefill batch at most
    kv: CacheType  # what keys and values are kept as
    half: bool  # weights and activations are multiplied as f16
    table: TablePlace = "auto"  # where embeddings are that layers have of their own
    gpu_budget: int | None = None  # bytes that it never exceeds; None: what the device has
    host_budget: int = HOST_BUDGET  # bytes in the host's memory of what is not on the GPU
    taken_for: Mapping[str, Any] = field(default_factory=dict)  # of the adapter, in tests
    cuts: Cuts = field(default_factory=dict)  # of matvecs, as they were measured


@dataclass(frozen=True)
class Fit:
    """A way to place a model: rows of its table that have room on the GPU (0: all have), slots for
    experts by layer (layers that have none hold all), the layers that stay, from the first on,
    where those behind them are streamed, and how many have their keys and values in host memory:
    the first ones of `hostable`.
    """

    host_rows: int = 0
    slots: Mapping[int, int] = field(default_factory=dict)
    kept: int | None = None
    hosted: int = 0


def layout_of(gpu: Gpu, manifest: Manifest, options: Options, fit: Fit) -> MemoryLayout:
    """The running state of a model that is placed so."""
    layout = MemoryLayout(
        config=manifest.config,
        context=options.context,
        batch=options.batch,
        kv=options.kv,
        most_bound=gpu.limits["maxStorageBufferBindingSize"],
        slots=fit.slots,
    )
    return replace(layout, hosted=frozenset(layout.hostable[: fit.hosted]))


def planned(gpu: Gpu, manifest: Manifest, options: Options, fit: Fit) -> PlannedModel:
    """What plans read of a model that is placed so. Raises as `place_weights` does."""
    weights = place_weights(manifest, gpu.limits, fit.host_rows, fit.slots)
    if fit.kept is not None:
        staging = staging_bytes(options.gpu_budget)
        weights = stream_layers(manifest, weights, fit.kept, staging)
    layout = layout_of(gpu, manifest, options, fit)
    return PlannedModel(weights, layout, adapter_of(gpu, options), options.cuts)


def cache_bytes(layout: MemoryLayout) -> int:
    """Of keys and values, on the GPU."""
    return sum(aligned(size, 16) for _, size in layout.cache_buffers)


def needed(gpu: Gpu, manifest: Manifest, options: Options, fit: Fit) -> int:
    """Bytes on the GPU at most, from the first of loading to the last of running."""
    return needed_by(planned(gpu, manifest, options, fit), manifest, options)


def needed_by(model: PlannedModel, manifest: Manifest, options: Options) -> int:
    """The same of a model that is planned."""
    layout, groups = model.layout, batch_groups(model)
    own = (layout.activations | layout.states).values()
    shared = (layout.batch_activations[group[0]] for group in groups)
    held = allocated(model) + cache_bytes(layout) + sum(aligned(it, 16) for it in (*own, *shared))
    return held + passing(model, manifest, options)


def passing(model: PlannedModel, manifest: Manifest, options: Options) -> int:
    """Bytes at most of what comes and goes while a model is loaded, or while it runs."""
    return READERS + max(staging_needed(manifest, options.gpu_budget), _running(model, manifest))


def allocated(model: PlannedModel) -> int:
    """Bytes of weights, and of what brings them."""
    return sum(size for _, size in model.weights.allocations)


def _running(model: PlannedModel, manifest: Manifest) -> int:
    """Bytes that come and go while it runs: parameters of what is recorded, an expert."""
    decode, prefill, layout = DecodePlan(model), PrefillPlan(model), model.layout
    token = [*decode.body(layout.context), decode.head(), model.sample(), model.masked_sample()]
    steps = len(steps_of(token))
    if layout.batch > 1:
        steps += len(steps_of([*prefill.all(layout.batch), *prefill.passes(layout.batch)]))
    pools = 0
    if layout.slots:
        through = max(it.bytes for it in manifest.experts) + BUFFERS * expert_ring_bytes(manifest)
        watched = sum(view.size for view in layout.watched)  # by two flights; the uses by a panel
        pools = through + 2 * watched + layout.of_token["uses"].size
    moved = 3 * len(layout.slots)  # matrices of an expert, each moved by a dispatch
    if (streamed := model.weights.streamed) is not None:
        pools = ring_needed(streamed)
        moved = _moves(model.weights, streamed, manifest)
    if layout.hosted:
        pools += rings_bytes(layout.largest_hosted)
    asked = layout.rows_of_logits.size  # by drafts, and by whoever wants logits of all positions
    kept = min(sum(layout.cache.values()), MOST_READ)  # of keys and values that are saved
    return recorded_bytes(RECORDED * steps + moved) + pools + asked + kept


def hashed_blocks(manifest: Manifest) -> int:
    """The most blocks in which something lies that is brought at once: an expert, or a part."""
    largest = max((it.bytes for it in manifest.experts), default=PART_BYTES)
    return largest // manifest.block_size + 2  # one more at each end


def hashing_room(manifest: Manifest) -> int:
    """Bytes on the GPU of what hashes there while a model runs. Not part of what it needs: without
    room for it, it hashes on the host.
    """
    return hasher_bytes(manifest.block_size, hashed_blocks(manifest))


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

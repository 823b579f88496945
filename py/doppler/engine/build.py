"""A model's engine on a device: weights get their places, plans their memory, all still empty."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from doppler.engine.engine import Engine
from doppler.engine.memory import EngineMemory
from doppler.errors import DeviceError
from doppler.gpu.binder import Binder
from doppler.gpu.device import Gpu
from doppler.gpu.kernels import Device
from doppler.plan.arena import batch_groups
from doppler.plan.bindings import MemoryLayout
from doppler.plan.capabilities import MATRIX_UNIT_BYTES, Adapter
from doppler.plan.layer import PlannedModel
from doppler.plan.matvec_configs import Cuts
from doppler.store.manifest import Manifest
from doppler.weights.placement import place_weights

TablePlace = Literal["gpu", "host", "auto"]
WIDE = 16  # lanes of a subgroup from which sharing a row among them pays: CPUs have 4 or 8


@dataclass(frozen=True)
class Options:
    """How a model is loaded: room for how many tokens, and with how many bits it computes."""

    context: int  # positions in the KV cache
    batch: int  # tokens of a prefill batch at most
    half_cache: bool  # keys and values are f16
    half: bool  # weights and activations are multiplied as f16
    table: TablePlace = "auto"  # where embeddings are that layers have of their own
    taken_for: Mapping[str, Any] = field(default_factory=dict)  # of the adapter, in tests
    cuts: Cuts = field(default_factory=dict)  # of matvecs, as they were measured


async def build(device: Device, manifest: Manifest, options: Options) -> Engine:
    """An engine with room for everything; its weights are to be uploaded.

    A table that may be anywhere ("auto") stays on the host where the device has no room for it.
    Raises UnsupportedError or FormatError for tensors that cannot be placed, and DeviceError where
    the device has no room; nothing is held then.
    """
    if options.table == "host" or not manifest.config.per_layer:
        return await _build(device, manifest, options, options.batch)
    try:
        return await _build(device, manifest, options, 0)
    except DeviceError:
        if options.table == "gpu":
            raise
        return await _build(device, manifest, options, options.batch)


async def _build(device: Device, manifest: Manifest, options: Options, host_rows: int) -> Engine:
    """With room for so many rows of such a table, or for all (0)."""
    binder = Binder(device)
    try:
        weights = place_weights(manifest, device.gpu.limits, host_rows)
        async with device.gpu.scope("room for the weights"):
            for name, size in weights.buffers.items():
                binder.allocate([name], size, "weights")
        layout = MemoryLayout(
            config=manifest.config,
            context=options.context,
            batch=options.batch,
            half_cache=options.half_cache,
            most_bound=device.gpu.limits["maxStorageBufferBindingSize"],
        )
        adapter = adapter_of(device.gpu, options)
        model = PlannedModel(weights, layout, adapter, options.cuts)
        memory = EngineMemory(binder, layout)
        async with device.gpu.scope("KV cache and activations"):
            memory.allocate(batch_groups(model))
            memory.write_tables()
        return Engine(binder, memory, model)
    except BaseException:
        binder.destroy()
        raise


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

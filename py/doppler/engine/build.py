"""A model's engine on a device: weights get their places, plans their memory, all still empty."""

from __future__ import annotations

from doppler.engine.engine import Engine
from doppler.engine.fit import fits
from doppler.engine.footprint import READERS, Fit, Options, passing, planned
from doppler.engine.gpu_budget import GpuBudget
from doppler.engine.memory import EngineMemory
from doppler.errors import DeviceError
from doppler.gpu.binder import Binder
from doppler.gpu.kernels import Device
from doppler.plan.arena import batch_groups
from doppler.store.manifest import Manifest


async def build(device: Device, manifest: Manifest, options: Options) -> Engine:
    """An engine with room for everything, or for as much as the device or the budget allows; its
    weights are to be uploaded.

    Raises UnsupportedError or FormatError for tensors that cannot be placed, and DeviceError where
    the device has no room; nothing is held then.
    """
    failure: DeviceError | None = None
    for smaller, fit in fits(device.gpu, manifest, options):
        try:
            return await _build(device, manifest, smaller, fit)
        except DeviceError as error:
            if device.gpu.lost is not None:
                raise
            failure = failure or error  # what was wanted first says most
    assert failure is not None, "there is always a way to try"
    raise failure


async def _build(device: Device, manifest: Manifest, options: Options, fit: Fit) -> Engine:
    binder = Binder(device)
    try:
        model = planned(device.gpu, manifest, options, fit)
        async with device.gpu.scope("room for the weights"):
            for names, size in model.weights.allocations:
                binder.allocate(names, size, "weights")
        memory = EngineMemory(binder, model.layout)
        async with device.gpu.scope("KV cache and activations"):
            memory.allocate(batch_groups(model))
            memory.write_tables()
        size = passing(model, manifest, options) - READERS  # which may be there already
        async with device.gpu.scope("room for what comes and goes"):
            room = device.gpu.buffer(
                min(size, device.gpu.limits["maxBufferSize"]), "staging", "what comes and goes"
            )
        room.destroy()
        return Engine(binder, memory, model, GpuBudget(device, manifest, options, fit, model))
    except BaseException:
        binder.destroy()
        raise

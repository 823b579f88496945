"""Whether subgroups lie as kernels take them to: a probe, run once when the device is opened."""

from __future__ import annotations

from array import array

from doppler.gpu.device import Slice
from doppler.gpu.kernels import Device

THREADS = 256  # of lanes.wgsl


async def forgo_scattered_subgroups(device: Device) -> None:
    """Leaves subgroups unused on a device where they are no runs of local invocation indices."""
    if "subgroups" in device.gpu.features and not await are_runs(device):
        device.gpu.forgo_subgroups()


async def are_runs(device: Device) -> bool:
    """Runs the probe. Raises DeviceError where the device refuses it."""
    gpu, kernels = device.gpu, device.kernels
    found = gpu.buffer(4 * THREADS, "staging", "lanes")
    part = Slice(found, 0, found.size)
    await kernels.prepare(kernels.variant("lanes", {}, {"runs"}))
    grid = kernels.grid("lanes", {})
    recording = kernels.record([kernels.dispatch("lanes", {}, {"runs": part}, {}, grid, "lanes")])
    try:
        kernels.run(recording)
        return all(array("I", await gpu.read(part)))
    finally:
        recording.destroy()
        found.destroy()

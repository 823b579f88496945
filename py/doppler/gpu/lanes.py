"""Whether subgroups lie as kernels take them to: a probe, run once when the device is opened."""

from __future__ import annotations

from array import array

from doppler.gpu.device import Gpu, Slice
from doppler.gpu.kernels import Kernels

THREADS = 256  # of kernels/lanes.wgsl


async def forgo_scattered_subgroups(gpu: Gpu, kernels: Kernels) -> None:
    """Leaves subgroups unused on a device where they are no runs of local invocation indices."""
    if "subgroups" in gpu.features and not await are_runs(gpu, kernels):
        gpu.forgo_subgroups()


async def are_runs(gpu: Gpu, kernels: Kernels) -> bool:
    """Runs the probe. Raises DeviceError where the device refuses it."""
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

"""How fast the GPU reads its memory: the ceiling that decoding is measured against."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median
from typing import Literal

from doppler.gpu.device import Gpu, Slice
from doppler.gpu.grids import MOST_AT_ONCE
from doppler.gpu.kernels import Device, Recording, recorded_bytes
from doppler.gpu.profile import RUNS, warm_up

TILE = 16 << 10  # bytes that a workgroup of bandwidth.wgsl reads at once
THREADS = 256  # of a workgroup
SUMS = 4 * THREADS * MOST_AT_ONCE  # bytes
# Bytes, of which caches hold a tenth at most, and passes over them that are timed together, since
# browsers may round single times: on a GPU, and on a CPU that plays one.
GPU_READS, CPU_READS = (512 << 20, 64), (64 << 20, 4)


@dataclass(frozen=True)
class Bandwidth:
    """`gb_s` of reading `bytes` at once, timed by the GPU's own clock or by the page's."""

    bytes: int
    gb_s: float
    by: Literal["timestamps", "clock"]


def bandwidth_bytes(gpu: Gpu) -> int:
    """What `measure_bandwidth` takes of the GPU's memory."""
    size, passes = _reads(gpu)
    return size + SUMS + recorded_bytes(passes)


def _reads(gpu: Gpu) -> tuple[int, int]:
    """Bytes that are read at once, and passes over them."""
    most, passes = CPU_READS if gpu.is_cpu else GPU_READS
    limits = (gpu.limits["maxBufferSize"], gpu.limits["maxStorageBufferBindingSize"])
    return min(most, *limits) // TILE * TILE, passes


async def measure_bandwidth(device: Device) -> Bandwidth:
    """Of a streaming read, the median of several."""
    gpu, kernels = device.gpu, device.kernels
    size, passes = _reads(gpu)
    data = gpu.buffer(size, "staging", "bandwidth")
    sums = gpu.buffer(SUMS, "staging", "bandwidth, sums")
    try:
        bindings = {"data": Slice(data, 0, size), "sums": Slice(sums, 0, sums.size)}
        await kernels.prepare(kernels.variant("bandwidth", {}, bindings))
        params = {"tiles": size // TILE}
        grid = kernels.grid("bandwidth", params)
        dispatch = kernels.dispatch("bandwidth", {}, bindings, params, grid, "bandwidth")
        recording = kernels.record([dispatch] * passes)
        try:
            seconds = await _seconds(device, recording)
        finally:
            recording.destroy()
    finally:
        data.destroy()
        sums.destroy()
    by: Literal["timestamps", "clock"] = (
        "timestamps" if "timestamp-query" in gpu.features else "clock"
    )
    return Bandwidth(size, round(passes * size / seconds / 1e9, 3), by)


async def _seconds(device: Device, recording: Recording) -> float:
    """Of all passes together, by the GPU's own clock where it has one."""
    gpu, kernels = device.gpu, device.kernels
    await warm_up(gpu, lambda: kernels.run(recording))
    times = []
    for _ in range(RUNS):
        if "timestamp-query" in gpu.features:
            times.append(sum(await kernels.time([recording])) / 1e6)
        else:
            began = time.perf_counter()
            kernels.run(recording)
            await gpu.done()
            times.append(time.perf_counter() - began)
    return median(times)

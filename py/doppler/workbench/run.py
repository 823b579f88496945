"""Launches on a device: arrays go up, kernels run one after another, outputs come back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from statistics import median

import numpy as np

from doppler.gpu.device import Gpu, Slice
from doppler.gpu.kernels import Device, Recording
from doppler.workbench.case import Array, Arrays, Launch

RUNS = 9  # of which the median is told


async def run(
    device: Device, launches: Sequence[Launch], arrays: Arrays, outputs: Sequence[str]
) -> dict[str, Array]:
    """The arrays named in `outputs`, in their shapes and types, after all launches.

    Raises DeviceError, of which nothing else of the device hears.
    """
    async with (
        _uploaded(device.gpu, arrays) as slices,
        _recorded(device, launches, slices) as recording,
    ):
        device.kernels.run(recording)
        return {name: await _download(device.gpu, slices[name], arrays[name]) for name in outputs}


async def time(device: Device, launches: Sequence[Launch], arrays: Arrays) -> float:
    """Microseconds of GPU time that the launches take together: the median of some runs.

    Needs an adapter that has timestamps.
    """
    async with (
        _uploaded(device.gpu, arrays) as slices,
        _recorded(device, launches, slices) as recording,
    ):
        device.kernels.run(recording)
        times = await device.kernels.time(*[[recording]] * RUNS)
        return median(times)


@asynccontextmanager
async def _uploaded(gpu: Gpu, arrays: Arrays) -> AsyncIterator[dict[str, Slice]]:
    """A buffer for each array. Errors within name the stage."""
    slices: dict[str, Slice] = {}
    try:
        async with gpu.scope("running a kernel"):
            for name, values in arrays.items():
                slices[name] = _upload(gpu, name, values)
            yield slices
    finally:
        for part in slices.values():
            part.buffer.destroy()


@asynccontextmanager
async def _recorded(
    device: Device, launches: Sequence[Launch], slices: Mapping[str, Slice]
) -> AsyncIterator[Recording]:
    kernels, dispatches = device.kernels, []
    for it in launches:
        bindings = {name: slices[array] for name, array in it.bindings.items()}
        await kernels.prepare(kernels.variant(it.kernel, it.constants, bindings))
        grid = kernels.grid(it.kernel, {**it.constants, **it.params}, it.tokens)
        dispatches.append(
            kernels.dispatch(it.kernel, it.constants, bindings, it.params, grid, it.kernel)
        )
    recording = kernels.record(dispatches)
    try:
        yield recording
    finally:
        recording.destroy()


def _upload(gpu: Gpu, name: str, values: Array) -> Slice:
    data = values.tobytes()
    data += bytes(-len(data) % 16)
    buffer = gpu.buffer(max(len(data), 16), "activations", name)
    gpu.write(buffer, 0, data)
    return Slice(buffer, 0, buffer.size)


async def _download(gpu: Gpu, part: Slice, like: Array) -> Array:
    data = await gpu.read(part)
    return np.frombuffer(data[: like.nbytes], like.dtype).reshape(like.shape)

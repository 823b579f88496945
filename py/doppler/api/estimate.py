"""What a load would hold on the GPU, found by the code that allocates, on a device that is paper.

Nothing is uploaded or compiled; a table that may be anywhere is taken to be on the GPU, since on
paper there is always room. The engine's plans are made, since activations share memory as the
plans let them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, get_args

from doppler.api.messages import Memory
from doppler.api.request import Room
from doppler.engine.build import build
from doppler.gpu.device import Gpu, GpuBuffer, MemoryKind
from doppler.gpu.kernels import Device, Kernels
from doppler.store.manifest import Manifest


class _Nothing:
    """What a buffer on paper holds."""

    def destroy(self) -> None:
        """It takes no memory."""


class PaperGpu(Gpu):
    """An adapter by its limits and features, whose buffers hold nothing: they are only counted."""

    def __init__(
        self,
        limits: Mapping[str, int],
        features: frozenset[str] = frozenset(),
        subgroup_size: int = 0,
        is_cpu: bool = False,
        has_matrix_units: bool = False,
    ) -> None:
        self.limits, self.features = dict(limits), features
        self.subgroup_size, self.is_cpu = subgroup_size, is_cpu
        self.has_matrix_units = has_matrix_units
        self.peak, self.lost = 0, None
        self._memory = dict.fromkeys(get_args(MemoryKind), 0)

    @classmethod
    def like(cls, gpu: Gpu) -> PaperGpu:
        """One of which plans and allocations come out as on `gpu`."""
        return cls(gpu.limits, gpu.features, gpu.subgroup_size, gpu.is_cpu, gpu.has_matrix_units)

    def write(self, buffer: GpuBuffer, offset: int, data: bytes | Any) -> None:
        """Goes nowhere."""
        assert offset + len(data) <= buffer.size

    @asynccontextmanager
    async def scope(self, stage: str) -> AsyncIterator[None]:
        """Nothing goes wrong on paper."""
        yield

    def _create(self, size: int, kind: MemoryKind, label: str, usage: int) -> GpuBuffer:
        self._memory[kind] += size
        self.peak = max(self.peak, sum(self._memory.values()))
        return GpuBuffer(self, size, kind, _Nothing())


async def memory_needed(gpu: Gpu, manifest: Manifest, room: Room) -> Memory:
    """Bytes by kind, and their total, that the model would hold on `gpu` once it is loaded.

    Raises what the load would raise at once: UnsupportedError for a block type without kernels,
    DeviceError where a buffer is larger than the adapter allows.
    """
    paper = PaperGpu.like(gpu)
    await build(Device(paper, Kernels(paper, {})), manifest, room.options(paper, {}))
    return paper.memory()

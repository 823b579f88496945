"""An engine on paper: the plans of a model of any size on any adapter, without a GPU or weights.

Only the device is played (api/estimate.py). What plans bind, and how much of it, is what
engine/build.py makes for a page.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from doppler.api.estimate import PaperGpu
from doppler.command.shapes import SHAPES
from doppler.command.synth import type_of
from doppler.engine.build import build
from doppler.engine.engine import Engine
from doppler.engine.footprint import Options
from doppler.gpu.kernels import Device, Kernels
from doppler.plan.cache import CacheType
from doppler.quantization.block_types import BLOCK_TYPES
from doppler.store.manifest import BLOCK_SIZE, ExpertRange, Manifest, Tensor


def large_gpu() -> PaperGpu:
    """What Chromium gives of an H100."""
    limits = {
        "maxBufferSize": (4 << 30) - 4,
        "maxStorageBufferBindingSize": (2 << 30) - 4,
        "maxStorageBuffersPerShaderStage": 16,
        "maxComputeWorkgroupStorageSize": 48 << 10,
        "maxComputeInvocationsPerWorkgroup": 1024,
        "maxComputeWorkgroupSizeX": 1024,
        "maxComputeWorkgroupsPerDimension": 65535,
    }
    features = frozenset({"shader-f16", "subgroups", "timestamp-query"})
    return PaperGpu(limits, features, subgroup_size=32)


def least_gpu() -> PaperGpu:
    """The standard's default limits and nothing optional."""
    limits = {
        "maxBufferSize": 256 << 20,
        "maxStorageBufferBindingSize": 128 << 20,
        "maxStorageBuffersPerShaderStage": 8,
        "maxComputeWorkgroupStorageSize": 16 << 10,
        "maxComputeInvocationsPerWorkgroup": 256,
        "maxComputeWorkgroupSizeX": 256,
        "maxComputeWorkgroupsPerDimension": 65535,
    }
    return PaperGpu(limits)


def synthetic(shape: str) -> Manifest:
    """The manifest that `doppler synth` would write, without blocks."""
    config = SHAPES[shape]
    tensors = []
    for name, extents in config.tensor_shapes().items():
        kind = type_of(config, name, extents)
        size = BLOCK_TYPES[kind].tensor_bytes(extents)
        tensors.append(Tensor(name, kind, tuple(extents), 0, size))
    return Manifest(
        name=shape,
        title=shape,
        license=None,
        config=config,
        tokenizer=None,
        tensors=tuple(tensors),
        bytes=0,
        block_size=BLOCK_SIZE,
        blocks=(),
        shards=(),
    )


def ranged(shape: str) -> Manifest:
    """The same with ranges of experts, of the size that their tensors have."""
    manifest = synthetic(shape)
    config, sizes = manifest.config, {it.name: it.bytes for it in manifest.tensors}
    ranges = [
        ExpertRange(layer, expert, 0, sum(sizes[n] for n in config.expert_shapes(layer, expert)))
        for layer in range(len(config.layers))
        for expert in config.expert_numbers(layer)
    ]
    return replace(manifest, experts=tuple(ranges))


def paper_engine(
    manifest: Manifest,
    gpu: PaperGpu,
    context: int = 4096,
    batch: int = 512,
    kv: CacheType = "f16",
) -> Engine:
    """The engine that a page would have."""
    options = Options(context, batch, kv, half="shader-f16" in gpu.features)
    return asyncio.run(build(Device(gpu, Kernels(gpu, {})), manifest, options))

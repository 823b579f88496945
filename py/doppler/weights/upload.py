"""Stored bytes -> the weights' buffers on the GPU, verified on the way.

Raw blocks of the file are staged a few rows at a time; relayout.wgsl moves them into planes
without loss. Verifying is verified.py's: nothing is given away before all of it has passed.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Callable, Iterable
from contextlib import aclosing

from doppler.config.model import ModelConfig
from doppler.gpu.binder import Binder
from doppler.gpu.device import GpuBuffer
from doppler.gpu.kernels import Device, recorded_bytes
from doppler.gpu.staging import BUFFERS, ring_bytes
from doppler.quantization.block_types import BLOCK_TYPES, float32_bytes
from doppler.store.manifest import Manifest, Tensor
from doppler.store.shards import ShardStore
from doppler.weights.hashing import is_quicker_on_gpu
from doppler.weights.moves import Mover, moves
from doppler.weights.placement import Weights, aligned, relayout_of
from doppler.weights.verified import Feed, GpuFeed, HostFeed, gpu_feed_bytes

STAGING_BYTES = 8 << 20
LEAST_STAGING = 64 << 10
MOST_MOVES = 4  # whose recordings are kept: an expert has three matrices, as the next one has
STAGING_SHARE = 32  # of a budget at most one part in so many


async def prepare_upload(
    device: Device, weights: Weights, store: ShardStore, budget: int | None = None
) -> bool:
    """Compiles what an upload within a `budget` runs, before all that can wait; -> whether the GPU
    is to hash.
    """
    kernels, variants, places = device.kernels, set(), weights.places
    moved = [(it, places[it.name][0]) for it in store.manifest.tensors if it.name in places]
    if (table := weights.on_host) is not None:
        moved.append((table.tensor, table.matrix))
    for tensor, matrix in moved:
        bindings = {"raw", *matrix.slices[0].bindings()}
        variants.add(kernels.variant("relayout", relayout_of(tensor, matrix), bindings))
    await asyncio.gather(*map(kernels.prepare, variants))
    manifest = store.manifest
    blocks = max(staging_bytes(budget) // manifest.block_size, 1)
    return await is_quicker_on_gpu(device, manifest.block_size, blocks, store.buffers)


def staging_bytes(budget: int | None) -> int:
    """What each staging buffer of an upload has, where the GPU's memory is limited to a budget."""
    if budget is None:
        return STAGING_BYTES
    return min(max(budget // STAGING_SHARE // 256 * 256, LEAST_STAGING), STAGING_BYTES)


def staging_needed(manifest: Manifest, budget: int | None) -> int:
    """Bytes on the GPU that an upload takes at most besides the weights."""
    size, block = staging_bytes(budget), manifest.block_size
    rows = (BLOCK_TYPES[it.type].row_bytes(it.shape[1]) for it in manifest.tensors if it.shape[1:])
    raw = max(size, aligned(4 * max(rows, default=0)))
    ring = BUFFERS * ring_bytes(size)
    raw += recorded_bytes(MOST_MOVES)
    return raw + ring + gpu_feed_bytes(block, max(size // block, 1), len(manifest.blocks))


async def upload_weights(
    binder: Binder,
    weights: Weights,
    store: ShardStore,
    hash_on_gpu: bool,
    progress: Callable[[int, int], None],
    budget: int | None = None,
) -> None:
    """Reads, verifies, uploads and re-lays out every tensor of a model, in file order.

    The weights' buffers are those of `binder`. `progress` gets bytes done and bytes in all. Staging
    keeps to its share of a `budget`. Raises CorruptError or SourceError from `store`, and
    DeviceError; the weights are of no use then.
    """
    device, manifest = binder.device, store.manifest
    size = staging_bytes(budget)
    here = [tensor for tensor in manifest.tensors if tensor.name not in weights.elsewhere]
    tensors = sorted(here, key=lambda t: t.offset)
    uploader = _Uploader(binder, weights, manifest.config, size)

    def report(done: int) -> None:
        progress(done, manifest.bytes)

    try:
        async with device.gpu.scope("upload of the weights"):
            if not hash_on_gpu:
                async with aclosing(HostFeed(device.gpu, store, size)) as host:
                    await uploader.load(tensors, host, report)
                return
            apart = _between_streamed(weights)
            async with aclosing(GpuFeed(device, store, size)) as feed:
                await uploader.load([t for t in tensors if t.name not in apart], feed, report)
                bad = await feed.bad_blocks()
            # The host hashes those again, mends what is stored, or says what is wrong with it.
            again = {t.name for t in tensors if bad & {*_blocks(t, manifest.block_size)}} | apart
            if again:
                async with aclosing(HostFeed(device.gpu, store, size)) as host:
                    await uploader.load(
                        [t for t in tensors if t.name in again], host, lambda done: None
                    )
    finally:
        uploader.release()


def _between_streamed(weights: Weights) -> set[str]:
    """Vectors of streamed layers: for a few bytes each, windows of matrices that are not wanted yet
    would come to the GPU.
    """
    if weights.streamed is None:
        return set()
    prefixes = tuple(f"blk.{layer}." for layer in weights.streamed.layers)
    return {name for name in weights.vectors if name.startswith(prefixes)}


def _scaled(values: bytes, config: ModelConfig, scale: float) -> bytes:
    """Weights of a norm that scale logits, too: the matrix of these multiplies what it gives."""
    if scale == 1:
        return values
    offset = config.norm_offset
    scaled = ((weight + offset) * scale - offset for weight in memoryview(values).cast("f"))
    return array("f", scaled).tobytes()


def _scale_of(name: str, config: ModelConfig) -> float:
    """By which the norm of that name multiplies: the last one, or a router's own; or 1."""
    if name == "output_norm.weight":
        return config.logit_scale
    return config.router_scale if name.endswith(".ffn_gate_inp_norm.weight") else 1.0


def _blocks(tensor: Tensor, size: int) -> range:
    """Indices of the blocks that hold a tensor."""
    return range(tensor.offset // size, (tensor.offset + tensor.bytes - 1) // size + 1)


class _Uploader:
    """Holds the staging buffer while tensors are loaded one after another."""

    def __init__(self, binder: Binder, weights: Weights, config: ModelConfig, size: int) -> None:
        self._gpu, self._mover = binder.device.gpu, Mover(binder.device.kernels, MOST_MOVES)
        self._binder, self._weights, self._config = binder, weights, config
        self._size = size
        self._staging: GpuBuffer | None = None

    def release(self) -> None:
        self._mover.release()
        if self._staging is not None:
            self._staging.destroy()

    async def load(
        self, tensors: Iterable[Tensor], feed: Feed, progress: Callable[[int], None]
    ) -> None:
        for tensor in tensors:
            if tensor.name in self._weights.vectors:
                raw = await feed.read(tensor.offset, tensor.bytes)
                values = float32_bytes(tensor.type, raw)
                values = _scaled(values, self._config, _scale_of(tensor.name, self._config))
                self._binder.write(self._weights.vectors[tensor.name], values)
            elif tensor.name in self._weights.places:
                await self._load_matrix(tensor, feed)
            else:
                await feed.check(tensor.offset, tensor.bytes)
            progress(tensor.offset + tensor.bytes)

    async def _load_matrix(self, tensor: Tensor, feed: Feed) -> None:
        row_bytes = BLOCK_TYPES[tensor.type].row_bytes(tensor.shape[1])
        staging = self._staging_for(4 * row_bytes)
        for move in moves(tensor, *self._weights.places[tensor.name], staging.size):
            await feed.stage(staging, move.offset, move.length)
            self._mover.run([move.dispatch(self._binder, staging, f"relayout {tensor.name}")])

    def _staging_for(self, least: int) -> GpuBuffer:
        if self._staging is None or self._staging.size < least:
            if self._staging is not None:
                self._mover.release()  # which binds it
                self._staging.destroy()
            size = aligned(max(least, self._size))
            self._staging = self._gpu.buffer(size, "staging", "raw weights")
        return self._staging

"""Stored bytes -> the weights' buffers on the GPU, verified on the way.

Raw blocks of the file are staged a few rows at a time; relayout.wgsl moves them into planes
without loss. Verifying is verified.py's: nothing is given away before all of it has passed.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Callable, Iterable, Mapping

from doppler.config.model import ModelConfig
from doppler.gpu.binder import Binder
from doppler.gpu.device import GpuBuffer, Slice
from doppler.gpu.kernels import Device
from doppler.quantization.block_types import BLOCK_TYPES, float32_bytes
from doppler.store.manifest import Tensor
from doppler.store.shards import ShardStore
from doppler.weights.placement import MatrixSlice, Weights, aligned, relayout_of
from doppler.weights.verified import Feed, GpuFeed, HostFeed, is_quicker_on_gpu

STAGING_BYTES = 8 << 20


async def prepare_upload(device: Device, weights: Weights, store: ShardStore) -> bool:
    """Compiles what an upload runs, before all that can wait; -> whether the GPU is to hash."""
    kernels, variants, places = device.kernels, set(), weights.places
    moved = [(it, places[it.name][0]) for it in store.manifest.tensors if it.name in places]
    if (table := weights.on_host) is not None:
        moved.append((table.tensor, table.matrix))
    for tensor, matrix in moved:
        bindings = {"raw", *matrix.slices[0].bindings()}
        variants.add(kernels.variant("relayout", relayout_of(tensor, matrix), bindings))
    await asyncio.gather(*map(kernels.prepare, variants))
    return await is_quicker_on_gpu(device, store.manifest.block_size, store.buffers)


async def upload_weights(
    binder: Binder,
    weights: Weights,
    store: ShardStore,
    hash_on_gpu: bool,
    progress: Callable[[int, int], None],
) -> None:
    """Reads, verifies, uploads and re-lays out every tensor of a model, in file order.

    The weights' buffers are those of `binder`. `progress` gets bytes done and bytes in all. Raises
    CorruptError or SourceError from `store`, and DeviceError; the weights are of no use then.
    """
    device, manifest = binder.device, store.manifest
    host = HostFeed(device.gpu, store)
    uploader = _Uploader(binder, weights, manifest.config)
    tensors = sorted(manifest.tensors, key=lambda t: t.offset)
    try:
        async with device.gpu.scope("upload of the weights"):
            if not hash_on_gpu:
                await uploader.load(tensors, host, lambda done: progress(done, manifest.bytes))
                return
            feed = GpuFeed(device, store)
            try:
                await uploader.load(tensors, feed, lambda done: progress(done, manifest.bytes))
                bad = await feed.bad_blocks()
            finally:
                feed.release()
            # The host hashes those again, mends what is stored, or says what is wrong with it.
            again = [t for t in tensors if not bad.isdisjoint(_blocks(t, manifest.block_size))]
            await uploader.load(again, host, lambda done: None)
    finally:
        uploader.release()


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

    def __init__(self, binder: Binder, weights: Weights, config: ModelConfig) -> None:
        self._gpu, self._kernels = binder.device.gpu, binder.device.kernels
        self._binder, self._weights, self._config = binder, weights, config
        self._staging: GpuBuffer | None = None

    def release(self) -> None:
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
        matrix, row = self._weights.places[tensor.name]
        for part in matrix.slices:
            start = max(part.row0, row)
            end = min(part.row0 + part.rows, row + tensor.shape[0])
            if start < end:
                wanted, constants = (start - row, end - row), relayout_of(tensor, matrix)
                await self._fill(tensor, feed, part, wanted, start - part.row0, constants)

    async def _fill(
        self,
        tensor: Tensor,
        feed: Feed,
        part: MatrixSlice,
        wanted: tuple[int, int],
        row0: int,
        constants: Mapping[str, int],
    ) -> None:
        """Moves rows wanted[0] .. wanted[1] of a tensor into rows row0 .. of a slice."""
        block, planes = BLOCK_TYPES[tensor.type], self._binder.slices(part.bindings())
        row_bytes = block.row_bytes(tensor.shape[1])
        staging = self._staging_for(4 * row_bytes)
        step = staging.size // row_bytes // 4 * 4
        for row in range(*wanted, step):
            rows = min(step, wanted[1] - row)
            length = aligned(rows * row_bytes, 4)  # the byte space is padded: never past its end
            await feed.stage(staging, tensor.offset + row * row_bytes, length)
            params = {
                "rows": rows,
                "cols": tensor.shape[1],
                "row_bytes": row_bytes,
                "row0": row0 + row - wanted[0],
            }
            dispatch = self._kernels.dispatch(
                "relayout",
                constants,
                {"raw": Slice(staging, 0, aligned(length, 16)), **planes},
                params,
                self._kernels.grid("relayout", params),
                f"relayout {tensor.name}",
            )
            recording = self._kernels.record([dispatch])
            self._kernels.run(recording)
            recording.destroy()

    def _staging_for(self, least: int) -> GpuBuffer:
        if self._staging is None or self._staging.size < least:
            if self._staging is not None:
                self._staging.destroy()
            size = aligned(max(least, STAGING_BYTES))
            self._staging = self._gpu.buffer(size, "staging", "raw weights")
        return self._staging

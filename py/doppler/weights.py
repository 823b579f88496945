"""Byte ranges of a manifest -> GPU buffers in the layout that the kernels read.

A matrix becomes three planes (codes, high bits, scales) a slice; kernels/relayout.wgsl moves the
file's blocks into them without loss. A matrix whose planes exceed the adapter's binding or buffer
limit is cut by rows into slices, each with planes of its own.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from doppler.buffers import Buffer, Buffers
from doppler.errors import DeviceError, FormatError, UnsupportedError
from doppler.formats.blocks import BLOCK_TYPES, float32_bytes
from doppler.gpu import Gpu, GpuBuffer, Slice
from doppler.kernels import Kernels
from doppler.manifest import Manifest, Tensor

if TYPE_CHECKING:
    from doppler.shards import ShardStore

FORMS: Mapping[str, int] = {
    "F32": 0,
    "F16": 1,
    "BF16": 2,
    "Q4_0": 3,
    "Q4_1": 4,
    "Q5_0": 5,
    "Q5_1": 6,
    "Q8_0": 7,
    "Q4_K": 8,
    "Q5_K": 9,
    "Q6_K": 10,
}
# Matrices that multiply the same activations: one matrix, and so one dispatch, where types agree.
STACKS: Mapping[str, tuple[str, ...]] = {
    "attn_qkv": ("attn_q", "attn_k", "attn_v"),
    "ffn_gate_up": ("ffn_gate", "ffn_up"),
}
STAGING_BYTES = 8 << 20
ALIGNMENT = 256  # of a binding's offset: minStorageBufferOffsetAlignment by default


@dataclass(frozen=True)
class PlaneSizes:
    """Bytes a row in each plane; 0 where the form has no such plane."""

    codes: int
    high: int
    scales: int

    @property
    def row(self) -> int:
        """Bytes a row in all planes together."""
        return self.codes + self.high + self.scales

    def total(self, rows: int) -> int:
        """Bytes of a buffer that holds the three planes of `rows` rows, each aligned."""
        return sum(aligned(rows * size) for size in (self.codes, self.high, self.scales))


def aligned(size: int, to: int = ALIGNMENT) -> int:
    """`size` rounded up to a multiple of `to`."""
    return -(-size // to) * to


def plane_sizes(form: int, columns: int) -> PlaneSizes:
    """Bytes a row of `columns` weights takes in each plane (kernels/planes.wgsl has the layout)."""
    if form == 0:
        return PlaneSizes(4 * aligned(columns, 4), 0, 0)
    if form in (1, 2):
        return PlaneSizes(2 * aligned(columns, 4), 0, 0)
    groups, blocks = columns // 32, columns // 256
    codes = (32 if form == 7 else 16) * groups
    high = {5: 4, 6: 4, 9: 4, 10: 8}.get(form, 0) * groups
    if form in (3, 5, 7):
        return PlaneSizes(codes, high, 2 * aligned(groups, 2))
    if form in (4, 6):
        return PlaneSizes(codes, high, 4 * groups)
    return PlaneSizes(codes, high, (20 if form == 10 else 16) * blocks)


@dataclass(frozen=True)
class MatrixSlice:
    """Rows row0 .. row0 + rows of a matrix, in planes; `high` or `scales` is None without one."""

    row0: int
    rows: int
    codes: Slice
    high: Slice | None
    scales: Slice | None

    def bindings(self) -> dict[str, Slice]:
        """The planes by the names that kernels give them."""
        planes = {"codes": self.codes, "high": self.high, "scales": self.scales}
        return {name: plane for name, plane in planes.items() if plane is not None}


@dataclass(frozen=True)
class Matrix:
    """[rows, columns] weights of one form on the GPU; one tensor, or several one below another."""

    rows: int
    columns: int
    form: int
    slices: tuple[MatrixSlice, ...]


@dataclass(frozen=True)
class Weights:
    """A model's tensors on the GPU: matrices as planes, vectors as float32, by GGUF name.

    `stacks` has what multiplies the same activations, by STACKS' names ("blk.0.attn_qkv"): the
    matrices one below another, as few as their types allow.
    """

    matrices: dict[str, Matrix]
    stacks: dict[str, tuple[Matrix, ...]]
    vectors: dict[str, Slice]
    buffers: tuple[GpuBuffer, ...]

    def destroy(self) -> None:
        """Gives every buffer back."""
        for buffer in self.buffers:
            buffer.destroy()


async def load_weights(
    gpu: Gpu,
    kernels: Kernels,
    manifest: Manifest,
    store: ShardStore,
    buffers: Buffers,
    progress: Callable[[int, int], None],
) -> Weights:
    """Reads, verifies, uploads and re-lays out every tensor of `manifest`, in file order.

    `progress` gets bytes done and bytes in all. Raises CorruptError or SourceError from `store`,
    UnsupportedError for a block type without a form, DeviceError when the device refuses.
    """
    loader = _Loader(gpu, kernels, manifest, store, buffers)
    try:
        for tensor in sorted(manifest.tensors, key=lambda t: t.offset):
            await loader.load(tensor)
            progress(tensor.offset + tensor.bytes, manifest.bytes)
    except BaseException:
        loader.weights().destroy()
        raise
    finally:
        loader.release()
    return loader.weights()


def _stacks(manifest: Manifest) -> Iterator[tuple[str, list[list[Tensor]]]]:
    """Each stack's name and its runs of tensors that become one matrix."""
    tensors = {tensor.name: tensor for tensor in manifest.tensors}
    for index in range(len(manifest.config.layers)):
        for name, members in STACKS.items():
            runs: list[list[Tensor]] = []
            for member in members:
                tensor = tensors[f"blk.{index}.{member}.weight"]
                # Relayout starts at words, so what stands above must be a multiple of four rows.
                if runs and runs[-1][0].type == tensor.type and runs[-1][-1].shape[0] % 4 == 0:
                    runs[-1].append(tensor)
                else:
                    runs.append([tensor])
            yield f"blk.{index}.{name}", runs


class _Loader:
    """Holds the staging buffer and the last block while tensors are loaded one after another."""

    def __init__(
        self, gpu: Gpu, kernels: Kernels, manifest: Manifest, store: ShardStore, buffers: Buffers
    ) -> None:
        self._gpu, self._kernels, self._manifest = gpu, kernels, manifest
        self._store, self._buffers = store, buffers
        self._matrices: dict[str, Matrix] = {}
        self._stacks = dict(_stacks(manifest))
        self._runs = {t.name: run for runs in self._stacks.values() for run in runs for t in run}
        self._vectors: dict[str, Slice] = {}
        self._owned: list[GpuBuffer] = []
        self._staging: GpuBuffer | None = None
        self._block: tuple[int, Buffer] | None = None

    def weights(self) -> Weights:
        made = self._matrices
        stacks = {
            name: tuple(made[run[0].name] for run in runs if run[0].name in made)
            for name, runs in self._stacks.items()
        }
        return Weights(self._matrices, stacks, self._vectors, tuple(self._owned))

    def release(self) -> None:
        if self._staging is not None:
            self._staging.destroy()
        self._block = None

    async def load(self, tensor: Tensor) -> None:
        if tensor.type not in FORMS:
            raise UnsupportedError(
                f"{self._manifest.name}: tensor {tensor.name} has block type {tensor.type}; "
                f"this version runs {', '.join(FORMS)}"
            )
        async with self._gpu.scope(f"upload of {tensor.name}"):
            if len(tensor.shape) == 1:
                await self._load_vector(tensor)
            else:
                await self._load_matrix(tensor)

    async def _load_vector(self, tensor: Tensor) -> None:
        raw = bytearray()
        async for block, start, end in self._parts(tensor.offset, tensor.bytes):
            raw += self._buffers.to_bytes(self._buffers.part(block, start, end))
        padded = aligned(4 * tensor.shape[0], 16)
        buffer = self._own(padded, tensor.name)
        self._gpu.write(buffer, 0, float32_bytes(tensor.type, raw))
        self._vectors[tensor.name] = Slice(buffer, 0, padded)

    async def _load_matrix(self, tensor: Tensor) -> None:
        if len(tensor.shape) != 2:
            raise FormatError(
                f"{self._manifest.name}: tensor {tensor.name} has shape {list(tensor.shape)}; "
                "matrices have two dimensions"
            )
        run = self._runs.get(tensor.name, (tensor,))
        first = run[0].name
        if first not in self._matrices:
            self._matrices[first] = self._allocate_matrix(run)
        matrix = self._matrices[first]
        row = sum(t.shape[0] for t in itertools.takewhile(lambda t: t.name != tensor.name, run))
        await self._fill_matrix(tensor, matrix, row)

    def _allocate_matrix(self, run: Sequence[Tensor]) -> Matrix:
        rows, columns = sum(tensor.shape[0] for tensor in run), run[0].shape[1]
        form, name = FORMS[run[0].type], run[0].name
        sizes = plane_sizes(form, columns)
        step = self._rows_a_slice(name, sizes)
        slices = tuple(
            self._allocate(name, sizes, row0, min(step, rows - row0))
            for row0 in range(0, rows, step)
        )
        return Matrix(rows, columns, form, slices)

    async def _fill_matrix(self, tensor: Tensor, matrix: Matrix, row: int) -> None:
        """Moves a tensor into rows `row` .. of a matrix."""
        for part in matrix.slices:
            start = max(part.row0, row)
            end = min(part.row0 + part.rows, row + tensor.shape[0])
            if start < end:
                await self._fill(tensor, part, (start - row, end - row), start - part.row0)

    def _rows_a_slice(self, name: str, sizes: PlaneSizes) -> int:
        binding = self._gpu.limits["maxStorageBufferBindingSize"] // max(
            sizes.codes, sizes.high, sizes.scales
        )
        whole = (self._gpu.limits["maxBufferSize"] - 3 * ALIGNMENT) // sizes.row
        rows = min(binding, whole) // 4 * 4  # relayout pieces start at words
        if rows < 4:
            raise DeviceError(f"{name}: the adapter cannot bind four of its rows at once")
        return rows

    def _allocate(self, name: str, sizes: PlaneSizes, row0: int, rows: int) -> MatrixSlice:
        buffer = self._own(sizes.total(rows), f"{name}[{row0}:{row0 + rows}]")
        offset = 0
        planes: list[Slice | None] = []
        for size in (sizes.codes, sizes.high, sizes.scales):
            length = aligned(rows * size, 16)
            planes.append(Slice(buffer, offset, length) if size else None)
            offset += aligned(rows * size)
        assert planes[0] is not None
        return MatrixSlice(row0, rows, planes[0], planes[1], planes[2])

    async def _fill(
        self, tensor: Tensor, part: MatrixSlice, wanted: tuple[int, int], row0: int
    ) -> None:
        """Moves rows wanted[0] .. wanted[1] of a tensor into rows row0 .. of a slice.

        Stages a few at a time and has the relayout kernel spread them over the planes.
        """
        columns, form = tensor.shape[1], FORMS[tensor.type]
        elements, block_bytes = BLOCK_TYPES[tensor.type].elements, BLOCK_TYPES[tensor.type].bytes
        row_bytes = columns // elements * block_bytes
        staging = self._staging_for(4 * row_bytes)
        step = staging.size // row_bytes // 4 * 4
        await self._kernels.prepare("relayout", {"FORM": form})
        for row in range(*wanted, step):
            rows = min(step, wanted[1] - row)
            length = aligned(rows * row_bytes, 4)  # the byte space is padded: never past its end
            at = 0
            start_byte = tensor.offset + row * row_bytes
            async for block, start, end in self._parts(start_byte, length):
                self._gpu.upload(staging, at, block, start, end - start)
                at += end - start
            to = row0 + row - wanted[0]
            params = {"rows": rows, "cols": columns, "row_bytes": row_bytes, "row0": to}
            dispatch = self._kernels.dispatch(
                "relayout",
                {"FORM": form},
                {"raw": Slice(staging, 0, aligned(length, 16)), **part.bindings()},
                params,
                self._kernels.grid("relayout", params),
                f"relayout {tensor.name}",
            )
            recording = self._kernels.record([dispatch])
            self._kernels.run(recording)
            recording.destroy()

    async def _parts(self, offset: int, length: int) -> AsyncIterator[tuple[Buffer, int, int]]:
        """(verified block, start, end) pieces that together are `length` bytes from `offset` on."""
        size, end = self._manifest.block_size, offset + length
        while offset < end:
            index, start = divmod(offset, size)
            if self._block is None or self._block[0] != index:
                self._block = (index, await self._store.block(index))
            stop = min(size, start + end - offset)
            yield self._block[1], start, stop
            offset += stop - start

    def _staging_for(self, least: int) -> GpuBuffer:
        if self._staging is None or self._staging.size < least:
            if self._staging is not None:
                self._staging.destroy()
            size = aligned(max(least, STAGING_BYTES))
            self._staging = self._gpu.buffer(size, "staging", "raw weights")
        return self._staging

    def _own(self, size: int, label: str) -> GpuBuffer:
        buffer = self._gpu.buffer(size, "weights", label)
        self._owned.append(buffer)
        return buffer

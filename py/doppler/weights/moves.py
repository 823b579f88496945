"""Rows of a tensor as they are stored -> rows of its matrix: a dispatch of relayout.wgsl each."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from doppler.gpu.binder import Binder
from doppler.gpu.device import GpuBuffer, Slice
from doppler.gpu.kernels import Dispatch, Kernels, Recording
from doppler.quantization.block_types import BLOCK_TYPES
from doppler.store.manifest import Tensor
from doppler.weights.placement import Matrix, MatrixSlice, aligned, relayout_of


@dataclass(frozen=True)
class Move:
    """Bytes offset .. offset + length of the byte space -> rows of a slice of a matrix."""

    offset: int
    length: int  # a multiple of 4: the byte space is padded, so that this is never past its end
    part: MatrixSlice
    constants: Mapping[str, int]
    params: Mapping[str, int]

    def dispatch(self, binder: Binder, raw: GpuBuffer, label: str, at: int = 0) -> Dispatch:
        """The one that moves them, once they lie in `raw` from byte `at` on."""
        kernels = binder.device.kernels
        bindings = {
            "raw": Slice(raw, at, aligned(self.length, 16)),
            **binder.slices(self.part.bindings()),
        }
        grid = kernels.grid("relayout", self.params)
        return kernels.dispatch("relayout", self.constants, bindings, self.params, grid, label)


class Mover:
    """Runs dispatches of relayout.wgsl. To record one takes longer than to run it, so those that
    differ in their parameters alone share a recording. It keeps the `most` that were used last.
    """

    def __init__(self, kernels: Kernels, most: int) -> None:
        self._kernels, self._most = kernels, most
        self._recordings: OrderedDict[Hashable, Recording] = OrderedDict()

    def run(self, dispatches: Sequence[Dispatch]) -> None:
        """Queues them, one after another."""
        key = tuple((it.variant, *it.bindings.values(), it.workgroups) for it in dispatches)
        if key in self._recordings:
            self._recordings.move_to_end(key)
            params = [it.uniform for it in dispatches if it.uniform is not None]
            self._kernels.set_params(self._recordings[key], params)
        else:
            self._recordings[key] = self._kernels.record(dispatches)
            if len(self._recordings) > self._most:
                self._recordings.popitem(last=False)[1].destroy()
        self._kernels.run(self._recordings[key])

    def release(self) -> None:
        """Gives the recordings back; they are made anew where they are needed."""
        for recording in self._recordings.values():
            recording.destroy()
        self._recordings.clear()


def raw_bytes(tensor: Tensor, size: int) -> int:
    """What a buffer needs for the rows of a tensor: `size`, or four of them, or all."""
    row = BLOCK_TYPES[tensor.type].row_bytes(tensor.shape[1])
    return aligned(min(max(size, 4 * row), tensor.bytes))


def moves(tensor: Tensor, matrix: Matrix, row: int, size: int | None) -> Iterator[Move]:
    """All of a tensor, whose first row is `row` of its matrix, `size` bytes at a time (None: what
    a slice takes) at most.

    size: at least four rows. Each starts at a word: after a multiple of four rows.
    """
    columns = tensor.shape[1]
    row_bytes = BLOCK_TYPES[tensor.type].row_bytes(columns)
    step = tensor.shape[0]
    if size is not None:
        step = size // row_bytes // 4 * 4 or step
    for part in matrix.slices:
        start = max(part.row0, row)
        end = min(part.row0 + part.rows, row + tensor.shape[0])
        for at in range(start, end, step):
            rows = min(step, end - at)
            yield Move(
                offset=tensor.offset + (at - row) * row_bytes,
                length=aligned(rows * row_bytes, 4),
                part=part,
                constants=relayout_of(tensor, matrix),
                params={
                    "rows": rows,
                    "cols": columns,
                    "row_bytes": row_bytes,
                    "row0": at - part.row0,
                },
            )

"""Rows of a table that stays in storage: those of a batch's tokens are brought to the GPU.

A table of embeddings may be half of a model's bytes, of which a token reads one row. Its rows are
moved into a small matrix that has one for each token of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence

from doppler.gpu.binder import Binder
from doppler.gpu.kernels import Recording
from doppler.gpu.step import View
from doppler.quantization.block_types import BLOCK_TYPES
from doppler.store.shards import ShardStore
from doppler.weights.placement import HostTable, aligned, relayout_of


class HostRows:
    """Brings rows of a stored table, whose bytes were verified when the model was loaded."""

    def __init__(self, binder: Binder, table: HostTable, store: ShardStore) -> None:
        self._binder, self._table, self._store = binder, table, store
        columns = table.tensor.shape[1]
        self._row_bytes = BLOCK_TYPES[table.tensor.type].row_bytes(columns)
        self._recordings: dict[int, Recording] = {}  # by rows

    def destroy(self) -> None:
        """Gives what was recorded back; it is recorded anew where it is needed."""
        for recording in self._recordings.values():
            recording.destroy()
        self._recordings.clear()

    async def bring(self, ids: Sequence[int]) -> None:
        """Queues that row t of the matrix becomes that of ids[t]. Raises SourceError."""
        first, each = self._table.tensor.offset, self._row_bytes
        data = await self._store.stored([first + token * each for token in ids], each)
        self._binder.write(self._table.raw, data + bytes(-len(data) % 4))
        self._binder.device.kernels.run(self._recording(len(ids)))

    def _recording(self, rows: int) -> Recording:
        """One for a token, and one for as many as there is room for."""
        rows = 1 if rows == 1 else self._table.matrix.rows
        if rows not in self._recordings:
            self._recordings[rows] = self._record(rows)
        return self._recordings[rows]

    def _record(self, rows: int) -> Recording:
        kernels, matrix = self._binder.device.kernels, self._table.matrix
        params = {
            "rows": rows,
            "cols": matrix.columns,
            "row_bytes": self._row_bytes,
            "row0": 0,
        }
        size = aligned(rows * self._row_bytes, 16)
        views = {"raw": View(self._table.raw.buffer, 0, size), **matrix.slices[0].bindings()}
        dispatch = kernels.dispatch(
            "relayout",
            relayout_of(self._table.tensor, matrix),
            self._binder.slices(views),
            params,
            kernels.grid("relayout", params),
            f"rows of {self._table.tensor.name}",
        )
        return kernels.record([dispatch])

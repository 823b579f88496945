"""The layout of weights on the GPU: which buffers there are, and what lies where in them.

Buffers go by name here; upload.py fills them once they are allocated.

A matrix becomes two planes a slice: codes, and high bits with scales; relayout.wgsl moves
the file's blocks into them without loss. A matrix whose planes exceed the adapter's binding or
buffer limit is cut by rows into slices, each with planes of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from doppler.config.mixers import is_filter
from doppler.config.model import ModelConfig
from doppler.errors import DeviceError, FormatError, UnsupportedError
from doppler.gpu.step import View
from doppler.quantization.block_types import BLOCK_TYPES
from doppler.store.manifest import Manifest, Tensor
from doppler.weights.fused import Run, stacks

FORMS: Mapping[str, int] = {  # as kernels number them (types.wgsl)
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
    "MXFP4": 11,
    "IQ4_NL": 12,
    "Q3_K": 13,
    "Q2_K": 14,
}
TYPES = tuple(FORMS)  # by number
TABLE = "per_layer_token_embd.weight"  # the one that need not be on the GPU
ALIGNMENT = 256  # of a binding's offset: minStorageBufferOffsetAlignment by default


@dataclass(frozen=True)
class PlaneSizes:
    """Bytes a row in each plane: codes; high bits and scales, or 0 where the form has neither."""

    codes: int
    scales: int

    @property
    def row(self) -> int:
        """Bytes a row in both planes together."""
        return self.codes + self.scales

    def total(self, rows: int) -> int:
        """Bytes of a buffer that holds both planes of `rows` rows, each aligned."""
        return aligned(rows * self.codes) + aligned(rows * self.scales)


def relayout_of(tensor: Tensor, matrix: Matrix) -> dict[str, int]:
    """Constants of relayout.wgsl that move a tensor's blocks into its matrix."""
    return {"FORM": FORMS[tensor.type], "TO": matrix.form}


def aligned(size: int, to: int = ALIGNMENT) -> int:
    """`size` rounded up to a multiple of `to`."""
    return -(-size // to) * to


def plane_sizes(form: int, columns: int) -> PlaneSizes:
    """Bytes a row of `columns` weights takes in each plane (dequantize.wgsl has the layout)."""
    kind, groups, blocks = TYPES[form], columns // 32, columns // 256
    if kind == "F32":
        return PlaneSizes(4 * aligned(columns, 4), 0)
    if kind in ("F16", "BF16"):
        return PlaneSizes(2 * aligned(columns, 4), 0)
    codes = {"Q8_0": 32, "Q3_K": 8, "Q2_K": 8}.get(kind, 16) * groups
    high = {"Q5_0": 4, "Q5_1": 4, "Q5_K": 4, "Q6_K": 8, "Q3_K": 4}.get(kind, 0) * groups
    if kind in ("Q4_0", "Q5_0", "Q8_0", "IQ4_NL"):
        return PlaneSizes(codes, high + 2 * aligned(groups, 2))
    if kind in ("Q4_1", "Q5_1"):
        return PlaneSizes(codes, high + 4 * groups)
    if kind == "MXFP4":
        return PlaneSizes(codes, high + aligned(groups, 4))
    return PlaneSizes(codes, high + (16 if kind in ("Q4_K", "Q5_K") else 20) * blocks)


@dataclass(frozen=True)
class MatrixSlice:
    """Rows row0 .. row0 + rows of a matrix, in planes; `scales` is None where there are none."""

    row0: int
    rows: int
    codes: View
    scales: View | None

    def bindings(self) -> dict[str, View]:
        """The planes by the names that kernels give them."""
        scales = {} if self.scales is None else {"scales": self.scales}
        return {"codes": self.codes, **scales}


@dataclass(frozen=True)
class Matrix:
    """[rows, columns] weights of one form; one tensor, or several one below another.

    Those of `experts` (0: it is no mixture) are all of the same height, and none is cut by slices.
    """

    rows: int
    columns: int
    form: int
    slices: tuple[MatrixSlice, ...]
    bias: View | None = None  # float32, a number a row
    experts: int = 0

    @property
    def height(self) -> int:
        """Rows of one expert, or all."""
        return self.rows // max(self.experts, 1)


@dataclass(frozen=True)
class HostTable:
    """A table that stays in storage, and the matrix that some of its rows are moved into.

    `raw` is room for as many rows as the file has them.
    """

    tensor: Tensor
    matrix: Matrix
    raw: View


@dataclass(frozen=True)
class Streamed:
    """Layers whose matrices are on the GPU only while they are used, in the same buffers by turns.

    shared: names of buffers that are one. `raw` is room for some rows as they are stored.
    """

    layers: Mapping[int, tuple[Tensor, ...]]  # matrices of each, as they follow in the byte space
    shared: tuple[tuple[str, ...], ...]
    raw: View


@dataclass(frozen=True)
class Weights:
    """Where a model's tensors lie: matrices as planes, vectors as float32, by GGUF name.

    The taps of a layer's convolution, [channels, taps], are a vector here.

    `stacks` has what multiplies the same activations, by STACKS' names ("blk.0.attn_qkv"): the
    matrices one below another, as few as their types allow. With experts it also has theirs, by
    EXPERT_STACKS' names, each one matrix of all of them.
    """

    matrices: dict[str, Matrix]
    stacks: dict[str, tuple[Matrix, ...]]
    vectors: dict[str, View]
    places: dict[str, tuple[Matrix, int]]  # of each tensor: its matrix, and its first row there
    buffers: dict[str, int]  # bytes of each, by name
    on_host: HostTable | None = None
    elsewhere: frozenset[str] = frozenset()  # tensors that are not there when it is loaded
    streamed: Streamed | None = None

    @property
    def allocations(self) -> list[tuple[tuple[str, ...], int]]:
        """The names of what lies in one buffer, and its bytes."""
        shared = () if self.streamed is None else self.streamed.shared
        alone = self.buffers.keys() - {name for names in shared for name in names}
        groups = [*((name,) for name in self.buffers if name in alone), *shared]
        return [(names, max(self.buffers[name] for name in names)) for names in groups]


def place_weights(
    manifest: Manifest,
    limits: Mapping[str, int],
    host_rows: int = 0,
    slots: Mapping[int, int] = MappingProxyType({}),
) -> Weights:
    """A place for every tensor of a manifest, in buffers that a device of these limits has.

    The table of embeddings that layers have of their own has room for `host_rows` of its rows, or
    for all (0). Layers that have `slots` have room for so many experts: each of the first lies in
    the slot of its number.
    Raises UnsupportedError for a block type without a form, FormatError for tensors that are
    neither vectors nor matrices, DeviceError for rows that are too long to be bound.
    """
    placement = _Placement(manifest, limits, host_rows, slots)
    for tensor in manifest.tensors:
        placement.add(tensor)
    return placement.weights()


def _scales(config: ModelConfig) -> dict[str, str]:
    """The norm of each layer's last branch -> the layer's scale, which lies behind it."""
    if not config.layer_scales:
        return {}
    layers = range(len(config.layers))
    return {
        f"blk.{i}.{config.last_norm}.weight": f"blk.{i}.layer_output_scale.weight" for i in layers
    }


def _beyond(manifest: Manifest, layer: int, slots: int) -> Iterator[str]:
    """Names of the tensors of a layer's experts that have no slot at first."""
    config = manifest.config
    for expert in config.expert_numbers(layer)[slots:]:
        yield from config.expert_shapes(layer, expert)


class _Placement:
    """The places of a model's tensors while they are found."""

    def __init__(
        self,
        manifest: Manifest,
        limits: Mapping[str, int],
        host_rows: int,
        slots: Mapping[int, int],
    ) -> None:
        self._manifest, self._limits, self._host_rows = manifest, limits, host_rows
        self._on_host: HostTable | None = None
        self._stacks = dict(stacks(manifest, slots))
        self._elsewhere = frozenset(
            name for layer, count in slots.items() for name in _beyond(manifest, layer, count)
        )
        runs = [run for runs in self._stacks.values() for run in runs]
        self._runs = {tensor.name: run for run in runs for tensor in run.tensors}
        self._matrices: dict[str, Matrix] = {}
        self._vectors: dict[str, View] = {}
        self._scales = _scales(manifest.config)
        self._shapes = {tensor.name: tensor.shape for tensor in manifest.tensors}
        self._places: dict[str, tuple[Matrix, int]] = {}
        self._buffers: dict[str, int] = {}

    def weights(self) -> Weights:
        made = self._matrices
        stacked = {
            name: tuple(made[run.first] for run in runs if run.first in made)
            for name, runs in self._stacks.items()
        }
        return Weights(
            made,
            stacked,
            self._vectors,
            self._places,
            self._buffers,
            self._on_host,
            self._elsewhere,
        )

    def add(self, tensor: Tensor) -> None:
        if tensor.type not in FORMS:
            raise UnsupportedError(
                f"{self._manifest.name}: tensor {tensor.name} has block type {tensor.type}; "
                f"this version runs {', '.join(FORMS)}"
            )
        if tensor.name in self._elsewhere:
            return
        if tensor.name.endswith(".bias") or tensor.name in self._scales.values():
            return  # lies with its matrix, or norm
        if len(tensor.shape) == 1 or is_filter(tensor.name):
            self._add_vector(tensor)
        elif len(tensor.shape) == 2 and tensor.name == TABLE and self._host_rows:
            self._add_rows(tensor)
        elif len(tensor.shape) == 2:
            self._add_matrix(tensor)
        else:
            raise FormatError(
                f"{self._manifest.name}: tensor {tensor.name} has shape {list(tensor.shape)}; "
                "matrices have two dimensions"
            )

    def _add_vector(self, tensor: Tensor) -> None:
        size, scale = aligned(4 * math.prod(tensor.shape), 16), self._scales.get(tensor.name)
        view = self._own(tensor.name, size + 16 * (scale is not None))
        self._vectors[tensor.name] = view
        if scale is not None:
            self._vectors[scale] = View(view.buffer, size, 4)

    def _add_rows(self, tensor: Tensor) -> None:
        """Room for some rows of a table, and for as many as they come from the file."""
        rows, columns = aligned(self._host_rows, 4), tensor.shape[1]
        form, name = FORMS[tensor.type], f"rows of {tensor.name}"
        planes = self._planes(name, plane_sizes(form, columns), 0, rows)
        matrix = Matrix(rows, columns, form, (planes,))
        size = rows * BLOCK_TYPES[tensor.type].row_bytes(columns)
        raw = self._own(f"{name} as stored", aligned(size, 16))
        self._matrices[tensor.name] = matrix
        self._on_host = HostTable(tensor, matrix, raw)

    def _add_matrix(self, tensor: Tensor) -> None:
        run = self._runs.get(tensor.name, Run((tensor,)))
        if run.first not in self._matrices:
            self._matrices[run.first] = matrix = self._matrix(run)
            self._places |= {part.name: (matrix, row) for part, row in run.places()}

    def _matrix(self, run: Run) -> Matrix:
        rows, columns = run.rows, run.tensors[0].shape[1]
        form, name = FORMS[run.type], run.first
        sizes = plane_sizes(form, columns)
        # Pieces of a tensor that relayout moves start at words: after a multiple of four rows.
        step = self._rows_a_slice(name, sizes, rows // run.experts if run.experts else 4)
        slices = tuple(
            self._planes(name, sizes, row0, min(step, rows - row0)) for row0 in range(0, rows, step)
        )
        return Matrix(rows, columns, form, slices, self._bias(run), run.experts)

    def _bias(self, run: Run) -> View | None:
        """Room for the biases of a run of tensors, each where its rows are; zeros for none."""
        names = {tensor.name: f"{tensor.name.removesuffix('weight')}bias" for tensor in run.tensors}
        if self._shapes.keys().isdisjoint(names.values()):
            return None
        whole = self._own(f"{run.first} bias", aligned(4 * run.rows, 16))
        for tensor, row in run.places():
            if names[tensor.name] in self._shapes:
                place = View(whole.buffer, 4 * row, 4 * tensor.shape[0])
                self._vectors[names[tensor.name]] = place
        return whole

    def _rows_a_slice(self, name: str, sizes: PlaneSizes, step: int) -> int:
        """As many as can be bound at once: a multiple of `step`."""
        binding = self._limits["maxStorageBufferBindingSize"] // max(sizes.codes, sizes.scales)
        whole = (self._limits["maxBufferSize"] - 2 * ALIGNMENT) // sizes.row
        rows = min(binding, whole) // step * step
        if rows < step:
            raise DeviceError(f"{name}: the adapter cannot bind {step} of its rows at once")
        return rows

    def _planes(self, name: str, sizes: PlaneSizes, row0: int, rows: int) -> MatrixSlice:
        whole = self._own(f"{name}[{row0}:{row0 + rows}]", sizes.total(rows))
        codes = View(whole.buffer, 0, aligned(rows * sizes.codes, 16))
        scales = None
        if sizes.scales:
            after = aligned(rows * sizes.codes)
            scales = View(whole.buffer, after, aligned(rows * sizes.scales, 16))
        return MatrixSlice(row0, rows, codes, scales)

    def _own(self, name: str, size: int) -> View:
        self._buffers[name] = size
        return View(name, 0, size)

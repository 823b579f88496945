"""Which kernel multiplies a matrix by the activations of a batch, and how it cuts the work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from doppler.gpu.step import Step
from doppler.gpu.wgsl import Number
from doppler.plan.bindings import TILE
from doppler.plan.layer import PlannedModel
from doppler.plan.matvec import MOST_TOKENS, matvec, matvec_kernel
from doppler.plan.moe import experts_of, places, tile_size
from doppler.plan.product import Product, Rows
from doppler.weights.placement import Matrix, aligned


@dataclass(frozen=True)
class Tiling:
    """Rows and tokens of a workgroup, the constants that say so, and from how many workgroups on
    it is the best on a large GPU (docs/experiments.md).
    """

    rows: int
    tokens: int
    constants: Mapping[str, Number]
    least: int


# The largest first: what is unpacked or loaded once serves more of the rest.
TILES = tuple(
    Tiling(64 * rows, 64 * tokens, {"ROW_BLOCKS": rows, "TOKEN_BLOCKS": tokens}, 128)
    for rows, tokens in ((2, 2), (1, 2), (1, 1))
)
MATRIX_TILES = tuple(
    Tiling(32 * rows, 64 * tokens, {"ROW_TILES": rows, "TOKEN_TILES": tokens}, least)
    for rows, tokens, least in ((4, 2, 128), (2, 2, 32), (2, 1, 0))
)
# With experts: the tokens of a tile (moe.py), and rows such that all threads unpack weights.
EXPERT_TILES = tuple(
    Tiling(64 * rows, TILE, {"ROW_BLOCKS": rows, "TOKEN_BLOCKS": 1}, least)
    for rows, least in ((2, 128), (1, 0))
)
EXPERT_MATRIX_TILES = tuple(
    Tiling(32 * rows, TILE, {"ROW_TILES": rows, "TOKEN_TILES": 1}, least)
    for rows, least in ((4, 128), (2, 0))
)


def multiply(model: PlannedModel, product: Product) -> Iterator[Step]:
    """The steps of a product: matvecs for a token or a few, a matmul for more."""
    kernel = matvec if takes_matvecs(model, product.tokens) else matmul
    for matrix, start in product.placed():
        yield from kernel(model, product, matrix, start)


def takes_matvecs(model: PlannedModel, tokens: int) -> bool:
    """Whether so few tokens are matvecs' work, with the sums that they would have alone."""
    return tokens == 1 or (tokens <= MOST_TOKENS and matvec_kernel(model) != "matvec")


def matmul(model: PlannedModel, product: Product, matrix: Matrix, start: int) -> Iterator[Step]:
    """One matrix of a product, whose output begins at column `start`: a step for each slice."""
    shared = {**product.x.bindings, "out": product.out}
    shared["state"] = model.memory(product.tokens)["state"]
    kind, addend, addend_params = product.added(matrix, start)
    shared |= addend
    rows, tokens = product.rows, product.tokens
    if rows:
        bound = places(model, tokens)
        shared |= bound
        tokens = bound["tiles"].size // 16 * tile_size(model)
    kernel, cut = kernel_of(model, matrix.height, tokens, rows, product.is_exact)
    constants = {"FORM": matrix.form, "ACTIVATION": product.activation, **cut}
    constants |= {"ADDEND": kind, "EXPERTS": rows}
    for part in matrix.slices:
        params: dict[str, Number] = {
            "rows": matrix.height if rows else part.rows,
            "cols": matrix.columns,
            "row0": part.row0,
            "x_stride": aligned(matrix.columns, 4),
            "out_stride": product.stride,
            "out0": start,
            "experts": part.rows // matrix.height if rows else 0,
            "used": experts_of(model).used if rows else 0,
            **addend_params,
        }
        yield Step(kernel, constants, {**part.bindings(), **shared}, params, tokens, product.label)


def kernel_of(
    model: PlannedModel, height: int, tokens: int, rows: Rows, is_exact: bool
) -> tuple[str, Mapping[str, Number]]:
    """A kernel and the constants that cut its work, for a matrix of `height` rows."""
    adapter = model.adapter
    if adapter.is_cpu:
        return "matmul", {}
    if adapter.matrix_units and not is_exact:
        tilings = EXPERT_MATRIX_TILES if rows else MATRIX_TILES
        return "matmul_subgroup_matrix", tiling_of(tilings, height, tokens)
    tiling = tiling_of(EXPERT_TILES if rows else TILES, height, tokens)
    return "matmul_tile", {**tiling, "HALF": int(adapter.half and not is_exact)}


def tiling_of(tilings: tuple[Tiling, ...], rows: int, tokens: int) -> Mapping[str, Number]:
    """Constants of the largest tiling that leaves enough workgroups, else of the smallest."""
    for tiling in tilings:
        fits = tokens > tiling.tokens // 2
        if fits and -(-rows // tiling.rows) * -(-tokens // tiling.tokens) >= tiling.least:
            return tiling.constants
    return tilings[-1].constants

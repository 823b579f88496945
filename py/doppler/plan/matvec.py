"""One token's product with a matrix, or a few tokens': which kernel, what is folded into it, how
threads share the rows.
"""

from __future__ import annotations

from collections.abc import Iterator

from doppler.gpu.step import Step, View
from doppler.plan.layer import PlannedModel
from doppler.plan.matvec_configs import Cut, kind_of
from doppler.plan.moe import experts_of
from doppler.plan.product import Product, Prologue
from doppler.weights.placement import FORMS, Matrix, aligned

MOST_TOKENS = 8  # of a batch that a matvec takes
# Workgroup memory of each kernel: bytes of a staged activation, and those that a reduction takes.
STAGED = {
    "matvec": (4, 256),
    "matvec_workgroup": (4, 2048),
    "matvec_subgroup": (4, 1024),
    "matvec_half": (2, 1024),
}
# Types whose groups have a minimum, which is multiplied by the sum of the group's activations.
HAVE_MINIMUMS = frozenset(FORMS[name] for name in ("Q4_1", "Q5_1", "Q4_K", "Q5_K"))
MANY_ROWS = 8192  # from which on they keep a large GPU busy
FEW_ROWS = 2048
GROUPS_A_THREAD = 6  # of 32 columns, of each of many rows


def matvec(model: PlannedModel, product: Product, matrix: Matrix, start: int) -> Iterator[Step]:
    """One matrix of a product, whose output begins at column `start`: a step for each slice.

    On a GPU, a batch may have up to MOST_TOKENS, for which each weight is read once.
    """
    x, rows, tokens = product.x, product.rows, product.tokens
    kind, addend, addend_params = product.added(matrix, start)
    kernel = matvec_kernel(model, product.is_exact)
    constants = {
        "FORM": matrix.form,
        "COLS": matrix.columns,
        "PROLOGUE": x.prologue,
        "ACTIVATION": product.activation,
        "SPLITS": x.splits,
        "SCALED": int(x.is_scaled),
        "ADDEND": kind,
        "EXPERTS": rows,
    }
    used = experts_of(model).used if rows else 0
    at_once = 1 if rows else tokens  # that a workgroup multiplies
    # A processor that plays a GPU reads activations where they lie as fast as workgroup memory.
    stages = x.prologue != Prologue.NONE or kernel != "matvec"
    constants["STAGE"] = int(stages and at_once == 1 and staged(model, matrix, product.is_exact))
    for part in matrix.slices:
        height = matrix.height if rows else part.rows
        if kernel != "matvec":
            cut = model.cuts.get(kind_of(kernel, constants, height))
            cut = cut or team(height * max(used, 1), matrix.columns, product.is_paired)
            assert cut.rows > 1 or not product.is_paired, "gate and up of a pair are two rows"
            constants = {**constants, **cut.constants(), "TOKENS": at_once}
        params = {
            "rows": height,
            "row0": part.row0,
            "x_stride": aligned(matrix.columns, 4),
            "out_stride": product.stride,
            "out0": start,
            "last": int(x.is_last),
            "eps": model.config.norm_eps,
            "offset": model.config.norm_offset,
            "heads": model.config.heads,
            "experts": part.rows // height if rows else 0,
            "used": used,
            **addend_params,
        }
        bound = _bound(model, product) | addend | part.bindings()
        yield Step(kernel, constants, bound, params, tokens * max(used, 1), product.label)


def _bound(model: PlannedModel, product: Product) -> dict[str, View]:
    """What a matvec binds besides the matrix itself and its addend."""
    shared = model.memory(product.tokens)
    bound = {**product.x.bindings, "out": product.out, "state": shared["state"]}
    if product.rows:
        bound["topk_ids"] = shared["topk_ids"]
    return bound


def matvec_kernel(model: PlannedModel, is_exact: bool = False) -> str:
    """The matvec for an adapter's subgroups and precision."""
    if not model.adapter.subgroup_size:
        return "matvec" if model.adapter.is_cpu else "matvec_workgroup"
    return "matvec_half" if model.adapter.half and not is_exact else "matvec_subgroup"


def staged(model: PlannedModel, matrix: Matrix, is_exact: bool = False) -> bool:
    """Whether what a matrix multiplies fits the adapter's workgroup memory."""
    size = staging_bytes(matvec_kernel(model, is_exact), matrix.form, matrix.columns)
    return size <= model.adapter.workgroup_bytes


def staging_bytes(kernel: str, form: int, columns: int) -> int:
    """Workgroup memory of a matvec that stages its activations, as WebGPU counts it: by 16 bytes.

    Columns count by groups of 32; matvec_common.wgsl declares the arrays.
    """
    groups = aligned(columns, 32) // 32
    each, reduction = STAGED[kernel]
    sums = groups if form in HAVE_MINIMUMS else 1
    return 32 * groups * each + aligned(4 * sums, 16) + reduction


def team(rows: int, columns: int, is_paired: bool) -> Cut:
    """The rule of thumb for a matvec's cut (docs/experiments.md).

    Where there are few rows, as many threads a row as find a group each; once there are enough of
    them to keep a GPU busy, fewer, of which each has more to do.
    """
    groups = aligned(columns, 32) // 32
    if rows >= MANY_ROWS:
        return Cut(min(max(power(groups // GROUPS_A_THREAD), 4), 16), 2, 2)
    threads = min(max(power(groups // 2), 4), 64 if rows < FEW_ROWS else 32)
    return Cut(threads, 2 if is_paired else 1, 1)


def power(number: int) -> int:
    """The largest power of two that is not above `number`."""
    return 1 << max(number, 1).bit_length() - 1

"""What a product computes, for a token or a batch: matvec.py and matmul.py have the kernels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

from doppler.gpu.step import View
from doppler.weights.placement import Matrix, aligned


class Rows(IntEnum):
    """What a product's rows of activations are (EXPERTS in rows.wgsl)."""

    OF_TOKENS = 0  # multiplied by one matrix
    OF_TOKENS_FOR_EXPERTS = 1  # by each expert that the token uses
    OF_SLOTS = 2  # one for each of them, and by its own expert


class Prologue(IntEnum):
    """What a matvec makes of its activations first (matvec_common.wgsl)."""

    NONE = 0
    NORM = 1
    ADD_NORM = 2
    POST_NORM = 3
    JOIN = 4
    POST = 5


@dataclass(frozen=True)
class Operand:
    """The activations that are multiplied. Only a token's may have a prologue, or be the last."""

    bindings: Mapping[str, View]  # x, and what the prologue binds besides
    prologue: Prologue = Prologue.NONE
    splits: int = 0  # runs of attention that it joins
    is_scaled: bool = False  # by what lies behind the norm of the branch that it adds
    is_last: bool = False  # of a batch: its last token instead of its first


@dataclass(frozen=True)
class Addend:
    """What is added to a product: element start + `stride` · t + i to output i of token t.

    Or those elements are the ups (`are_ups`) of the activation's gates, which are multiplied alone.
    """

    view: View
    stride: int  # 0: the same for all tokens
    start: int = 0
    are_ups: bool = False


@dataclass(frozen=True)
class Product:
    """out[t, start:] = matrix · x[t] + addend[t, start:], for each of `tokens` tokens t.

    Each matrix of `stack` has columns of its own, from a multiple of four on. With experts, `out`
    has a row for each slot.
    """

    stack: Sequence[Matrix]
    x: Operand
    out: View
    label: str
    stride: int = 0  # elements from a row of `out` to the next; of a token there is none
    tokens: int = 1
    activation: int = 0  # or what makes one number of gate and up (activation.wgsl)
    rows: Rows = Rows.OF_TOKENS
    is_exact: bool = False  # in f32 whatever the adapter's precision
    addend: Addend | None = None  # else the matrices' biases, where they have some

    @property
    def is_paired(self) -> bool:
        """Whether rows are gates and ups in turn."""
        return self.activation > 0 and not (self.addend and self.addend.are_ups)

    def placed(self) -> Iterator[tuple[Matrix, int]]:
        """Each matrix and the first column of its output."""
        start = 0
        for matrix in self.stack:
            yield matrix, start
            start += aligned(matrix.height, 4)

    def added(self, matrix: Matrix, start: int) -> tuple[int, dict[str, View], dict[str, int]]:
        """(ADDEND, bindings, params) by which a matrix whose output begins at `start` gets its
        addend.
        """
        given = self.addend
        if given is not None:
            params = {"addend0": given.start + start, "addend_stride": given.stride}
            return 2 if given.are_ups else 1, {"addend": given.view}, params
        bound = {} if matrix.bias is None else {"addend": matrix.bias}
        return len(bound), bound, {"addend0": 0, "addend_stride": 0}

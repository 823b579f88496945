"""The plan of decode: one token through every layer, in as few dispatches as there can be.

A layer takes five: q, k and v; attention; its output; gate, up and activation; down. Norms and
residuals are folded into the matvecs that read them (kernels/vector.wgsl).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from doppler.gpu import Slice
from doppler.plan import PlannedModel, Step
from doppler.weights import Matrix, aligned

REDUCTION_BYTES = 1024  # workgroup memory of a matvec besides the activations
ENOUGH_SUBGROUPS = 1024  # at work at once, for a large GPU to be busy
WORKGROUP = 128  # threads of matvec_subgroup, which may all share a row


@dataclass(frozen=True)
class Fold:
    """x (+ branch, normed by `post` first) -> normed by `weight`; the sum is kept in `next`."""

    x: Slice
    weight: str
    next: Slice | None = None
    post: str | None = None


class DecodePlan:
    """Builds the steps of one model for one token."""

    def __init__(self, model: PlannedModel) -> None:
        self._model = model
        staged = 16 * aligned(model.widths.hidden // 4, 8)
        self._folds = model.adapter.workgroup_bytes >= staged + REDUCTION_BYTES

    def body(self) -> list[Step]:
        """Token id -> the last layer's x and branch; one more place of the KV cache is filled."""
        model, m = self._model, self._model.memory
        steps = model.embed(1)
        for index in range(len(model.config.layers)):
            prefix = f"blk.{index}"
            fold = Fold(m.x, f"{prefix}.attn_norm")
            if index:
                post = model.post_norm(index - 1, "post_ffw_norm")
                fold = Fold(m.x_next, f"{prefix}.attn_norm", m.x, post)
            steps += self._stack(f"{prefix}.attn_qkv", fold, m.qkv)
            steps += [model.rope(1, index), model.attention(1, index)]
            steps += self._plain(f"{prefix}.attn_output", m.attended)
            post = model.post_norm(index, "post_attention_norm")
            steps += self._gate_up(index, Fold(m.x, f"{prefix}.ffn_norm", m.x_next, post))
            steps += self._plain(f"{prefix}.ffn_down", m.gated)
        return steps

    def head(self) -> list[Step]:
        """The last layer's x and branch -> logits."""
        model, m = self._model, self._model.memory
        post = model.post_norm(len(model.config.layers) - 1, "post_ffw_norm")
        fold = Fold(m.x_next, "output_norm", m.x, post)
        return list(self._project((model.head_matrix,), fold, m.logits, "head"))

    def _stack(self, name: str, fold: Fold, out: Slice) -> Iterator[Step]:
        return self._project(self._model.weights.stacks[name], fold, out, name)

    def _gate_up(self, index: int, fold: Fold) -> Iterator[Step]:
        """One step where gate and up are one matrix that is bound at once, three where not."""
        model, m, name = self._model, self._model.memory, f"blk.{index}.ffn_gate_up"
        stack = model.weights.stacks[name]
        if len(stack) > 1 or len(stack[0].slices) > 1:
            yield from self._project(stack, fold, m.gate_up, name)
            yield model.gate(1, index)
        else:
            activation = 1 + ("silu", "gelu_tanh").index(model.config.activation)
            yield from self._project(stack, fold, m.gated, name, activation)

    def _plain(self, name: str, x: Slice) -> list[Step]:
        model = self._model
        matrix = model.weights.matrices[f"{name}.weight"]
        return matvec(model, matrix, {"x": x, "out": model.memory.branch}, name)

    def _project(
        self, stack: Sequence[Matrix], fold: Fold, out: Slice, label: str, activation: int = 0
    ) -> Iterator[Step]:
        """Every matrix of a stack, each to its place: a multiple of four columns of the output."""
        model = self._model
        bindings, prologue = self._folded(fold)
        if not self._folds:
            first = fold.next is None
            yield model.norm(1, "embedding" if first else label, fold.weight, fold.post)
            bindings, prologue = {"x": model.memory.normed}, 0
        start = 0
        for matrix in stack:
            yield from matvec(
                model, matrix, {**bindings, "out": out}, label, prologue, activation, start
            )
            start += aligned(matrix.rows, 4)

    def _folded(self, fold: Fold) -> tuple[dict[str, Slice], int]:
        """What a matvec binds to compute `fold` itself, and its PROLOGUE."""
        vectors = self._model.weights.vectors
        bindings = {"x": fold.x, "weight": vectors[f"{fold.weight}.weight"]}
        if fold.next is None:
            return bindings, 1
        bindings |= {"branch": self._model.memory.branch, "next": fold.next}
        if fold.post is None:
            return bindings, 2
        return {**bindings, "post": vectors[f"{fold.post}.weight"]}, 3


def matvec(
    model: PlannedModel,
    matrix: Matrix,
    bindings: Mapping[str, Slice],
    label: str,
    prologue: int = 0,
    activation: int = 0,
    start: int = 0,
    last: bool = False,
) -> list[Step]:
    """out[start:] = matrix · what the prologue makes of x, a step for each slice of the matrix.

    `prologue` and `activation` are those of kernels/vector.wgsl; `last` takes the batch's last
    token instead of its first.
    """
    kernel, constants = (
        "matvec",
        {
            "FORM": matrix.form,
            "COLS": matrix.columns,
            "PROLOGUE": prologue,
            "ACTIVATION": activation,
        },
    )
    if model.adapter.subgroup_size:
        kernel, constants = "matvec_subgroup", {**constants, "TEAM": team(matrix)}
    steps = []
    for part in matrix.slices:
        params = {
            "rows": part.rows,
            "row0": part.row0,
            "x_stride": aligned(matrix.columns, 4),
            "out0": start,
            "last": int(last),
            "eps": model.config.norm_eps,
            "offset": model.config.norm_offset,
        }
        bound = {**bindings, **part.bindings(), "state": model.memory.state}
        steps.append(Step(kernel, constants, bound, params, 1, label))
    return steps


def team(matrix: Matrix) -> int:
    """Threads that share four rows: more where a matrix has too few rows to keep a GPU busy."""
    threads, quarters = 32, matrix.columns // 8
    while (
        threads < WORKGROUP
        and matrix.rows // 4 * threads // 32 < ENOUGH_SUBGROUPS
        and quarters >= 4 * threads
    ):
        threads *= 2
    return threads

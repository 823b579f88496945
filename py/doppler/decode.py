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
ENOUGH_SUBGROUPS = 4096  # at work at once, for a large GPU to be busy
WORKGROUP = 256  # threads of matvec_subgroup, which may all share a row
SPLIT_KEYS = 32  # that a workgroup of attention_decode sums at least, once there are many
MOST_SPLITS = 64


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
        self._folds = staged(model, model.widths.hidden)

    def body(self, reach: int) -> list[Step]:
        """Token id -> the last layer's x and branch; one more place of the KV cache is filled.

        The work is cut for contexts of up to `reach` tokens; longer ones are right but slow.
        """
        model, m = self._model, self._model.memory
        steps = model.embed(1)
        for index in range(len(model.config.layers)):
            prefix = f"blk.{index}"
            fold = Fold(m.x, f"{prefix}.attn_norm")
            if index:
                post = model.post_norm(index - 1, "post_ffw_norm")
                fold = Fold(m.x_next, f"{prefix}.attn_norm", m.x, post)
            steps += self._stack(f"{prefix}.attn_qkv", fold, m.qkv)
            steps += self._attend(index, reach)
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

    def _attend(self, index: int, reach: int) -> list[Step]:
        """qkv -> attended; where there are subgroups, the keys are shared among workgroups."""
        model, m, prefix = self._model, self._model.memory, f"blk.{index}"
        if not model.adapter.subgroup_size:
            return [model.rope(1, index), model.attention(1, index)]
        rope, c, layer = model.rope(1, index), model.config, model.config.layers[index]
        splits = splits_of(min(reach, layer.window or reach))
        params = {
            **{
                name: rope.params[name]
                for name in ("heads", "kv_heads", "context", "eps", "offset")
            },
            "window": layer.window,
            "splits": splits,
            "scale": c.query_scale,
        }
        bindings = {**rope.bindings, "parts": m.parts, "marks": m.marks}
        joined = {"parts": m.parts, "marks": m.marks, "out": m.attended}
        counts = {"heads": c.heads, "splits": splits}
        head_dim = {"HEAD_DIM": c.head_dim}
        return [
            Step("attention_decode", rope.constants, bindings, params, 1, f"{prefix}.attention"),
            Step("attention_join", head_dim, joined, counts, 1, f"{prefix}.attention join"),
        ]

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
    kernel = "matvec"
    constants = {
        "FORM": matrix.form,
        "COLS": matrix.columns,
        "PROLOGUE": prologue,
        "ACTIVATION": activation,
        "STAGE": int(staged(model, matrix.columns)),
    }
    if model.adapter.subgroup_size:
        kernel, constants = "matvec_subgroup", {**constants, **team(matrix, activation)}
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


def staged(model: PlannedModel, columns: int) -> bool:
    """Whether a matvec's activations fit the adapter's workgroup memory."""
    return model.adapter.workgroup_bytes >= 4 * aligned(columns, 32) + REDUCTION_BYTES


def splits_of(keys: int) -> int:
    """Runs into which attention cuts up to `keys` keys."""
    return min(max(keys // SPLIT_KEYS, 1), MOST_SPLITS)


def team(matrix: Matrix, activation: int) -> dict[str, int]:
    """TEAM and ROWS of a matvec: more threads a row where few rows would leave a GPU idle."""
    threads, groups = 4, matrix.columns // 32
    rows = 2 if activation else 1
    while (
        threads < WORKGROUP
        and 2 * threads <= groups
        and (matrix.rows // rows * threads // 32 < ENOUGH_SUBGROUPS)
    ):
        threads *= 2
    if matrix.rows * threads // 32 >= 8 * ENOUGH_SUBGROUPS:
        rows = 4
    return {"TEAM": threads, "ROWS": rows}

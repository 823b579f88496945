"""The plan of decode: one token through every layer, in as few dispatches as there can be.

A layer takes five: q, k and v; attention; its output; gate, up and activation; down. Norms and
residuals are folded into the matvecs that read them (kernels/vector.wgsl).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

from doppler.gpu import Slice
from doppler.plan import ACTIVATIONS, PlannedModel, Step
from doppler.tuning import Cut, kind_of
from doppler.weights import Matrix, aligned

MOST_FOLDED_COLUMNS = 8192  # that the threads of a matvec hold while they are normed
MOST_TOKENS = 8  # of a batch that a matvec takes
REDUCTION_BYTES = 1024  # workgroup memory of a matvec besides the activations
MANY_ROWS = 8192  # from which on they keep a large GPU busy
FEW_ROWS = 2048
GROUPS_A_THREAD = 6  # of 32 columns, of each of many rows
MOST_TURNING = 32  # threads of attention_decode that rotate a head
KEY_LANES = 16  # threads of attention_decode that share a key
VALUE_LANES, MOST_VALUE_LANES = 2, 8  # and four columns of the values, at most
SPLIT_KEYS = 32  # that a workgroup of attention_decode sums at least
SHORT_KEYS = 1024  # up to which few runs do, which the output's matvec joins by itself
FEW_RUNS, MANY_RUNS = 32, 264  # of all key-value heads, for contexts that are short or long
MOST_FOLDED = 16  # runs a head that a matvec joins
MOST_SPLITS = 128


class Prologue(IntEnum):
    """What a matvec makes of its activations first (kernels/vector.wgsl)."""

    NONE = 0
    NORM = 1
    ADD_NORM = 2
    POST_NORM = 3
    JOIN = 4


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
        c = model.config
        fits = staged(model, c.hidden) and model.widths.hidden <= MOST_FOLDED_COLUMNS
        # With both a norm of the branch and a bias, a matvec would bind more than all GPUs can.
        self._folds = fits and not (c.post_norms and c.biases)

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
        """qkv -> branch; where it can be, the keys are shared among workgroups."""
        model, m, output = self._model, self._model.memory, f"blk.{index}.attn_output"
        if not model.adapter.subgroup_size or model.config.head_dim % 8:
            steps = [model.rope(1, index), model.attention(1, index)]
            return steps + self._plain(output, m.attended)
        c, window = model.config, model.config.layers[index].window
        groups = c.kv_heads * -(-c.heads // c.kv_heads // 4)  # attention_decode does four heads
        keys = min(reach, window or reach)
        splits = splits_of(keys, groups)
        runs = {"heads": c.heads, "splits": splits}
        steps = [self._attend_runs(index, splits, keys)]
        if splits <= MOST_FOLDED and staged(model, c.q_width):
            matrix = model.weights.matrices[f"{output}.weight"]
            bindings = {"x": m.parts, "branch": m.marks, "out": m.branch}
            return steps + matvec(model, matrix, bindings, output, Prologue.JOIN, splits=splits)
        bindings = {"parts": m.parts, "marks": m.marks, "out": m.attended}
        label = f"blk.{index}.attention join"
        steps.append(Step("attention_join", {"HEAD_DIM": c.head_dim}, bindings, runs, 1, label))
        return steps + self._plain(output, m.attended)

    def _attend_runs(self, index: int, splits: int, keys: int) -> Step:
        """qkv -> what each of `splits` runs of up to `keys` keys gives alone, and its mark."""
        model, m = self._model, self._model.memory
        rope, layer = model.rope(1, index), model.config.layers[index]
        names = ("heads", "kv_heads", "context", "capacity", "eps", "offset")
        params = {
            **{name: rope.params[name] for name in names},
            "window": layer.window,
            "splits": splits,
            "scale": model.config.query_scale,
        }
        constants = {
            **rope.constants,
            "TURN": min(model.adapter.subgroup_size, MOST_TURNING),
            "LANES": min(model.adapter.subgroup_size, KEY_LANES),
            "PARTS": parts_of(model.config.head_dim, keys),
            "SINKS": int(model.config.sinks),
        }
        bindings = {**rope.bindings, **model.sinks(index), "parts": m.parts, "marks": m.marks}
        label = f"blk.{index}.attention"
        return Step("attention_decode", constants, bindings, params, 1, label)

    def _stack(self, name: str, fold: Fold, out: Slice) -> Iterator[Step]:
        return self._project(self._model.weights.stacks[name], fold, out, name)

    def _gate_up(self, index: int, fold: Fold) -> Iterator[Step]:
        """One step where gate and up are one matrix that is bound at once, three where not."""
        model, m, name = self._model, self._model.memory, f"blk.{index}.ffn_gate_up"
        stack = model.weights.stacks[name]
        if model.is_apart(name):
            yield from self._project(stack, fold, m.gate_up, name)
            yield model.gate(1, index)
        else:
            activation = ACTIVATIONS[model.config.activation]
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
            bindings, prologue = {"x": model.memory.normed}, Prologue.NONE
        start = 0
        for matrix in stack:
            yield from matvec(
                model, matrix, {**bindings, "out": out}, label, prologue, activation, start
            )
            start += aligned(matrix.rows, 4)

    def _folded(self, fold: Fold) -> tuple[dict[str, Slice], Prologue]:
        """What a matvec binds to compute `fold` itself, and its PROLOGUE."""
        vectors = self._model.weights.vectors
        bindings = {"x": fold.x, "weight": vectors[f"{fold.weight}.weight"]}
        if fold.next is None:
            return bindings, Prologue.NORM
        bindings |= {"branch": self._model.memory.branch, "next": fold.next}
        if fold.post is None:
            return bindings, Prologue.ADD_NORM
        return {**bindings, "post": vectors[f"{fold.post}.weight"]}, Prologue.POST_NORM


def matvec(
    model: PlannedModel,
    matrix: Matrix,
    bindings: Mapping[str, Slice],
    label: str,
    prologue: Prologue = Prologue.NONE,
    activation: int = 0,
    start: int = 0,
    last: bool = False,
    splits: int = 0,
    tokens: int = 1,
    out_stride: int = 0,
) -> list[Step]:
    """out[start:] = matrix · what the prologue makes of x, a step for each slice of the matrix.

    `prologue` and `activation` are those of kernels/vector.wgsl; `last` takes the batch's last
    token instead of its first; `splits` is how many runs of attention there are to join. With
    subgroups, `tokens` may be a batch of up to MOST_TOKENS, for which each weight is read once;
    their outputs are `out_stride` apart.
    """
    kernel = "matvec"
    constants = {
        "FORM": matrix.form,
        "COLS": matrix.columns,
        "PROLOGUE": prologue,
        "ACTIVATION": activation,
        "SPLITS": splits,
        "BIAS": int(matrix.bias is not None),
    }
    # A processor that plays a GPU reads activations where they lie as fast as workgroup memory.
    stages = prologue != Prologue.NONE or model.adapter.subgroup_size > 0
    constants["STAGE"] = int(stages and tokens == 1 and staged(model, matrix.columns))
    if model.adapter.subgroup_size:
        kernel = "matvec_half" if model.adapter.half else "matvec_subgroup"
    steps = []
    for part in matrix.slices:
        if model.adapter.subgroup_size:
            kind = kind_of(kernel, constants, part.rows)
            cut = model.cuts.get(kind) or team(part.rows, matrix.columns, activation)
            constants = {**constants, **cut.constants(), "TOKENS": tokens}
        params = {
            "rows": part.rows,
            "row0": part.row0,
            "x_stride": aligned(matrix.columns, 4),
            "out_stride": out_stride,
            "out0": start,
            "last": int(last),
            "eps": model.config.norm_eps,
            "offset": model.config.norm_offset,
            "heads": model.config.heads,
        }
        bound = {**bindings, **part.bindings(), "state": model.memory.state}
        if matrix.bias is not None:
            bound["bias"] = matrix.bias
        steps.append(Step(kernel, constants, bound, params, tokens, label))
    return steps


def staged(model: PlannedModel, columns: int) -> bool:
    """Whether a matvec's activations fit the adapter's workgroup memory."""
    return model.adapter.workgroup_bytes >= 4 * aligned(columns, 32) + REDUCTION_BYTES


def parts_of(head_dim: int, keys: int) -> int:
    """Threads of attention_decode that share four columns of a head, for up to `keys` keys.

    For long contexts all threads; for short ones few: what they have is then to be added up.
    """
    columns = aligned(head_dim, 4) // 4
    most = MOST_VALUE_LANES if keys > SHORT_KEYS else VALUE_LANES
    return min(_power(256 // columns), most)


def splits_of(keys: int, groups: int) -> int:
    """Runs into which attention cuts up to `keys` keys of each of `groups` groups of heads."""
    runs, most = (FEW_RUNS, MOST_FOLDED) if keys <= SHORT_KEYS else (MANY_RUNS, MOST_SPLITS)
    return max(min(runs // groups, keys // SPLIT_KEYS, most), 1)


def team(rows: int, columns: int, activation: int) -> Cut:
    """The rule of thumb for a matvec's cut (docs/experiments.md).

    Where there are few rows, as many threads a row as find a group each; once there are enough of
    them to keep a GPU busy, fewer, of which each has more to do.
    """
    groups = aligned(columns, 32) // 32
    if rows >= MANY_ROWS:
        return Cut(min(max(_power(groups // GROUPS_A_THREAD), 4), 16), 2, 2)
    threads = min(max(_power(groups // 2), 4), 64 if rows < FEW_ROWS else 32)
    return Cut(threads, 2 if activation else 1, 1)


def _power(number: int) -> int:
    """The largest power of two that is not above `number`."""
    return 1 << max(number, 1).bit_length() - 1

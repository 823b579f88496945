"""The plan of decode: one token through every layer, in as few dispatches as there can be.

A layer takes five: q, k and v; attention, or what is there instead; its output; gate, up and
activation; down. Attention with gates takes two more, Gated DeltaNet too, and a layer that has
embeddings of its own; a mixture takes more. Norms and residuals are folded into the matvecs that
read them (matvec_common.wgsl).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from doppler.gpu.step import Step, View
from doppler.plan.attention import (
    attention,
    heads_norm,
    rope,
    rope_bindings,
    rope_constants,
    rope_params,
    sinks,
)
from doppler.plan.bindings import MOST_SPLITS
from doppler.plan.layer import ACTIVATIONS, Ffn, PlannedModel
from doppler.plan.matmul import multiply
from doppler.plan.matvec import power, staged
from doppler.plan.moe import chosen, experts_of, foresee, sum_of_experts
from doppler.plan.per_layer import last_token, own_branch, own_embeddings
from doppler.plan.product import Operand, Product, Prologue, Rows
from doppler.plan.recurrent import output, output_gate, projection, recur
from doppler.plan.segments import Part, Place, Segment
from doppler.weights.placement import Matrix, aligned

MOST_FOLDED_COLUMNS = 8192  # that the threads of a matvec hold while they are normed
MOST_TURNING = 32  # threads of attention_decode that rotate a head
MOST_TURNS = 8  # eights of it that each of them rotates
KEY_LANES = 16  # threads of attention_decode that share a key
VALUE_LANES, MOST_VALUE_LANES = 2, 8  # and four columns of the values, at most
SPLIT_KEYS = 32  # that a workgroup of attention_decode sums at least
SHORT_KEYS = 1024  # up to which few runs do, which the output's matvec joins by itself
FEW_RUNS, MANY_RUNS = 32, 264  # of all key-value heads, for contexts that are short or long
MOST_FOLDED = 16  # runs a head that a matvec joins


@dataclass(frozen=True)
class Fold:
    """x (+ branch, normed by `post` first) -> normed by `weight`; the sum is kept in `next`.

    Without a weight, the sum is all that is made.
    """

    x: View
    weight: str | None
    next: View | None = None
    post: str | None = None


class DecodePlan:
    """Builds the steps of one model for one token."""

    def __init__(self, model: PlannedModel) -> None:
        self._model, self._memory = model, model.memory(1)
        c = model.config
        # A router's product is exact, and so stages more.
        fits = model.widths.hidden <= MOST_FOLDED_COLUMNS and all(
            staged(model, matrix, is_exact=c.experts is not None)
            for matrix in model.weights.matrices.values()
            if matrix.columns == c.hidden
        )
        # With both a norm of the branch and a bias, a matvec would bind more than all GPUs can.
        self._folds = fits and not (c.post_norms and c.biases)

    def body(self, bucket: int) -> list[Segment]:
        """Token id -> the last layer's x and branch; one more place of the KV cache is filled.

        The work is cut for contexts of up to `bucket` tokens; longer ones are right but slow.
        """
        model = self._model
        embedding = (*model.embed(1), *own_embeddings(model, 1))
        layers = self._layers(range(len(model.config.layers)), bucket)
        return [Segment(Place(Part.EMBEDDING), embedding), *layers]

    def rest(self, bucket: int) -> list[Segment]:
        """The last token of a chunk, after the layers that fill the KV cache -> what body gives."""
        model = self._model
        own, layers = model.config.own_layers, len(model.config.layers)
        last = Segment(Place(Part.LAST), (last_token(model, self._x_before(own)),))
        return [last, *self._layers(range(own, layers), bucket)]

    def _layers(self, indices: range, bucket: int) -> list[Segment]:
        """The first of them reads x alone, the others what the one before left beside it."""
        model, segments = self._model, list[Segment]()
        for index in indices:
            projected = self._project_mixer(index, is_first=index == indices[0])
            mixed = self._attend if model.config.layers[index].attends else self._recur
            attention = (*projected, *mixed(index, bucket), *self._ffn_norm(index))
            segments.append(Segment(Place(Part.ATTENTION, index), attention))
            if model.config.mixture(index) is None:
                ffn = self._dense(index, self._ffn_fold(index), "branch")
            else:
                router = tuple(self._router(index))
                segments.append(Segment(Place(Part.ROUTER, index), router))
                beside = tuple(self._beside(index))
                segments.append(Segment(Place(Part.BESIDE, index), beside))
                experts = tuple(self._experts(index))
                segments.append(Segment(Place(Part.EXPERTS, index), experts))
                ffn = sum_of_experts(model, 1, index)
            segments.append(Segment(Place(Part.FFN, index), (*ffn, *self._own(index))))
        return segments

    def ahead(self) -> list[Segment]:
        """Of each layer that may halt the plan: which experts the one behind it may lack, too.

        No token takes these: they are for whoever brings what a halted one lacks.
        """
        foreseen = {it: tuple(self._foreseen(it)) for it in self._model.layout.slots}
        return [Segment(Place(Part.AHEAD, it), steps) for it, steps in foreseen.items() if steps]

    def head(self) -> Segment:
        """The last layer's x and branch -> logits."""
        model, logits, layers = self._model, self._memory["logits"], len(self._model.config.layers)
        fold = self._end_of(layers - 1, "output_norm")
        steps = self._project((model.head_matrix,), fold, logits, "head")
        return Segment(Place(Part.HEAD), (*steps, *model.capped(logits)))

    def _sum(self, number: int, weight: str | None, post: str | None) -> Fold:
        """The sum of x and a branch, the number-th of a token: x is in two buffers in turn."""
        names = ("x", "x_next") if number % 2 == 0 else ("x_next", "x")
        x, following = (self._memory[name] for name in names)
        return Fold(x, weight, following, post)

    @property
    def _sums(self) -> int:
        """Those of a layer."""
        return 3 if self._model.config.per_layer else 2

    def _end_of(self, index: int, weight: str | None) -> Fold:
        """What is made of x and the last branch of layer `index`."""
        number = self._sums * (index + 1) - 1
        return self._sum(number, weight, self._model.last_norm(index))

    def _x_before(self, index: int) -> View:
        """Where layer `index` reads x, with all added to it."""
        buffer = "x_next" if self._folds and self._sums * index % 2 else "x"
        return self._memory[buffer]

    def _project_mixer(self, index: int, is_first: bool) -> Iterator[Step]:
        """x (and branch of the layer before) -> qkv, or what another mixer reads."""
        model, m, norm = self._model, self._memory, self._model.attention_norm(index)
        fold = Fold(self._x_before(index), norm) if is_first else self._end_of(index - 1, norm)
        name, stack = projection(model, index)
        yield from self._project(stack, fold, m["qkv"], name)
        if model.config.layers[index].attends:
            yield from heads_norm(model, 1, index)

    def _recur(self, index: int, _: int) -> list[Step]:
        """What is projected -> branch, of a layer with a state: no context is long for it."""
        model = self._model
        steps = recur(model, 1, index)
        return [*steps, *self._plain(output(model, index), self._memory["attended"])]

    def _attend(self, index: int, bucket: int) -> list[Step]:
        """qkv -> branch; where it can be, the keys are shared among workgroups."""
        model, m, back = self._model, self._memory, output(self._model, index)
        shape, lanes = model.config.shape(index), model.adapter.subgroup_size
        turns = shape.head_dim / 8 / min(lanes, MOST_TURNING) if lanes else math.inf
        if turns > MOST_TURNS or shape.head_dim % 8:
            steps = [*rope(model, 1, index), *attention(model, 1, index)]
            return [*steps, *self._project_back(index)]
        c, window = model.config, model.config.layers[index].window
        # attention_decode does four heads
        groups = shape.kv_heads * -(-shape.heads // shape.kv_heads // 4)
        keys = min(bucket, window or bucket)
        splits = splits_of(keys, groups)
        runs = {"heads": c.heads, "splits": splits}
        steps = list(self._attend_runs(index, splits, keys))
        matrix = model.weights.matrices[f"{back}.weight"]
        if splits <= MOST_FOLDED and staged(model, matrix) and not c.output_gate:
            x = Operand({"x": m["partial_out"], "branch": m["partial_lse"]}, Prologue.JOIN, splits)
            return [*steps, *multiply(model, Product((matrix,), x, m["branch"], back))]
        bindings = {
            "partial_out": m["partial_out"],
            "partial_lse": m["partial_lse"],
            "out": m["attended"],
            "state": m["state"],
        }
        label = f"blk.{index}.attention join"
        steps.append(Step("attention_join", {"HEAD_DIM": shape.head_dim}, bindings, runs, 1, label))
        return [*steps, *self._project_back(index)]

    def _project_back(self, index: int) -> Iterator[Step]:
        """attended -> branch, through gates first where there are some."""
        yield from output_gate(self._model, 1, index)
        yield from self._plain(output(self._model, index), self._memory["attended"])

    def _attend_runs(self, index: int, splits: int, keys: int) -> Iterator[Step]:
        """qkv -> what each of `splits` runs of up to `keys` keys gives alone."""
        model, m = self._model, self._memory
        constants = {
            **rope_constants(model, index),
            "TURN": min(model.adapter.subgroup_size, MOST_TURNING),
            "LANES": min(model.adapter.subgroup_size, KEY_LANES),
            "PARTS": parts_of(model.config.shape(index).head_dim, keys),
            "SINKS": int(model.config.sinks),
            "SCORE_CAP": model.config.score_cap,
        }
        shared = {
            **rope_bindings(model, 1, index),
            **sinks(model, index),
            "partial_out": m["partial_out"],
            "partial_lse": m["partial_lse"],
        }
        for part in model.layout.cache_slices(index):
            params = {
                **rope_params(model, index, part),
                "window": model.config.layers[index].window,
                "splits": splits,
                "scale": model.config.query_scale,
            }
            bindings, label = shared | part.bindings(), f"blk.{index}.attention"
            yield Step("attention_decode", constants, bindings, params, 1, label)

    def _ffn_fold(self, index: int) -> Fold:
        """What is made of x and the attention's branch for what comes after it."""
        post = self._model.post_norm(index, "post_attention_norm")
        return self._sum(self._sums * index, self._model.norm_after_attention(index), post)

    def _ffn_norm(self, index: int) -> Iterator[Step]:
        """The step for it, where matvecs do not compute it: with attention, since it adds to x."""
        return self._norm(self._ffn_fold(index), f"blk.{index}.attention")

    def _dense(self, index: int, fold: Fold, out: str) -> Iterator[Step]:
        """What `fold` makes of x -> what is called `out`."""
        if self._model.config.has_gates:
            yield from self._gate_up(self._model.dense(index), fold)
        else:
            yield from self._up(index, fold)
        yield from self._plain(f"blk.{index}.ffn_down", self._memory["gated"], out)

    def _own(self, index: int) -> Iterator[Step]:
        """x and branch -> branch, where layers have embeddings of their own."""
        model = self._model
        if model.config.per_layer:
            post = model.post_norm(index, "post_ffw_norm")
            fold = self._sum(self._sums * index + 1, None, post)
            yield from self._norm(fold, f"blk.{index}.ffn")
            yield from own_branch(model, 1, index, self._operand(fold))

    def _router(self, index: int) -> Iterator[Step]:
        """x and branch -> the experts that the token uses."""
        model, m, name = self._model, self._memory, f"blk.{index}.ffn_gate_inp"
        stack, x = model.weights.stacks[name], self._operand(self._ffn_fold(index))
        yield from multiply(model, Product(stack, x, m["routes"], name, is_exact=True))
        yield from chosen(model, 1, index)

    def _foreseen(self, index: int) -> Iterator[Step]:
        """x and branch -> the experts that the next layer is expected to use, if it may lack some.

        Its router reads what this layer's does: most of it will still be so.
        """
        model, following = self._model, index + 1
        if not self._folds or following not in model.layout.slots:
            return
        norm = model.norm_after_attention(following)
        if norm is None:
            return
        name, x = f"blk.{following}.ffn_gate_inp", self._operand(self._mixture_fold(index, norm))
        out, stack = self._memory["expected routes"], model.weights.stacks[name]
        yield from multiply(model, Product(stack, x, out, f"{name} ahead", is_exact=True))
        yield foresee(model, following)

    def _beside(self, index: int) -> Iterator[Step]:
        """x -> what experts read, and a dense FFN beside them gives. The router has added up x."""
        experts, prefix = experts_of(self._model), f"blk.{index}"
        dense = self._mixture_fold(index, f"{prefix}.ffn_norm")
        if experts.own_norms:
            yield from self._norm(dense, f"{prefix}.dense")
        if experts.beside:
            yield from self._dense(index, dense, "beside")
        if experts.own_norms:
            yield from self._norm(self._experts_fold(index), f"{prefix}.experts")

    def _mixture_fold(self, index: int, norm: str) -> Fold:
        added = self._ffn_fold(index)
        assert added.next is not None
        return Fold(added.next, norm)

    def _experts_fold(self, index: int) -> Fold:
        """What is made of x for experts."""
        own_norms = experts_of(self._model).own_norms
        name = "pre_ffw_norm_2" if own_norms else "ffn_norm"
        return self._mixture_fold(index, f"blk.{index}.{name}")

    def _experts(self, index: int) -> Iterator[Step]:
        """x -> downs, by the experts that the token uses."""
        model, m, down = self._model, self._memory, f"blk.{index}.ffn_down_exps"
        yield from self._gate_up(model.mixture(index), self._experts_fold(index))
        stack, gated = model.weights.stacks[down], Operand({"x": m["gated"]})
        stride = model.widths.hidden
        downs = Product(stack, gated, m["downs"], down, stride, rows=Rows.OF_SLOTS)
        yield from multiply(model, downs)

    def _up(self, index: int, fold: Fold) -> Iterator[Step]:
        """What `fold` makes of x -> gated, where there are no gates."""
        model, stack = self._model, self._model.weights.stacks[self._model.dense(index).gate_up]
        x, out = self._operand(fold), self._memory["gate_up"]
        yield from multiply(model, Product(stack, x, out, f"blk.{index}.ffn_up"))
        yield model.xielu(1, index)

    def _gate_up(self, ffn: Ffn, fold: Fold) -> Iterator[Step]:
        """One step where gate and up are one matrix that is bound at once, three where not."""
        model, m, name = self._model, self._memory, ffn.gate_up
        is_apart, activation = model.is_apart(name), ACTIVATIONS[model.config.activation]
        out, stride = m["gated"], ffn.stride
        if is_apart:
            out, stride, activation = m["gate_up"], 2 * ffn.stride, 0
        product = Product(
            model.weights.stacks[name],
            self._operand(fold),
            out,
            name,
            stride if ffn.rows else 0,
            activation=activation,
            rows=ffn.rows,
        )
        yield from multiply(model, product)
        if is_apart:
            yield model.gate(1, ffn)

    def _plain(self, name: str, x: View, to: str = "branch") -> Iterator[Step]:
        """One matrix, x -> what is called `to`."""
        matrix = self._model.weights.matrices[f"{name}.weight"]
        product = Product((matrix,), Operand({"x": x}), self._memory[to], name)
        return multiply(self._model, product)

    def _project(
        self, stack: Sequence[Matrix], fold: Fold, out: View, label: str
    ) -> Iterator[Step]:
        """What `fold` makes of x, times a stack of matrices."""
        yield from self._norm(fold, label)
        yield from multiply(self._model, Product(stack, self._operand(fold), out, label))

    def _norm(self, fold: Fold, label: str) -> Iterator[Step]:
        """A step for the fold, where matvecs do not compute it themselves."""
        if self._folds:
            return
        if fold.next is not None:
            yield self._model.norm(1, label, fold.weight, fold.post)
        elif fold.weight is not None:
            yield self._model.norm_alone(1, label, fold.weight)

    def _operand(self, fold: Fold) -> Operand:
        """What is multiplied: `fold` of x, or what was normed for a step before."""
        vectors = self._model.weights.vectors
        if not self._folds:
            return Operand({"x": self._memory["x" if fold.weight is None else "normed"]})
        bindings = {"x": fold.x}
        if fold.weight is not None:
            bindings["weight"] = vectors[f"{fold.weight}.weight"]
        if fold.next is None:
            return Operand(bindings, Prologue.NORM if fold.weight is not None else Prologue.NONE)
        bindings |= {"branch": self._memory["branch"], "next": fold.next}
        if fold.post is None:
            return Operand(bindings, Prologue.ADD_NORM)
        bindings["post"] = vectors[f"{fold.post}.weight"]
        prologue = Prologue.POST if fold.weight is None else Prologue.POST_NORM
        return Operand(bindings, prologue, is_scaled=self._model.is_scaled(fold.post))


def parts_of(head_dim: int, keys: int) -> int:
    """Threads of attention_decode that share four columns of a head, for up to `keys` keys.

    For long contexts all threads; for short ones few: what they have is then to be added up.
    """
    columns = aligned(head_dim, 4) // 4
    most = MOST_VALUE_LANES if keys > SHORT_KEYS else VALUE_LANES
    return min(power(256 // columns), most)


def splits_of(keys: int, groups: int) -> int:
    """Runs into which attention cuts up to `keys` keys of each of `groups` groups of heads."""
    runs, most = (FEW_RUNS, MOST_FOLDED) if keys <= SHORT_KEYS else (MANY_RUNS, MOST_SPLITS)
    return max(min(runs // groups, keys // SPLIT_KEYS, most), 1)

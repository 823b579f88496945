"""The plan of prefill: a batch of tokens through every layer, a step for each operation."""

from __future__ import annotations

from collections.abc import Iterator

from doppler.gpu.step import Step, View
from doppler.plan.attention import attention, heads_norm, rope
from doppler.plan.layer import ACTIVATIONS, Ffn, PlannedModel
from doppler.plan.matmul import multiply, takes_matvecs
from doppler.plan.moe import align, chosen, experts_of, lookup, sum_of_experts
from doppler.plan.per_layer import own_branch, own_embeddings
from doppler.plan.product import Operand, Product, Rows
from doppler.plan.recurrent import output, output_gate, projection, recur
from doppler.plan.segments import Part, Place, Segment
from doppler.weights.placement import aligned


class PrefillPlan:
    """Builds the steps of one model for any batch size."""

    def __init__(self, model: PlannedModel) -> None:
        self._model = model

    def all(self, batch: int) -> list[Segment]:
        """Token ids -> logits of the last."""
        return [*self.body(batch), self.head()]

    def body(self, batch: int) -> list[Segment]:
        """Token ids -> normed hidden states of up to `batch` tokens; fills the KV cache.

        States of layers that have one move on by as many.
        """
        return [*self.caches(batch), *self.rest(batch)]

    def caches(self, batch: int) -> list[Segment]:
        """Token ids -> x after the layers that fill the KV cache."""
        model = self._model
        embedding = [*model.embed(batch), *own_embeddings(model, batch)]
        if (norm := model.attention_norm(0)) is not None:
            embedding.append(model.norm_alone(batch, "embedding", norm))
        layers = self._layers(batch, range(model.config.own_layers))
        return [Segment(Place(Part.EMBEDDING), tuple(embedding)), *layers]

    def rest(self, batch: int) -> list[Segment]:
        """The layers that read others' keys: x -> normed hidden states."""
        config = self._model.config
        return self._layers(batch, range(config.own_layers, len(config.layers)))

    def _layers(self, batch: int, indices: range) -> list[Segment]:
        model, segments = self._model, list[Segment]()
        for index in indices:
            attention = tuple(self._mixer(batch, index))
            segments.append(Segment(Place(Part.ATTENTION, index), attention))
            if model.config.mixture(index) is None:
                ffn = self._dense(batch, index, "branch")
            else:
                router = tuple(self._router(batch, index))
                segments.append(Segment(Place(Part.ROUTER, index), router))
                beside = tuple(self._beside(batch, index))
                segments.append(Segment(Place(Part.BESIDE, index), beside))
                experts = tuple(self._experts(batch, index))
                segments.append(Segment(Place(Part.EXPERTS, index), experts))
                ffn = sum_of_experts(model, batch, index)
            end = self._end(batch, index)
            segments.append(Segment(Place(Part.FFN, index), (*ffn, *end)))
        return segments

    def passes(self, batch: int) -> list[Segment]:
        """What experts give that are in the pass table, of each layer that has slots."""
        model, slots = self._model, self._model.layout.slots
        return [
            Segment(
                Place(Part.EXPERTS, index),
                (lookup(model, batch, index, in_pass=True), *self._experts(batch, index)),
            )
            for index in sorted(slots)
        ]

    def head(self) -> Segment:
        """Normed hidden state of the batch's last token -> logits."""
        model, m = self._model, self._model.layout.of_batch
        x = Operand({"x": m["normed"]}, is_last=True)
        steps = multiply(model, Product((model.head_matrix,), x, m["logits"], "head"))
        return Segment(Place(Part.HEAD), (*steps, *model.capped(m["logits"])))

    def head_of_all(self, rows: int, normed: View, logits: View) -> Segment:
        """`rows` normed hidden states -> `logits` [rows, vocab rounded up to a vec4]."""
        model, x = self._model, Operand({"x": normed})
        stride = aligned(model.config.vocab, 4)
        product = Product((model.head_matrix,), x, logits, "head", stride, rows)
        return Segment(Place(Part.HEAD), (*multiply(model, product), *model.capped(logits)))

    def _mixer(self, batch: int, index: int) -> Iterator[Step]:
        model, m, prefix = self._model, self._model.memory(batch), f"blk.{index}"
        name, stack = projection(model, index)
        x, stride = Operand({"x": model.read(batch)}), model.widths.qkv
        yield from multiply(model, Product(stack, x, m["qkv"], name, stride, batch))
        if model.config.layers[index].attends:
            yield from heads_norm(model, batch, index)
            yield from rope(model, batch, index)
            yield from attention(model, batch, index)
            yield from output_gate(model, batch, index)
        else:
            yield from recur(model, batch, index)
        yield from self._plain(batch, output(model, index), m["attended"], "branch")
        post = model.post_norm(index, "post_attention_norm")
        yield model.norm(batch, f"{prefix}.attention", model.norm_after_attention(index), post)

    def _end(self, batch: int, index: int) -> Iterator[Step]:
        """x and the FFN's branch -> x of the next layer, and normed."""
        model, label = self._model, f"blk.{index}.ffn"
        if model.config.per_layer:
            yield model.norm(batch, label, None, model.post_norm(index, "post_ffw_norm"))
            x = Operand({"x": model.memory(batch)["x"]})
            yield from own_branch(model, batch, index, x)
            label = f"blk.{index}.proj"
        yield model.norm(batch, label, model.following(index), model.last_norm(index))

    def _dense(self, batch: int, index: int, out: str) -> Iterator[Step]:
        """normed -> what is called `out`."""
        if self._model.config.has_gates:
            yield from self._gate_up(batch, self._model.dense(index))
        else:
            yield from self._up(batch, index)
        gated = self._model.memory(batch)["gated"]
        yield from self._plain(batch, f"blk.{index}.ffn_down", gated, out)

    def _up(self, batch: int, index: int) -> Iterator[Step]:
        model, ffn = self._model, self._model.dense(index)
        x, stack, out = model.read(batch), model.weights.stacks[ffn.gate_up], model.memory(batch)
        name = f"blk.{index}.ffn_up"
        ups = Product(stack, Operand({"x": x}), out["gate_up"], name, ffn.stride, batch)
        yield from multiply(model, ups)
        yield model.xielu(batch, index)

    def _gate_up(self, batch: int, ffn: Ffn) -> Iterator[Step]:
        model, name, rows = self._model, ffn.gate_up, ffn.rows
        m, stack = model.memory(batch), model.weights.stacks[name]
        x = Operand({"x": model.read(batch)})
        if model.is_apart(name):
            apart = Product(stack, x, m["gate_up"], name, 2 * ffn.stride, batch, rows=rows)
            yield from multiply(model, apart)
            yield model.gate(batch, ffn)
        else:
            activation = ACTIVATIONS[model.config.activation]
            product = Product(stack, x, m["gated"], name, ffn.stride, batch, activation, rows)
            yield from multiply(model, product)

    def _router(self, batch: int, index: int) -> Iterator[Step]:
        """normed -> the experts that each token uses."""
        model, m, name = self._model, self._model.memory(batch), f"blk.{index}.ffn_gate_inp"
        stack, x = model.weights.stacks[name], Operand({"x": m["normed"]})
        stride = model.widths.routes
        yield from multiply(
            model, Product(stack, x, m["routes"], name, stride, batch, is_exact=True)
        )
        yield from chosen(model, batch, index)

    def _beside(self, batch: int, index: int) -> Iterator[Step]:
        """normed, or x where there are more norms -> what experts read, and a dense FFN gives."""
        model, experts, prefix = self._model, experts_of(self._model), f"blk.{index}"
        if experts.own_norms:
            yield model.norm_alone(batch, f"{prefix}.dense", f"{prefix}.ffn_norm")
        if experts.beside:
            yield from self._dense(batch, index, "beside")
        if experts.own_norms:
            yield model.norm_alone(batch, f"{prefix}.experts", f"{prefix}.pre_ffw_norm_2")

    def _experts(self, batch: int, index: int) -> Iterator[Step]:
        """normed -> downs, through the experts that each token uses."""
        model, m, w = self._model, self._model.memory(batch), self._model.widths
        down = f"blk.{index}.ffn_down_exps"
        if not takes_matvecs(model, batch):
            yield align(model, batch, index)
        yield from self._gate_up(batch, model.mixture(index))
        stack, gated = model.weights.stacks[down], Operand({"x": m["gated"]})
        downs = Product(stack, gated, m["downs"], down, w.hidden, batch, rows=Rows.OF_SLOTS)
        yield from multiply(model, downs)

    def _plain(self, batch: int, name: str, x: View, to: str) -> Iterator[Step]:
        """One matrix, x -> what is called `to`."""
        model, out = self._model, self._model.memory(batch)[to]
        matrix, stride = model.weights.matrices[f"{name}.weight"], model.widths.hidden
        yield from multiply(model, Product((matrix,), Operand({"x": x}), out, name, stride, batch))

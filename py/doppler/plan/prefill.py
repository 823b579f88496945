"""The plan of prefill: a batch of tokens through every layer, a step for each operation."""

from __future__ import annotations

from collections.abc import Iterator

from doppler.gpu.step import Step, View
from doppler.plan.attention import attention, rope
from doppler.plan.layer import ACTIVATIONS, PlannedModel
from doppler.plan.matmul import multiply, takes_matvecs
from doppler.plan.moe import align, route, sum_experts
from doppler.plan.per_layer import own_branch, own_embeddings
from doppler.plan.product import Operand, Product, Rows
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
        """Token ids -> normed hidden states of up to `batch` tokens; fills the KV cache."""
        return [*self.caches(batch), *self.rest(batch)]

    def caches(self, batch: int) -> list[Segment]:
        """Token ids -> x after the layers that fill the KV cache."""
        model = self._model
        embedding = (
            *model.embed(batch),
            *own_embeddings(model, batch),
            model.norm(batch, "embedding", "blk.0.attn_norm"),
        )
        layers = self._layers(batch, range(model.config.own_layers))
        return [Segment(Place(Part.EMBEDDING), embedding), *layers]

    def rest(self, batch: int) -> list[Segment]:
        """The layers that read others' keys: x -> normed hidden states."""
        config = self._model.config
        return self._layers(batch, range(config.own_layers, len(config.layers)))

    def _layers(self, batch: int, indices: range) -> list[Segment]:
        model, segments = self._model, list[Segment]()
        for index in indices:
            attention = tuple(self._attention(batch, index))
            segments.append(Segment(Place(Part.ATTENTION, index), attention))
            if model.config.experts is None:
                ffn = self._dense(batch, index)
            else:
                router = tuple(self._router(batch, index))
                segments.append(Segment(Place(Part.ROUTER, index), router))
                ffn = self._experts(batch, index)
            end = self._end(batch, index)
            segments.append(Segment(Place(Part.FFN, index), (*ffn, *end)))
        return segments

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

    def _attention(self, batch: int, index: int) -> Iterator[Step]:
        model, m, prefix = self._model, self._model.memory(batch), f"blk.{index}"
        name, x = f"{prefix}.attn_qkv", Operand({"x": m["normed"]})
        stack, stride = model.weights.stacks[name], model.widths.qkv
        yield from multiply(model, Product(stack, x, m["qkv"], name, stride, batch))
        yield from rope(model, batch, index)
        yield from attention(model, batch, index)
        yield from self._plain(batch, f"{prefix}.attn_output", m["attended"])
        post = model.post_norm(index, "post_attention_norm")
        yield model.norm(batch, f"{prefix}.attention", f"{prefix}.ffn_norm", post)

    def _end(self, batch: int, index: int) -> Iterator[Step]:
        """x and the FFN's branch -> x of the next layer, and normed."""
        model, label = self._model, f"blk.{index}.ffn"
        if model.config.per_layer:
            yield model.norm(batch, label, None, model.post_norm(index, "post_ffw_norm"))
            x = Operand({"x": model.memory(batch)["x"]})
            yield from own_branch(model, batch, index, x)
            label = f"blk.{index}.proj"
        yield model.norm(batch, label, model.following(index), model.last_norm(index))

    def _dense(self, batch: int, index: int) -> Iterator[Step]:
        """normed -> branch."""
        yield from self._gate_up(batch, index, Rows.OF_TOKENS)
        yield from self._plain(batch, f"blk.{index}.ffn_down", self._model.memory(batch)["gated"])

    def _gate_up(self, batch: int, index: int, rows: Rows) -> Iterator[Step]:
        model, ffn, name = self._model, self._model.ffn_stride(index), f"blk.{index}.ffn_gate_up"
        m, stack = model.memory(batch), model.weights.stacks[name]
        x = Operand({"x": m["normed"]})
        if model.is_apart(name):
            apart = Product(stack, x, m["gate_up"], name, 2 * ffn, batch, rows=rows)
            yield from multiply(model, apart)
            yield model.gate(batch, index)
        else:
            activation = ACTIVATIONS[model.config.activation]
            product = Product(stack, x, m["gated"], name, ffn, batch, activation, rows)
            yield from multiply(model, product)

    def _router(self, batch: int, index: int) -> Iterator[Step]:
        """normed -> the experts that each token uses."""
        model, m, name = self._model, self._model.memory(batch), f"blk.{index}.ffn_gate_inp"
        matrix, x = model.weights.matrices[f"{name}.weight"], Operand({"x": m["normed"]})
        stride = model.widths.routes
        yield from multiply(
            model, Product((matrix,), x, m["routes"], name, stride, batch, is_exact=True)
        )
        yield route(model, batch, index)

    def _experts(self, batch: int, index: int) -> Iterator[Step]:
        """normed -> branch, through the experts that each token uses."""
        model, m, w = self._model, self._model.memory(batch), self._model.widths
        down = f"blk.{index}.ffn_down"
        if not takes_matvecs(model, batch):
            yield align(model, batch, index)
        yield from self._gate_up(batch, index, Rows.OF_TOKENS_FOR_EXPERTS)
        stack, gated = model.weights.stacks[down], Operand({"x": m["gated"]})
        downs = Product(stack, gated, m["downs"], down, w.hidden, batch, rows=Rows.OF_SLOTS)
        yield from multiply(model, downs)
        yield sum_experts(model, batch, index)

    def _plain(self, batch: int, name: str, x: View) -> Iterator[Step]:
        """One matrix, x -> branch."""
        model, out = self._model, self._model.memory(batch)["branch"]
        matrix, stride = model.weights.matrices[f"{name}.weight"], model.widths.hidden
        yield from multiply(model, Product((matrix,), Operand({"x": x}), out, name, stride, batch))

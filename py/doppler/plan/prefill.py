"""The plan of prefill: a batch of tokens through every layer, a step for each operation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from doppler.gpu.step import Step, View
from doppler.plan.layer import ACTIVATIONS, PlannedModel, Rows
from doppler.plan.matmul import Place, project, takes_matvecs
from doppler.plan.matvec import matvec
from doppler.plan.moe import assign, combine, route
from doppler.weights.placement import aligned


class PrefillPlan:
    """Builds the steps of one model for any batch size."""

    def __init__(self, model: PlannedModel) -> None:
        self._model = model

    def all(self, batch: int) -> list[Step]:
        """Token ids -> logits of the last."""
        return self.body(batch) + self.head()

    def body(self, batch: int) -> list[Step]:
        """Token ids -> normed hidden states of up to `batch` tokens; fills the KV cache."""
        model = self._model
        steps = [*model.embed(batch), model.norm(batch, "embedding", "blk.0.attn_norm")]
        for index in range(len(model.config.layers)):
            steps += self._attention(batch, index)
            steps += self._ffn(batch, index)
        return steps

    def head(self) -> list[Step]:
        """Normed hidden state of the batch's last token -> logits."""
        model, m = self._model, self._model.layout.of_batch
        bindings = {"x": m["normed"], "out": m["logits"]}
        return matvec(model, model.head_matrix, bindings, "head", last=True)

    def head_of_all(self, rows: int, normed: View, logits: View) -> list[Step]:
        """`rows` normed hidden states -> `logits` [rows, vocab rounded up to a vec4]."""
        place = Place(logits, aligned(self._model.config.vocab, 4), rows)
        return list(project(self._model, self._model.head_matrix, normed, place, "head"))

    def _attention(self, batch: int, index: int) -> Iterator[Step]:
        model, m, prefix = self._model, self._model.memory(batch), f"blk.{index}"
        yield from self._stack(f"{prefix}.attn_qkv", Place(m["qkv"], model.widths.qkv, batch))
        yield model.rope(batch, index)
        yield model.attention(batch, index)
        yield from self._plain(batch, f"{prefix}.attn_output", m["attended"])
        post = model.post_norm(index, "post_attention_norm")
        yield model.norm(batch, f"{prefix}.attention", f"{prefix}.ffn_norm", post)

    def _ffn(self, batch: int, index: int) -> Iterator[Step]:
        model, m, prefix = self._model, self._model.memory(batch), f"blk.{index}"
        if model.config.experts is None:
            yield from self._gate_up(batch, index, Rows.OF_TOKENS)
            yield from self._plain(batch, f"{prefix}.ffn_down", m["gated"])
        else:
            yield from self._experts(batch, index)
        post = model.post_norm(index, "post_ffw_norm")
        yield model.norm(batch, f"{prefix}.ffn", model.following(index), post)

    def _gate_up(self, batch: int, index: int, rows: Rows) -> Iterator[Step]:
        model, w, name = self._model, self._model.widths, f"blk.{index}.ffn_gate_up"
        m = model.memory(batch)
        if model.is_apart(name):
            yield from self._stack(name, Place(m["gate_up"], w.gate_up, batch, rows=rows))
            yield model.gate(batch, index)
        else:
            activation = ACTIVATIONS[model.config.activation]
            place = Place(m["gated"], w.ffn, batch, activation=activation, rows=rows)
            yield from self._stack(name, place)

    def _experts(self, batch: int, index: int) -> Iterator[Step]:
        """normed -> branch, through the experts that each token uses."""
        model, m, w = self._model, self._model.memory(batch), self._model.widths
        router, down = f"blk.{index}.ffn_gate_inp", f"blk.{index}.ffn_down"
        matrix = model.weights.matrices[f"{router}.weight"]
        place = Place(m["routes"], w.routes, batch)
        yield from project(model, matrix, m["normed"], place, router, is_exact=True)
        yield route(model, batch, index)
        if not takes_matvecs(model, batch):
            yield assign(model, batch, index)
        yield from self._gate_up(batch, index, Rows.OF_TOKENS_FOR_EXPERTS)
        (matrix,) = model.weights.stacks[down]
        place = Place(m["downs"], w.hidden, batch, rows=Rows.OF_SLOTS)
        yield from project(model, matrix, m["gated"], place, down)
        yield combine(model, batch, index)

    def _stack(self, name: str, place: Place) -> Iterator[Step]:
        """Every matrix of a stack, each to its place: a multiple of four columns of the output."""
        model = self._model
        for matrix in model.weights.stacks[name]:
            yield from project(model, matrix, model.memory(place.tokens)["normed"], place, name)
            place = replace(place, start=place.start + aligned(matrix.height, 4))

    def _plain(self, batch: int, name: str, x: View) -> Iterator[Step]:
        """One matrix, x -> branch."""
        model = self._model
        place = Place(model.memory(batch)["branch"], model.widths.hidden, batch)
        yield from project(model, model.weights.matrices[f"{name}.weight"], x, place, name)

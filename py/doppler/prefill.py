"""The plan of prefill: a batch of tokens through every layer, a step for each operation."""

from __future__ import annotations

from collections.abc import Iterator

from doppler.decode import matvec
from doppler.gpu import Slice
from doppler.plan import PlannedModel, Step
from doppler.projection import project
from doppler.weights import aligned


class PrefillPlan:
    """Builds the steps of one model for any batch size."""

    def __init__(self, model: PlannedModel) -> None:
        self._model = model

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
        model, m = self._model, self._model.memory
        bindings = {"x": m.normed, "out": m.logits}
        return matvec(model, model.head_matrix, bindings, "head", last=True)

    def head_of_all(self, rows: int, normed: Slice, logits: Slice) -> list[Step]:
        """`rows` normed hidden states -> `logits` [rows, vocab rounded up to a vec4]."""
        stride = aligned(self._model.config.vocab, 4)
        place = {"tokens": rows, "out_stride": stride, "out0": 0}
        return list(project(self._model, self._model.head_matrix, normed, logits, place, "head"))

    def _attention(self, batch: int, index: int) -> Iterator[Step]:
        model, m, w, prefix = self._model, self._model.memory, self._model.widths, f"blk.{index}"
        yield from self._stack(batch, f"{prefix}.attn_qkv", m.normed, m.qkv, w.qkv)
        yield model.rope(batch, index)
        yield model.attention(batch, index)
        yield from self._plain(batch, f"{prefix}.attn_output", m.attended)
        post = model.post_norm(index, "post_attention_norm")
        yield model.norm(batch, f"{prefix}.attention", f"{prefix}.ffn_norm", post)

    def _ffn(self, batch: int, index: int) -> Iterator[Step]:
        model, m, w, prefix = self._model, self._model.memory, self._model.widths, f"blk.{index}"
        yield from self._stack(batch, f"{prefix}.ffn_gate_up", m.normed, m.gate_up, w.gate_up)
        yield model.gate(batch, index)
        yield from self._plain(batch, f"{prefix}.ffn_down", m.gated)
        post = model.post_norm(index, "post_ffw_norm")
        yield model.norm(batch, f"{prefix}.ffn", model.following(index), post)

    def _stack(self, batch: int, name: str, x: Slice, out: Slice, stride: int) -> Iterator[Step]:
        """Every matrix of a stack, each to its place: a multiple of four columns of the output."""
        start = 0
        for matrix in self._model.weights.stacks[name]:
            place = {"tokens": batch, "out_stride": stride, "out0": start}
            yield from project(self._model, matrix, x, out, place, name)
            start += aligned(matrix.rows, 4)

    def _plain(self, batch: int, name: str, x: Slice) -> Iterator[Step]:
        """One matrix, x -> branch."""
        model = self._model
        place = {"tokens": batch, "out_stride": model.widths.hidden, "out0": 0}
        matrix = model.weights.matrices[f"{name}.weight"]
        yield from project(model, matrix, x, model.memory.branch, place, name)

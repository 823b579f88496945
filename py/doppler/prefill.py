"""The plan of prefill: a batch of tokens through every layer, a step for each operation."""

from __future__ import annotations

from collections.abc import Iterator

from doppler.decode import matvec
from doppler.gpu import Slice
from doppler.plan import Number, PlannedModel, Step
from doppler.weights import Matrix, aligned


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
        return list(self._project(self._model.head_matrix, normed, logits, stride, 0, "head", rows))

    def _attention(self, batch: int, index: int) -> Iterator[Step]:
        model, m, w, prefix = self._model, self._model.memory, self._model.widths, f"blk.{index}"
        yield from self._stack(batch, f"{prefix}.attn_qkv", m.normed, m.qkv, w.qkv)
        yield model.rope(batch, index)
        yield model.attention(batch, index)
        output = model.weights.matrices[f"{prefix}.attn_output.weight"]
        yield from self._project(
            output, m.attended, m.branch, w.hidden, 0, f"{prefix}.attn_output", batch
        )
        post = model.post_norm(index, "post_attention_norm")
        yield model.norm(batch, f"{prefix}.attention", f"{prefix}.ffn_norm", post)

    def _ffn(self, batch: int, index: int) -> Iterator[Step]:
        model, m, w, prefix = self._model, self._model.memory, self._model.widths, f"blk.{index}"
        yield from self._stack(batch, f"{prefix}.ffn_gate_up", m.normed, m.gate_up, w.gate_up)
        yield model.gate(batch, index)
        down = model.weights.matrices[f"{prefix}.ffn_down.weight"]
        yield from self._project(down, m.gated, m.branch, w.hidden, 0, f"{prefix}.ffn_down", batch)
        post = model.post_norm(index, "post_ffw_norm")
        yield model.norm(batch, f"{prefix}.ffn", model.following(index), post)

    def _stack(self, batch: int, name: str, x: Slice, out: Slice, stride: int) -> Iterator[Step]:
        """Every matrix of a stack, each to its place: a multiple of four columns of the output."""
        start = 0
        for matrix in self._model.weights.stacks[name]:
            yield from self._project(matrix, x, out, stride, start, name, batch)
            start += aligned(matrix.rows, 4)

    def _project(
        self,
        matrix: Matrix,
        x: Slice,
        out: Slice,
        out_stride: int,
        start: int,
        label: str,
        batch: int,
    ) -> Iterator[Step]:
        """out[t, start:] = matrix · x[t], a step for each slice of the matrix."""
        for part in matrix.slices:
            params: dict[str, Number] = {
                "rows": part.rows,
                "cols": matrix.columns,
                "row0": part.row0,
                "x_stride": aligned(matrix.columns, 4),
                "out_stride": out_stride,
                "out0": start,
                "last": 0,
            }
            bindings = {
                **part.bindings(),
                "x": x,
                "out": out,
                "state": self._model.memory.state,
            }
            yield Step("matmul", {"FORM": matrix.form}, bindings, params, batch, label)

"""A model's config -> the lists of dispatches that prefill a batch and decode a token.

A plan is built once for a batch size. Each Step names a kernel, its variant and its bindings;
nothing here touches the GPU, so plans are read and counted in tests on CPython.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from doppler.config import Layer, ModelConfig
from doppler.gpu import Slice
from doppler.weights import Matrix, Weights, aligned

Number = int | float


@dataclass(frozen=True)
class Step:
    """One kernel to run over `tokens` tokens (of which the state says how many are real)."""

    kernel: str
    constants: Mapping[str, Number]
    bindings: Mapping[str, Slice]
    params: Mapping[str, Number]
    tokens: int
    label: str


@dataclass(frozen=True)
class Widths:
    """Row strides of the activations, in elements: widths rounded up to vec4s."""

    hidden: int
    qkv: int
    attended: int
    gate_up: int
    up0: int
    ffn: int

    @classmethod
    def of(cls, config: ModelConfig) -> Widths:
        ffn = aligned(config.ffn, 4)
        return cls(
            hidden=aligned(config.hidden, 4),
            qkv=aligned(config.q_width + 2 * config.kv_width, 4),
            attended=aligned(config.q_width, 4),
            gate_up=2 * ffn,
            up0=ffn,
            ffn=ffn,
        )

    def by_buffer(self) -> dict[str, int]:
        """Elements a token needs in each activation buffer, by the names of `Memory`."""
        return {
            "x": self.hidden,
            "normed": self.hidden,
            "branch": self.hidden,
            "qkv": self.qkv,
            "attended": self.attended,
            "gate_up": self.gate_up,
            "gated": self.ffn,
        }


@dataclass(frozen=True)
class Memory:
    """Everything that steps bind besides weights. Activations hold the largest batch."""

    x: Slice  # residual stream
    normed: Slice
    branch: Slice  # what attention or the FFN adds to x
    qkv: Slice
    attended: Slice
    gate_up: Slice
    gated: Slice
    logits: Slice  # [vocab] of the last token
    angles: tuple[Slice, ...]  # rope tables, one for each of config.ropes
    keys: tuple[Slice, ...]  # a layer each: [kv_heads, context, head_dim]
    values: tuple[Slice, ...]
    tokens: Slice
    state: Slice
    ring: Slice
    seen: Slice  # a bit a token of the vocabulary
    sampling: Slice


class Planner:
    """Builds the steps of one model for any batch size; `context` is the KV cache's length."""

    def __init__(
        self, config: ModelConfig, weights: Weights, memory: Memory, context: int, matvec: str
    ) -> None:
        self._config, self._weights, self._memory = config, weights, memory
        self._context = context
        self._widths = Widths.of(config)
        self._matvec = matvec  # the kernel that multiplies one token: "matvec" or a variant of it

    def body(self, batch: int) -> list[Step]:
        """Token ids -> normed hidden states of up to `batch` tokens; fills the KV cache."""
        steps = list(self._embed(batch))
        steps.append(self._norm(batch, "embedding", "blk.0.attn_norm"))
        last = len(self._config.layers) - 1
        for index, layer in enumerate(self._config.layers):
            following = "output_norm" if index == last else f"blk.{index + 1}.attn_norm"
            steps += self._attention(batch, index, layer)
            steps += self._ffn(batch, index, following)
        return steps

    def head(self) -> list[Step]:
        """Normed hidden state of the batch's last token -> logits."""
        matrix = self._head_matrix()
        m = self._memory
        return list(self._project(matrix, m.normed, m.logits, 0, 0, "head", 1, last=True))

    def head_of_all(self, rows: int, normed: Slice, logits: Slice) -> list[Step]:
        """`rows` normed hidden states -> `logits` [rows, vocab rounded up to a vec4]."""
        stride = aligned(self._config.vocab, 4)
        return list(self._project(self._head_matrix(), normed, logits, stride, 0, "head", rows))

    def sample(self) -> list[Step]:
        """Logits -> the next token, into tokens[0], the ring and the state."""
        m = self._memory
        bindings = {
            "logits": m.logits,
            "seen": m.seen,
            "tokens": m.tokens,
            "ring": m.ring,
            "state": m.state,
            "params": m.sampling,
        }
        return [Step("sample", {}, bindings, {}, 1, "sample")]

    def _head_matrix(self) -> Matrix:
        name = "token_embd.weight" if self._config.tied else "output.weight"
        return self._weights.matrices[name]

    def _embed(self, batch: int) -> Iterator[Step]:
        matrix = self._weights.matrices["token_embd.weight"]
        m = self._memory
        for part in matrix.slices:
            params = {
                "rows": part.rows,
                "cols": matrix.columns,
                "row0": part.row0,
                "stride": self._widths.hidden,
                "scale": self._config.embedding_scale,
            }
            bindings = {**part.bindings(), "tokens": m.tokens, "state": m.state, "out": m.x}
            yield Step("gather", {"FORM": matrix.form}, bindings, params, batch, "embedding")

    def _norm(self, batch: int, label: str, weight: str, post: str | None = None) -> Step:
        """x += (normed) branch; normed = norm(x). Without a branch, just the norm."""
        m, vectors = self._memory, self._weights.vectors
        has_branch = label != "embedding"
        bindings = {"x": m.x, "out": m.normed, "state": m.state}
        bindings["weight"] = vectors[f"{weight}.weight"]
        if has_branch:
            bindings["branch"] = m.branch
        if post is not None:
            bindings["post"] = vectors[f"{post}.weight"]
        params = {
            "width": self._config.hidden,
            "stride": self._widths.hidden,
            "eps": self._config.norm_eps,
            "offset": self._config.norm_offset,
        }
        constants = {"HAS_BRANCH": int(has_branch), "HAS_POST": int(post is not None)}
        return Step("norm", constants, bindings, params, batch, f"{label} norm")

    def _attention(self, batch: int, index: int, layer: Layer) -> Iterator[Step]:
        c, m, w = self._config, self._memory, self._widths
        prefix = f"blk.{index}"
        yield from self._stack(batch, f"{prefix}.attn_qkv", m.normed, m.qkv, w.qkv)
        yield self._rope(batch, index, layer)
        params = {
            "heads": c.heads,
            "kv_heads": c.kv_heads,
            "q_stride": w.qkv,
            "out_stride": w.attended,
            "context": self._context,
            "window": layer.window,
            "scale": c.query_scale,
        }
        bindings = {
            "qkv": m.qkv,
            "keys": m.keys[index],
            "values": m.values[index],
            "out": m.attended,
            "state": m.state,
        }
        constants = {"HEAD_DIM": c.head_dim}
        yield Step("attention", constants, bindings, params, batch, f"{prefix}.attention")
        yield from self._layer_project(
            batch, f"{prefix}.attn_output", m.attended, m.branch, w.hidden, 0
        )
        post = f"{prefix}.post_attention_norm" if c.post_norms else None
        yield self._norm(batch, f"{prefix}.attention", f"{prefix}.ffn_norm", post)

    def _rope(self, batch: int, index: int, layer: Layer) -> Step:
        c, m, vectors = self._config, self._memory, self._weights.vectors
        bindings = {
            "qkv": m.qkv,
            "angles": m.angles[layer.rope],
            "keys": m.keys[index],
            "values": m.values[index],
            "state": m.state,
        }
        if c.qk_norm:
            bindings["q_norm"] = vectors[f"blk.{index}.attn_q_norm.weight"]
            bindings["k_norm"] = vectors[f"blk.{index}.attn_k_norm.weight"]
        constants = {
            "HEAD_DIM": c.head_dim,
            "PAIRS": int(c.rope_pairs == "interleaved"),
            "QK_NORM": int(c.qk_norm),
        }
        params = {
            "heads": c.heads,
            "kv_heads": c.kv_heads,
            "stride": self._widths.qkv,
            "context": self._context,
            "eps": c.norm_eps,
            "offset": c.norm_offset,
        }
        return Step("rope", constants, bindings, params, batch, f"blk.{index}.rope")

    def _ffn(self, batch: int, index: int, following: str) -> Iterator[Step]:
        c, m, w = self._config, self._memory, self._widths
        prefix = f"blk.{index}"
        yield from self._stack(batch, f"{prefix}.ffn_gate_up", m.normed, m.gate_up, w.gate_up)
        params = {"ffn": c.ffn, "in_stride": w.gate_up, "up0": w.up0, "out_stride": w.ffn}
        constants = {"ACTIVATION": ("silu", "gelu_tanh").index(c.activation)}
        bindings = {"gate_up": m.gate_up, "out": m.gated, "state": m.state}
        yield Step("gate", constants, bindings, params, batch, f"{prefix}.gate")
        yield from self._layer_project(batch, f"{prefix}.ffn_down", m.gated, m.branch, w.hidden, 0)
        post = f"{prefix}.post_ffw_norm" if c.post_norms else None
        yield self._norm(batch, f"{prefix}.ffn", following, post)

    def _stack(self, batch: int, name: str, x: Slice, out: Slice, stride: int) -> Iterator[Step]:
        """Every matrix of a stack, each to its place: a multiple of four columns of the output."""
        start = 0
        for matrix in self._weights.stacks[name]:
            yield from self._project(matrix, x, out, stride, start, name, batch)
            start += aligned(matrix.rows, 4)

    def _layer_project(
        self, batch: int, name: str, x: Slice, out: Slice, stride: int, start: int
    ) -> Iterator[Step]:
        matrix = self._weights.matrices[f"{name}.weight"]
        return self._project(matrix, x, out, stride, start, name, batch)

    def _project(
        self,
        matrix: Matrix,
        x: Slice,
        out: Slice,
        out_stride: int,
        start: int,
        label: str,
        batch: int,
        last: bool = False,
    ) -> Iterator[Step]:
        """out[t, start:] = matrix · x[t], a step for each slice of the matrix."""
        kernel = "matmul" if batch > 1 else self._matvec
        for part in matrix.slices:
            params: dict[str, Number] = {
                "rows": part.rows,
                "cols": matrix.columns,
                "row0": part.row0,
                "x_stride": aligned(matrix.columns, 4),
                "out_stride": out_stride,
                "out0": start,
                "last": int(last),
            }
            bindings = {**part.bindings(), "x": x, "out": out, "state": self._memory.state}
            yield Step(kernel, {"FORM": matrix.form}, bindings, params, batch, label)

"""What plans are made of. A plan is a list of Steps: prefill.py and decode.py build them.

Each Step names a kernel, its variant and its bindings; nothing here touches the GPU, so plans are
read and counted in tests on CPython.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from doppler.config.model import ModelConfig
from doppler.gpu.step import Step, View
from doppler.plan.bindings import MemoryLayout, Widths
from doppler.plan.capabilities import Adapter
from doppler.plan.matvec_configs import Cuts
from doppler.plan.product import Rows
from doppler.plan.segments import Part, Place, Segment
from doppler.sampling import block_of
from doppler.weights.placement import Matrix, Weights, aligned

ACTIVATIONS = {"silu": 1, "gelu_tanh": 2, "swiglu_clamped": 3}  # activation.wgsl


@dataclass(frozen=True)
class Ffn:
    """One of a layer: the stack of its gates and ups, its width, and what a token's rows are."""

    gate_up: str
    width: int  # elements; of each expert, where it is a mixture
    rows: Rows

    @property
    def stride(self) -> int:
        """From a row of what it gates to the next."""
        return aligned(self.width, 4)


@dataclass(frozen=True)
class PlannedModel:
    """What all plans read: where a model's weights and buffers lie, and what it runs on."""

    weights: Weights
    layout: MemoryLayout
    adapter: Adapter
    cuts: Cuts  # measured to be quicker than the rule

    @property
    def config(self) -> ModelConfig:
        """The model's."""
        return self.layout.config

    @property
    def widths(self) -> Widths:
        """Row strides of the activations."""
        return self.layout.widths

    def memory(self, tokens: int) -> Mapping[str, View]:
        """What a plan for so many tokens binds besides weights, by name."""
        return self.layout.of_token if tokens == 1 else self.layout.of_batch

    @property
    def head_matrix(self) -> Matrix:
        """What turns a hidden state into logits."""
        name = "token_embd.weight" if self.config.tied else "output.weight"
        return self.weights.matrices[name]

    def embed(self, batch: int) -> list[Step]:
        """Token ids -> x."""
        out, scale = self.memory(batch)["x"], self.config.embedding_scale
        return self.look_up(batch, "token_embd", out, self.widths.hidden, scale)

    def look_up(self, batch: int, name: str, out: View, stride: int, scale: float) -> list[Step]:
        """Token ids -> their rows of a matrix, scaled; a step for each slice of it."""
        matrix = self.weights.matrices[f"{name}.weight"]
        m = self.memory(batch)
        shared = {"tokens": m["tokens"], "state": m["state"], "out": out}
        steps = []
        for part in matrix.slices:
            params = {
                "rows": part.rows,
                "cols": matrix.columns,
                "row0": part.row0,
                "stride": stride,
                "scale": scale,
            }
            bindings = {**part.bindings(), **shared}
            label = "embedding" if name == "token_embd" else name
            constants = {"FORM": matrix.form, "IN_ORDER": int(matrix is self._brought)}
            steps.append(Step("gather", constants, bindings, params, batch, label))
        return steps

    @property
    def _brought(self) -> Matrix | None:
        """The matrix that has a row for each token of the batch."""
        table = self.weights.on_host
        return None if table is None else table.matrix

    def norm_alone(self, batch: int, label: str, weight: str) -> Step:
        """normed = norm(x)."""
        return self._norm(batch, label, weight, None, has_branch=False)

    def norm(self, batch: int, label: str, weight: str | None, post: str | None = None) -> Step:
        """x += (normed) branch; normed = norm(x), if there is a weight.

        What ends a layer is also multiplied by its scale, where there is one.
        """
        return self._norm(batch, label, weight, post, has_branch=True)

    def _norm(
        self, batch: int, label: str, weight: str | None, post: str | None, *, has_branch: bool
    ) -> Step:
        m, vectors = self.memory(batch), self.weights.vectors
        bindings = {"x": m["x"], "out": m["normed"], "state": m["state"]}
        if weight is not None:
            bindings["weight"] = vectors[f"{weight}.weight"]
        if has_branch:
            bindings["branch"] = m["branch"]
        if post is not None:
            bindings["post"] = vectors[f"{post}.weight"]
        params = {
            "width": self.config.hidden,
            "stride": self.widths.hidden,
            "eps": self.config.norm_eps,
            "offset": self.config.norm_offset,
            "each": 1,
            "scale": 1.0,
            "branch_eps": self.config.norm_eps,
        }
        constants = {
            "HAS_BRANCH": int(has_branch),
            "HAS_POST": int(post is not None),
            "HAS_NORM": int(weight is not None),
            "SCALED": int(self.is_scaled(post)),
        }
        return Step("norm", constants, bindings, params, batch, f"{label} norm")

    def post_norm(self, index: int, name: str) -> str | None:
        """The norm of a branch before it is added, where the model has those."""
        return f"blk.{index}.{name}" if self.config.post_norms else None

    def last_norm(self, index: int) -> str | None:
        """That of the last branch of a layer."""
        return self.post_norm(index, self.config.last_norm)

    def is_scaled(self, post: str | None) -> bool:
        """Whether the sum with a branch that `post` norms is multiplied by its layer's scale."""
        is_last = post is not None and post.endswith(f".{self.config.last_norm}")
        return self.config.layer_scales and is_last

    def attention_norm(self, index: int) -> str | None:
        """The norm of what attention reads, where there is one."""
        return f"blk.{index}.attn_norm" if self.config.pre_norms else None

    def read(self, batch: int) -> View:
        """What branches read: what was normed, or x where that is not."""
        return self.memory(batch)["normed" if self.config.pre_norms else "x"]

    def norm_after_attention(self, index: int) -> str | None:
        """The norm that comes next: the FFN's, or the router's where that has one of its own."""
        if not self.config.pre_norms:
            return None
        experts = self.config.experts
        own = experts is not None and experts.own_norms
        return f"blk.{index}.{'ffn_gate_inp_norm' if own else 'ffn_norm'}"

    def following(self, index: int) -> str | None:
        """The norm that comes after layer `index`."""
        last = index == len(self.config.layers) - 1
        return "output_norm" if last else self.attention_norm(index + 1)

    def is_apart(self, name: str) -> bool:
        """Whether a stack is several matrices, or one that is cut by slices."""
        stack = self.weights.stacks[name]
        return len(stack) > 1 or (len(stack[0].slices) > 1 and not stack[0].experts)

    def dense(self, index: int) -> Ffn:
        """The FFN of a layer that every token passes."""
        width = self.config.shape(index).dense
        return Ffn(f"blk.{index}.ffn_gate_up", width, Rows.OF_TOKENS)

    def mixture(self, index: int) -> Ffn:
        """A layer's experts."""
        width = self.config.shape(index).ffn
        return Ffn(f"blk.{index}.ffn_gate_up_exps", width, Rows.OF_TOKENS_FOR_EXPERTS)

    def gate(self, batch: int, ffn: Ffn) -> Step:
        """gate and up, computed apart -> gated; with experts, of each slot."""
        m, each = self.memory(batch), self.widths.used if ffn.rows else 1
        stride = ffn.stride
        params = {"ffn": ffn.width, "in_stride": 2 * stride, "up0": stride, "out_stride": stride}
        params["each"] = each
        constants = {"ACTIVATION": ACTIVATIONS[self.config.activation]}
        bindings = {"gate_up": m["gate_up"], "out": m["gated"], "state": m["state"]}
        label = ffn.gate_up.replace("gate_up", "gate")
        return Step("gate", constants, bindings, params, each * batch, label)

    def xielu(self, batch: int, index: int) -> Step:
        """gate_up, which has the ups alone -> gated, where the FFN has no gates."""
        m, ffn = self.memory(batch), self.dense(index)
        numbers = self.weights.vectors[f"blk.{index}.xielu.weight"]
        bindings = {"x": m["gate_up"], "out": m["gated"], "state": m["state"], "numbers": numbers}
        params = {"ffn": ffn.width, "stride": ffn.stride}
        return Step("xielu", {}, bindings, params, batch, f"blk.{index}.xielu")

    def capped(self, logits: View) -> list[Step]:
        """Logits that were computed -> within the cap, where the model has one."""
        if not self.config.logit_cap:
            return []
        params = {"size": logits.size // 4, "most": self.config.logit_cap}
        bindings = {"logits": logits, "state": self.layout.of_token["state"]}
        return [Step("cap", {}, bindings, params, 1, "logit cap")]

    def sample(self) -> Segment:
        """Logits -> the next token, into tokens[0], the ring, history and the state."""
        return Segment(Place(Part.SAMPLE), self._sample(self.layout.of_token["logits"], {}))

    def masked_sample(self) -> Segment:
        """The same of those tokens that the mask allows."""
        m = self.layout.of_token
        return Segment(Place(Part.SAMPLE), self._sample(m["logits"], {"mask": m["mask"]}))

    def sample_row(self, logits: View) -> tuple[Step, ...]:
        """The same for the row of a batch with drafts whose turn it is; nothing after the last."""
        return self._sample(logits, {"verify_row": self.layout.of_token["verify_row"]})

    def _sample(self, logits: View, optional: dict[str, View]) -> tuple[Step, ...]:
        m, vocab = self.layout.of_token, self.config.vocab
        constants = {
            "BLOCK": block_of(vocab),
            "VERIFIES": int("verify_row" in optional),
            "MASKED": int("mask" in optional),
        }
        shared = {"logits": logits, "seen": m["seen"], "tops": m["tops"], "ids": m["top ids"]}
        shared |= {"params": m["sampling"], **optional}
        chosen = {**shared, **{name: m[name] for name in ("tokens", "control", "history")}}
        size, lanes = {"vocab": vocab}, 1 if self.adapter.is_cpu else 32
        blocks = {**shared, "state": m["state"]}
        return (
            Step("sample_blocks", {**constants, "LANES": lanes}, blocks, size, 1, "sample blocks"),
            Step("sample", constants, chosen, size, 1, "sample"),
        )

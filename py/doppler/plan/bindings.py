"""What steps bind besides weights: activations, and how wide their rows are."""

from __future__ import annotations

from dataclasses import dataclass

from doppler.config import ModelConfig
from doppler.gpu.device import GpuBuffer, Slice
from doppler.weights.placement import aligned

NOTHING = Slice(GpuBuffer(None, 0, "activations", None), 0, 0)  # that a plan does not bind


@dataclass(frozen=True)
class Widths:
    """Row strides of the activations, in elements: widths rounded up to vec4s."""

    hidden: int
    qkv: int
    attended: int
    gate_up: int
    up0: int
    ffn: int
    routes: int  # router's logits
    used: int  # experts, each with rows of its own in gate_up, gated and downs
    are_whole: bool  # no row ends within a vec4

    @classmethod
    def of(cls, config: ModelConfig) -> Widths:
        ffn, experts = aligned(config.ffn, 4), config.experts
        return cls(
            hidden=aligned(config.hidden, 4),
            qkv=aligned(config.q_width + 2 * config.kv_width, 4),
            attended=aligned(config.q_width, 4),
            gate_up=2 * ffn,
            up0=ffn,
            ffn=ffn,
            routes=aligned(experts.count, 4) if experts else 0,
            used=experts.used if experts else 0,
            are_whole=not any(n % 4 for n in (config.hidden, config.q_width, config.ffn)),
        )

    def by_buffer(self) -> dict[str, int]:
        """Elements a token needs in each activation buffer, by the names of `Memory`."""
        each = max(self.used, 1)
        sizes = {
            "x": self.hidden,
            "x_next": self.hidden,
            "normed": self.hidden,
            "branch": self.hidden,
            "qkv": self.qkv,
            "attended": self.attended,
            "gate_up": each * self.gate_up,
            "gated": each * self.ffn,
            "routes": self.routes,
            "downs": self.used * self.hidden,
        }
        return {name: size for name, size in sizes.items() if size}


@dataclass(frozen=True)
class Memory:
    """Everything that steps bind besides weights. Activations hold a batch, or one token."""

    x: Slice  # residual stream
    x_next: Slice  # where decoding leaves x for the next layer to read
    normed: Slice
    branch: Slice  # what attention or the FFN adds to x
    qkv: Slice
    attended: Slice
    gate_up: Slice
    gated: Slice
    logits: Slice  # [vocab] of the last token
    angles: tuple[Slice, ...]  # rope tables, one for each of config.ropes
    keys: tuple[Slice, ...]  # a layer each: [kv_heads, its capacity, head_dim], f16 or f32
    values: tuple[Slice, ...]
    parts: Slice  # of attended, a run of keys each
    marks: Slice
    tokens: Slice
    state: Slice
    control: Slice  # the state, and the ring of sampled ids
    seen: Slice  # a bit a token of the vocabulary
    sampling: Slice
    tops: Slice  # largest logit of each block of the vocabulary
    top_ids: Slice
    history: Slice  # [context] ids so far
    walk: Slice  # the row of a batch with drafts that is sampled next
    # Of a mixture of experts only:
    routes: Slice = NOTHING  # the router's logits
    chosen: Slice = NOTHING  # experts, by slot: those that the first token uses, then the second's
    shares: Slice = NOTHING  # of a slot in its token's output
    order: Slice = NOTHING  # slots by expert
    tiles: Slice = NOTHING  # of `order`, none with slots of two experts
    downs: Slice = NOTHING  # a slot each: outputs of the experts

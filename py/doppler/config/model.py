"""One frozen dataclass for every architecture: differences between them are data.

Nothing outside `formats/architectures.py` may ask which architecture a model has.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, get_args

from doppler.config.layer import EXPERT_PARTS, Experts, Layer, LayerShape, need_head_dim
from doppler.config.mixers import DeltaNet, Mixer, Shapes, ShortConv
from doppler.config.rope import Rope, need_positive
from doppler.errors import FormatError, UnsupportedError
from doppler.inputs.fields import LARGEST_FLOAT, shown

Activation = Literal["silu", "gelu_tanh", "swiglu_clamped", "xielu"]  # the last is of no gates
RopePairs = Literal["half", "interleaved"]


@dataclass(frozen=True)
class ModelConfig:
    """Shapes and switches of a decoder. Widths are in elements, `context` in tokens.

    `ffn` is the width of each expert where there are `experts`; a dense FFN beside them is theirs,
    and that of a layer without them the layer's.
    """

    architecture: str  # for people to read; no code may branch on it
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    context: int
    norm_eps: float
    query_scale: float  # scores are multiplied by it
    activation: Activation
    ropes: tuple[Rope, ...]
    layers: tuple[Layer, ...]
    norm_offset: float = 0.0  # added to every RMSNorm weight: Gemma stores w and means 1 + w
    embedding_scale: float = 1.0
    logit_scale: float = 1.0  # logits are multiplied by it
    biases: tuple[str, ...] = ()  # matrices of a layer that have one, by their GGUF names
    qk_norm: bool = False  # RMSNorm over each head of q and k, before rope
    norm_after_rope: bool = False  # that norm comes after it
    norm_over_heads: bool = False  # that norm is over all heads of q at once, and over all of k
    sinks: bool = False  # a logit a query head joins the softmax, unscaled, and is dropped
    pre_norms: bool = True  # RMSNorm of what each branch reads
    post_norms: bool = False  # RMSNorm on each branch before it joins the residual stream
    tied: bool = True  # the output head is the embedding
    rope_pairs: RopePairs = "half"  # GGUF of arch llama is permuted for interleaved pairs
    experts: Experts | None = None
    value_norm: bool = False  # RMSNorm without weights over each head of v
    per_layer: int = 0  # width of the embeddings that each layer has of its own; 0: there are none
    layer_scales: bool = False  # a number a layer, by which its output is multiplied
    logit_cap: float = 0.0  # c of logits c · tanh(z / c); 0: they are z
    score_cap: float = 0.0  # the same of attention's scores, before any is masked
    output_gate: bool = False  # attended values are multiplied by σ of a gate each
    short_conv: ShortConv | None = None  # of the layers whose mixer is "conv"
    delta_net: DeltaNet | None = None  # of those whose mixer is "delta"

    def __post_init__(self) -> None:
        for name in ("hidden", "heads", "kv_heads", "head_dim", "ffn", "vocab", "context"):
            if type(getattr(self, name)) is not int:
                raise FormatError(
                    f"config: {name} is {shown(getattr(self, name))}, no whole number"
                )
            need_positive(name, getattr(self, name))
        need_head_dim("config", self.head_dim)
        for name in ("norm_eps", "query_scale", "embedding_scale", "logit_scale"):
            need_positive(name, getattr(self, name))
        for name in ("logit_cap", "score_cap"):
            if getattr(self, name):
                need_positive(name, getattr(self, name))
        if type(self.per_layer) is not int or self.per_layer < 0 or self.per_layer % 4:
            raise FormatError(
                f"config: per_layer is {shown(self.per_layer)}; it must be a multiple of 4"
            )
        if (self.layer_scales or self.per_layer) and not self.post_norms:
            raise UnsupportedError("config: layers end with a branch that is not normed")
        if not self.pre_norms and not (self.post_norms and self.experts is None):
            raise UnsupportedError(
                "config: branches of a mixture, or that are not normed, must read what is normed"
            )
        if not self.has_gates and (self.experts is not None or self.per_layer):
            raise UnsupportedError("config: experts, and embeddings of layers, have gates")
        if not self.layers:
            raise FormatError("config: the model has no layers")
        if self.experts is not None:
            self._check_experts(self.experts)
        if self.activation not in get_args(Activation):
            known = ", ".join(get_args(Activation))
            raise FormatError(f"config: activation {shown(self.activation)} is not one of {known}")
        self._check_mixers()
        for index, layer in enumerate(self.layers):
            self._check_layer(index, layer)
        kinds = {layer.mixer: index for index, layer in enumerate(self.layers)}
        have = {name for index in kinds.values() for name in self._layer_shapes(index)}
        if not {*self.biases} <= have | {*self._expert_shapes()}:
            raise FormatError(f"config: biases are of {shown(self.biases)}")
        if self.norm_after_rope and (not self.qk_norm or any(r.magnitude != 1 for r in self.ropes)):
            raise UnsupportedError(
                "config: heads that are normed after rope cannot be made larger by it"
            )
        if self.norm_over_heads and (not self.qk_norm or self.norm_after_rope):
            raise UnsupportedError("config: norms over all heads at once come before rope")
        for number, rope in enumerate(self.ropes):
            self._check_rope(rope, self.rope_dim(number))

    def _check_experts(self, experts: Experts) -> None:
        if any(layer.ffn and not layer.dense for layer in self.layers):
            raise UnsupportedError("config: layers have experts of different widths")
        if all(layer.dense for layer in self.layers):
            raise FormatError("config: the model has experts and no layer that has them")
        if experts.own_norms and any(layer.dense for layer in self.layers):
            raise UnsupportedError("config: experts have norms of their own, and layers no experts")
        if experts.beside and self.ffn % 4:
            raise UnsupportedError(
                f"config: experts are {self.ffn} wide, with an FFN beside them; the kernels take "
                "multiples of 4"
            )
        if experts.own_norms and not self.post_norms:
            raise UnsupportedError("config: experts have norms of their own, and branches none")

    def _check_mixers(self) -> None:
        """What layers are said to be is described, and nothing else is."""
        used = {layer.mixer for layer in self.layers}
        for mixer in used - {*get_args(Mixer)}:
            raise FormatError(
                f"config: mixer {shown(mixer)} is none of {', '.join(get_args(Mixer))}"
            )
        for mixer, kind in (("conv", self.short_conv), ("delta", self.delta_net)):
            if (kind is not None) != (mixer in used):
                told = "described, and no layer has it" if kind else "of layers, and not described"
                raise FormatError(f"config: the mixer {mixer} is {told}")
        if self.short_conv is not None and self.hidden % 4:
            raise UnsupportedError(
                f"config: hidden is {self.hidden}; the kernel of convolutions takes multiples of 4"
            )

    def _check_layer(self, index: int, layer: Layer) -> None:
        where = f"config: layer {index}"
        if layer.ffn < 0:
            raise FormatError(f"{where} has widths below 0")
        if layer.dense and self.experts is None:
            raise FormatError(f"{where} is without experts in a model that has none")
        ffn = self.shape(index).ffn
        if ffn != self.ffn and (ffn % 4 or self.ffn % 4):
            raise UnsupportedError(
                f"{where}: its FFN is {ffn} wide and others {self.ffn}; widths that differ "
                "must be multiples of 4"
            )
        if layer.attends:
            self._check_attention(where, index, layer)
        elif replace(layer, ffn=0, dense=False) != Layer(mixer=layer.mixer):
            raise FormatError(f"{where} attends to nothing, and has heads, a window or a rope")

    def _check_attention(self, where: str, index: int, layer: Layer) -> None:
        if not 0 <= layer.rope < len(self.ropes) or layer.window < 0:
            raise FormatError(f"{where} has window {layer.window}, rope {layer.rope}")
        if min(layer.head_dim, layer.kv_heads) < 0:
            raise FormatError(f"{where} has widths below 0")
        if self.norm_over_heads and (layer.shares >= 0 or layer.are_values):
            raise UnsupportedError(f"{where} has heads of q and v alone, or of q and k")
        if layer.shares >= 0:
            self._check_shared(where, index, layer)
        shape = self.shape(index)
        need_head_dim(where, shape.head_dim)
        if shape.heads % shape.kv_heads:
            raise FormatError(
                f"{where}: {shape.heads} heads cannot be shared by {shape.kv_heads} key-value "
                "heads; the first must be a multiple of the second"
            )
        if shape.head_dim != self.rope_dim(layer.rope):
            raise UnsupportedError(f"{where} shares its rope with heads of another width")

    def _check_shared(self, where: str, index: int, layer: Layer) -> None:
        source = self.layers[layer.shares] if layer.shares < index else layer
        if source.shares >= 0 or not source.attends:
            raise FormatError(f"{where} shares the keys of layer {layer.shares}, which has none")
        if (source.window, source.rope) != (layer.window, layer.rope):
            raise UnsupportedError(f"{where} sees other keys than layer {layer.shares} has")

    def _check_rope(self, rope: Rope, head_dim: int) -> None:
        if rope.width >= head_dim:
            raise FormatError(f"config: rope turns {rope.width} of {head_dim} dimensions")
        pairs = (rope.width or head_dim) // 2
        for factors in (rope.factors, rope.long_factors):
            if factors and len(factors) != pairs:
                raise FormatError(f"config: {len(factors)} rope factors for {pairs} pairs")
        try:
            frequencies = rope.inverse_frequencies(head_dim)
            frequencies += rope.inverse_frequencies(head_dim, rope.original_context + 1)
        except (ArithmeticError, ValueError):
            frequencies = [math.inf]
        if not all(0 <= frequency <= LARGEST_FLOAT for frequency in frequencies):
            raise FormatError(
                f"config: {rope.scaling} rope with base {shown(rope.base)} and factor "
                f"{shown(rope.factor)} has frequencies that are no numbers"
            )

    @property
    def has_gates(self) -> bool:
        """Whether FFNs multiply gates, activated, by ups; else they activate the ups."""
        return self.activation != "xielu"

    def mixture(self, index: int) -> Experts | None:
        """The experts of layer `index`, where it has some."""
        return None if self.layers[index].dense else self.experts

    def expert_numbers(self, index: int) -> range:
        """Those of layer `index`; none where its FFN is dense."""
        mixture = self.mixture(index)
        return range(mixture.count if mixture else 0)

    def shape(self, index: int) -> LayerShape:
        """Widths of layer `index`."""
        layer = self.layers[index]
        source = layer if layer.shares < 0 else self.layers[layer.shares]
        kv_heads = source.kv_heads or self.kv_heads
        keys = kv_heads if layer.shares < 0 else 0
        ffn, mixture = layer.ffn or self.ffn, self.mixture(index)
        head_dim, values = source.head_dim or self.head_dim, 0 if layer.are_values else keys
        shape = LayerShape(
            heads=self.heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            ffn=ffn,
            used=mixture.used if mixture else 0,
            dense=mixture.beside if mixture else ffn,
            key_heads=keys,
            value_heads=values,
            projected=(self.heads * (1 + self.output_gate) + keys + values) * head_dim,
            mixed=self.heads * head_dim,
        )
        return shape if layer.attends else self._without_heads(shape, layer.mixer)

    def _without_heads(self, shape: LayerShape, mixer: Mixer) -> LayerShape:
        none = replace(shape, heads=0, kv_heads=0, head_dim=0, key_heads=0, value_heads=0)
        if mixer == "conv":
            assert self.short_conv is not None
            h, taps = self.hidden, self.short_conv.taps
            return replace(none, projected=3 * h, mixed=h, recent=(taps - 1) * h)
        assert self.delta_net is not None
        it = self.delta_net
        recent = (it.taps - 1) * it.channels
        none = replace(none, projected=it.projected, mixed=it.value_width)
        return replace(none, recent=recent, matrices=it.matrices)

    @property
    def shapes(self) -> list[LayerShape]:
        """Widths of all layers."""
        return [self.shape(index) for index in range(len(self.layers))]

    @property
    def own_layers(self) -> int:
        """The first layers, up to the last that has keys or a state: the cache needs no others."""
        own = (i for i, layer in enumerate(self.layers, start=1) if layer.shares < 0)
        return max(own)

    @property
    def last_norm(self) -> str:
        """The norm of a layer's last branch, where branches are normed."""
        return "post_norm" if self.per_layer else "post_ffw_norm"

    @property
    def router_scale(self) -> float:
        """What a router with a norm of its own reads is multiplied by behind that."""
        return float(self.hidden**-0.5)

    def rope_dim(self, number: int) -> int:
        """Width of the heads that ropes[number] turns."""
        own = (layer.head_dim for layer in self.layers if layer.rope == number)
        return next(own, 0) or self.head_dim

    def tensor_shapes(self) -> Shapes:
        """Every tensor the model needs, by its GGUF name -> shape (rows, columns) or (width,).

        In the order of use; what belongs to an expert comes together.
        """
        return dict(self.each_shape())

    def each_shape(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Those names and shapes one by one: a file may claim to have millions of tensors."""
        yield "token_embd.weight", (self.vocab, self.hidden)
        if self.per_layer:
            width = len(self.layers) * self.per_layer
            yield "per_layer_token_embd.weight", (self.vocab, width)
            yield "per_layer_model_proj.weight", (width, self.hidden)
            yield "per_layer_proj_norm.weight", (self.per_layer,)
        for i in range(len(self.layers)):
            layer = self._layer_shapes(i)
            yield from ((f"blk.{i}.{name}.weight", shape) for name, shape in layer.items())
            biased = [name for name in self.biases if name in layer]
            yield from ((f"blk.{i}.{name}.bias", layer[name][:1]) for name in biased)
            for expert in self.expert_numbers(i):
                yield from self.expert_shapes(i, expert).items()
        yield "output_norm.weight", (self.hidden,)
        if not self.tied:
            yield "output.weight", (self.vocab, self.hidden)

    def expert_shapes(self, layer: int, expert: int) -> Shapes:
        """The tensors of one expert, as `tensor_shapes` has them."""
        parts = self._expert_shapes()
        shapes: Shapes = {
            f"blk.{layer}.{part}.{expert}.weight": shape for part, shape in parts.items()
        }
        biased = [part for part in parts if part in self.biases]
        shapes |= {f"blk.{layer}.{part}.{expert}.bias": parts[part][:1] for part in biased}
        return shapes

    def _expert_shapes(self) -> Shapes:
        if self.experts is None:
            return {}
        up, down = (self.ffn, self.hidden), (self.hidden, self.ffn)
        return dict(zip(EXPERT_PARTS, (up, up, down), strict=True))

    def _layer_shapes(self, index: int) -> Shapes:
        h, it = self.hidden, self.shape(index)
        mixer = self._mixer_shapes(self.layers[index].mixer, it)
        shapes: Shapes = {"attn_norm": (h,), **mixer, "ffn_norm": (h,)}
        if not self.pre_norms:
            del shapes["attn_norm"], shapes["ffn_norm"]
        if it.dense:
            up, down = (it.dense, h), (h, it.dense)
            shapes |= {"ffn_gate": up} if self.has_gates else {"xielu": (4,)}
            shapes |= {"ffn_up": up, "ffn_down": down}
        if (mixture := self.mixture(index)) is not None:
            shapes |= self._mixture_shapes(mixture)
        if self.qk_norm and it.heads:
            over = self.norm_over_heads
            shapes["attn_q_norm"] = (it.q_width if over else it.head_dim,)
            if it.key_heads:
                shapes["attn_k_norm"] = (it.kv_width if over else it.head_dim,)
        if self.sinks and it.heads:
            shapes["attn_sinks"] = (self.heads,)
        if self.post_norms:
            shapes |= {"post_attention_norm": (h,), "post_ffw_norm": (h,)}
        if self.per_layer:
            shapes |= {"inp_gate": (self.per_layer, h), "proj": (h, self.per_layer)}
            shapes["post_norm"] = (h,)
        if self.layer_scales:
            shapes["layer_output_scale"] = (1,)
        return shapes

    def _mixer_shapes(self, mixer: Mixer, it: LayerShape) -> Shapes:
        """Matrices of attention, or all that another mixer has."""
        h = self.hidden
        if mixer != "attention":
            other = self.short_conv if mixer == "conv" else self.delta_net
            assert other is not None
            return other.shapes(h)
        shapes: Shapes = {"attn_q": (it.q_width, h)}
        if it.key_heads:
            shapes["attn_k"] = (it.kv_width, h)
        if it.value_heads:
            shapes["attn_v"] = (it.kv_width, h)
        if self.output_gate:
            shapes["attn_gate"] = (it.q_width, h)
        return {**shapes, "attn_output": (h, it.q_width)}

    def _mixture_shapes(self, experts: Experts) -> Shapes:
        """What a layer has because of its experts, but for these."""
        h = self.hidden
        shapes: Shapes = {"ffn_gate_inp": (experts.count, h)}
        if experts.gated:
            shapes["ffn_gate_inp_shexp"] = (1, h)
        if experts.own_norms:
            names = ("ffn_gate_inp_norm", "pre_ffw_norm_2", "post_ffw_norm_1", "post_ffw_norm_2")
            shapes |= dict.fromkeys(names, (h,))
        if experts.scaled:
            shapes["ffn_exps_scale"] = (experts.count,)
        if experts.biased:
            shapes["exp_probs_b"] = (experts.count,)
        return shapes

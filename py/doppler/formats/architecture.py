"""What an architecture is: which norms, which scale, which layers slide, and how files say it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from doppler.config.layer import Experts, Layer
from doppler.config.mixers import Mixer
from doppler.config.model import Activation, RopePairs


@dataclass(frozen=True)
class ExpertKeys:
    """Where metadata says how many experts there are, how wide, and how they are added up.

    Keys are config.json's, but for those of `gguf`.
    """

    enabled: str | None = None  # a flag without which there are none; None: there always are
    # Whichever is there.
    count: tuple[str, ...] = (
        "num_local_experts",
        "num_experts",
        "n_routed_experts",
        "moe_num_experts",
    )
    used: str = "num_experts_per_tok"
    ffn: str = "intermediate_size"
    normed: str | None = None  # None: shares of those used always add up to one
    gguf_normed: bool = True  # where GGUF says nothing
    # Width of a dense FFN beside them; None: there is none, or it is as wide as so many `shared`.
    beside: str | None = None
    gguf_beside: str = "feed_forward_length"
    shared: str | None = None
    first_dense: str | None = None  # how many layers have a dense FFN instead, by `hf_ffn`
    last: str | None = None  # number of the last layer that has some; -1 or none: of the last
    factor: str | None = None
    gated: bool = False  # as config.Experts has it, like the next
    own_norms: bool = False
    scaled: bool = False
    sigmoid: bool = False
    biased: bool = False

    def experts(
        self, count: int, used: int, normed: bool, beside: int, factor: float = 1.0
    ) -> Experts:
        """Those of a model with such numbers."""
        return Experts(
            count,
            used,
            normed,
            beside,
            gated=self.gated,
            own_norms=self.own_norms,
            scaled=self.scaled,
            sigmoid=self.sigmoid,
            biased=self.biased,
            factor=factor,
        )


@dataclass(frozen=True)
class Architecture:
    """What a checkpoint's metadata leaves to be known. Bases are of rope, windows in tokens."""

    name: str
    hf_types: tuple[str, ...]  # model_type in config.json
    hf_layer: Mapping[str, str]  # module of a layer -> its GGUF name
    hf_defaults: Mapping[str, Any]  # what config.json may omit
    gguf_pairs: RopePairs
    activation: Activation
    hf_pairs: RopePairs = "half"
    gguf_defaults: Mapping[str, Any] = field(default_factory=dict)  # what GGUF's keys may omit
    gguf: str = ""  # general.architecture, and the prefix of its keys; empty: the name
    # Tensors of a layer, by name or by name and kind ("ffn_gate_inp.scale" -> "NAME.weight"), and
    # others by name.
    gguf_renamed: Mapping[str, str] = field(default_factory=dict)
    hf_renamed: Mapping[str, str] = field(default_factory=dict)  # keys, whose others they overrule
    hf_ffn: str = "intermediate_size"  # where there are no experts
    hf_ffn_adjusted: bool = False  # that is no gated FFN's: formats/hf_lfm2.py makes one of it
    hf_needs: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)  # settings it must have
    hf_norm_offset: float = 0.0  # GGUF has the offset added already
    hf_activation: str = ""  # what config.json calls the activation; empty: as all do
    biases: tuple[str, ...] = ()  # matrices of a layer that have one
    # A setting of config.json without which there are none; empty: there always are. In GGUF there
    # are those whose tensors are there.
    biases_if: str = ""
    embedding_scaled: bool = False  # embeddings × √hidden
    scaled: bool = False  # the metadata has four numbers of formats/scales.py
    qk_norm: bool = False
    qk_norm_if: str = ""  # a setting without which there is none, as `biases_if` is one
    norm_after_rope: bool = False
    norm_over_heads: bool = False
    pre_norms: bool = True
    post_norms: bool = False
    sinks: bool = False
    experts: ExpertKeys | None = None
    # Which layers see a window only, where there is one: all but every n-th, all, those from
    # config.json's max_window_layers on, or every other one before that (of which two GGUF knows
    # nothing).
    sliding: Literal["none", "pattern", "all", "later", "alternate"] = "none"
    global_every: int = 0  # the n of the pattern
    local_base: float = 0.0  # of the layers with a window; 0: there is one rope for all
    full_scaled: bool = False  # rope's scaling is of layers that see all keys; others have its base
    yarn_whole_pairs: bool = True  # where GGUF says nothing
    yarn_magnitude_given: bool = False  # GGUF's factor of the magnitude of YaRN is all of it
    query_scalars: Mapping[int, float] = field(default_factory=dict)  # by layers; else head_dim
    scores_scaled: bool = True  # by that; else not at all
    rope_factors: bool = False  # its GGUF files always have divisors of the frequencies
    value_norm: bool = False
    layer_scales: bool = False
    layers_differ: bool = False  # in widths, where metadata says so, and in whose keys they read
    still_every: int = 0  # n of every n-th layer that is without rope, where nothing says which
    output_gate: bool = False
    # Types of layers in config.json that attend to nothing -> what they are. Every n-th attends, of
    # some architectures, where nothing says which.
    mixers: Mapping[str, Mixer] = field(default_factory=dict)
    attends_every: int = 0
    gguf_tiled: bool = False  # value heads of Gated DeltaNet
    reads: tuple[str, ...] = ()  # keys of metadata that must be neutral of other architectures

    def allows(self, has_experts: bool) -> bool:
        """Whether there are such models with experts, or without."""
        if self.experts is None:
            return not has_experts
        return has_experts or self.experts.enabled is not None

    def may_have(self, key: str, scales: Collection[str]) -> bool:
        """Whether a key that is neutral of others may not be; `scales` are those of scales.py."""
        return key in self.reads or (self.scaled and key in scales)

    @property
    def gguf_name(self) -> str:
        """general.architecture."""
        return self.gguf or self.name

    def layers(self, count: int, window: int, every: int | None = None) -> tuple[Layer, ...]:
        """Those of a pattern, where layer i (from 0) is global if (i + 1) % every == 0."""
        every = every or self.global_every
        return tuple(self.layer(0 if (i + 1) % every == 0 else window) for i in range(count))

    def turned(self, count: int, every: int | None = None) -> list[int]:
        """Of each layer: 1 where it has rope, 0 where not, as layer i has if (i + 1) % every == 0.

        For architectures that have such layers.
        """
        every = every or self.still_every
        return [int((i + 1) % every != 0) for i in range(count)]

    def mixed(self, attends: Iterable[bool]) -> tuple[Layer, ...]:
        """Layers that attend to all keys, or are what this one has besides."""
        (other,) = self.mixers.values()
        return tuple(self.layer(0) if it else Layer(mixer=other) for it in attends)

    def layer(self, window: int) -> Layer:
        """One that sees a window, or all keys (0); of two ropes, the first is for windows.

        Where one of them is scaled alone, that is the first.
        """
        is_second = window > 0 if self.full_scaled else self.local_base > 0 and window == 0
        return Layer(window, int(is_second))

"""What may differ between layers, and the mixture that their FFNs may be."""

from __future__ import annotations

from dataclasses import dataclass

from doppler.config.mixers import Mixer
from doppler.config.rope import need_positive
from doppler.errors import FormatError, UnsupportedError
from doppler.inputs.fields import shown

MOST_LAYERS = 4096  # no model has as many; a damaged count must not fill the memory
MOST_EXPERTS = 1024  # route.wgsl
MOST_HEAD_DIM = 512  # of the kernels of attention
EXPERT_PARTS = ("ffn_gate", "ffn_up", "ffn_down")  # matrices of an expert, by GGUF's names


def need_head_dim(where: str, head_dim: int) -> None:
    """UnsupportedError for heads of a width that no kernel takes."""
    if head_dim % 4 or head_dim > MOST_HEAD_DIM:
        raise UnsupportedError(
            f"{where}: head_dim is {shown(head_dim)}; the kernels take multiples of 4 up to "
            f"{MOST_HEAD_DIM}"
        )


@dataclass(frozen=True)
class Layer:
    """What may differ between layers: `window` keys seen (0: all) and the index into `ropes`.

    head_dim, kv_heads and ffn are the config's where they are 0. A layer that `shares` the keys and
    values of one below (-1: of none) has none of its own. Where keys `are_values`, they are so
    before they are normed and rotated. Only layers whose mixer is attention have any of that. The
    FFN of a layer that is `dense` has no experts, where those of others have.
    """

    window: int = 0
    rope: int = 0
    head_dim: int = 0
    kv_heads: int = 0
    ffn: int = 0
    shares: int = -1
    are_values: bool = False
    dense: bool = False
    mixer: Mixer = "attention"

    @property
    def attends(self) -> bool:
        """Whether it keeps, or reads, keys and values."""
        return self.mixer == "attention"


@dataclass(frozen=True)
class LayerShape:
    """Widths of one layer, in elements; `key_heads` and `value_heads` are those that it projects.

    Its query heads read `kv_heads` of them, its own or another layer's. A layer that does not
    attend has no heads at all, and a state: float32s that every token changes.
    """

    heads: int
    kv_heads: int
    head_dim: int
    ffn: int  # of each expert, where there are some
    used: int  # experts that a token uses; 0 where there are none
    dense: int  # of the FFN that every token passes; 0 where there is none
    key_heads: int
    value_heads: int
    projected: int  # what its mixer reads of a token: of attention, all heads, and their gates
    mixed: int  # what it gives, which is projected back: of attention, all query heads
    recent: int = 0  # of the state: inputs of its convolution, [taps - 1, channels]
    matrices: int = 0  # of the state: [heads, value_dim, key_dim]

    @property
    def q_width(self) -> int:
        """Elements of all query heads of one token."""
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Elements of all key (or value) heads of one token."""
        return self.kv_heads * self.head_dim


@dataclass(frozen=True)
class Experts:
    """The FFN of a layer as a mixture: `count` of them, of which a token uses `used`.

    Their outputs are added up in shares: the softmax of the router's logits over those used
    (`normed`), or over all. Where the router is `sigmoid`, they are its logits' logistic functions,
    or these divided by the sum of those used (`normed`). Used are the experts with the largest
    shares, to which a number of each is added for that alone (`biased`).

    There may be a dense FFN `beside` them, whose output is added to theirs. It may be multiplied by
    a number first: the logistic function of one more logit (`gated`). Or both outputs are normed
    first, and router, dense FFN and experts each norm what they read (`own_norms`).
    """

    count: int
    used: int
    normed: bool = True
    beside: int = 0  # width of the dense FFN; 0: there is none
    gated: bool = False
    own_norms: bool = False
    scaled: bool = False  # the share of each expert is multiplied by a number of its own
    sigmoid: bool = False
    biased: bool = False
    factor: float = 1.0  # by which all shares are multiplied

    def __post_init__(self) -> None:
        if not 1 <= self.used <= self.count:
            raise FormatError(
                f"config: a token uses {self.used} of {self.count} experts; it must be at least "
                "one and at most all"
            )
        if self.count > MOST_EXPERTS:
            raise UnsupportedError(
                f"config: {self.count} experts are more than the {MOST_EXPERTS} that kernels take"
            )
        if self.beside < 0 or self.beside % 4:
            raise UnsupportedError(
                f"config: the FFN beside the experts is {self.beside} wide; the kernels take "
                "multiples of 4"
            )
        if self.gated + self.own_norms > (self.beside > 0):
            raise UnsupportedError(
                "config: an FFN beside experts has a gate, or norms, or none, and nothing else has"
            )
        need_positive("factor of experts", self.factor)

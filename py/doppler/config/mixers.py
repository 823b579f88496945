"""What a layer may have in place of attention: a mixer whose state is no keys.

A mixer reads the normed states of all tokens and gives each a branch. Attention keeps keys and
values of every position. Those here keep a state of fixed size, which every token changes: it can
be copied, and not be cut back to an earlier position.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from doppler.errors import FormatError, UnsupportedError
from doppler.inputs.fields import shown

Mixer = Literal["attention", "conv", "delta"]
MOST_TAPS = 8  # of conv.wgsl
MOST_HEADS = 1024
# Added to the squares of lengths by which DeltaNet's keys and queries are divided.
LENGTH_EPS = 1e-6
MOST_WIDTH = 256  # of a head's keys, and of its values
# The taps of each channel, [channels, taps]: too short to be blocks, they are kept as float32.
FILTERS = ("shortconv.conv", "ssm_conv1d")

Shapes = dict[str, tuple[int, ...]]  # of a layer's tensors, by their GGUF names in it


def is_filter(name: str) -> bool:
    """Whether a tensor has the taps of a layer's convolution."""
    return name.removesuffix(".weight").endswith(FILTERS)


@dataclass(frozen=True)
class ShortConv:
    """LFM2's: B, C, x = in_proj(h); out_proj(C ⊙ conv(B ⊙ x)), each of them hidden wide.

    The convolution is causal and each channel's own: a token's output is the sum of the last `taps`
    inputs, each times a weight, the latest last.
    """

    taps: int

    def __post_init__(self) -> None:
        _need_taps("short_conv", self.taps)

    def shapes(self, hidden: int) -> Shapes:
        """The tensors of a layer, but for its norms and FFN."""
        return {
            "shortconv.in_proj": (3 * hidden, hidden),
            "shortconv.conv": (hidden, self.taps),
            "shortconv.out_proj": (hidden, hidden),
        }


@dataclass(frozen=True)
class DeltaNet:
    """Gated DeltaNet: a matrix [value_dim, key_dim] for each of `value_heads`, changed by tokens.

    What is projected for queries, keys and values goes through a causal convolution of `taps`
    first. Each key head serves as many value heads: those that follow one another, or where they
    are `tiled`, every key_heads-th.
    """

    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    taps: int
    tiled: bool = False

    def __post_init__(self) -> None:
        for field in fields(self)[:-1]:
            value = getattr(self, field.name)
            if type(value) is not int or value < 1:
                raise FormatError(
                    f"config: delta_net has {field.name} {shown(value)}; it must be positive"
                )
        _need_taps("delta_net", self.taps)
        if self.value_heads % self.key_heads or self.value_heads > MOST_HEADS:
            raise FormatError(
                f"config: delta_net has {shown(self.value_heads)} value heads; they must be at "
                f"most {MOST_HEADS}, and a multiple of its {shown(self.key_heads)} key heads"
            )
        for name in ("key_dim", "value_dim"):
            if getattr(self, name) % 4 or getattr(self, name) > MOST_WIDTH:
                raise UnsupportedError(
                    f"config: delta_net has {name} {shown(getattr(self, name))}; the kernels take "
                    f"multiples of 4 up to {MOST_WIDTH}"
                )

    @property
    def key_width(self) -> int:
        """Elements of all key heads of a token; queries have as many."""
        return self.key_heads * self.key_dim

    @property
    def value_width(self) -> int:
        """Elements of all value heads of a token."""
        return self.value_heads * self.value_dim

    @property
    def channels(self) -> int:
        """That are convolved: queries, keys and values."""
        return 2 * self.key_width + self.value_width

    @property
    def rates(self) -> tuple[int, int]:
        """Where what is projected of a token has two numbers of each head, each from a multiple of
        4 on: behind the channels and a gate of each value.
        """
        beta = self.channels + self.value_width
        return beta, beta + -(-self.value_heads // 4) * 4

    @property
    def projected(self) -> int:
        """Elements of all that is projected of a token."""
        beta, alpha = self.rates
        return alpha + (alpha - beta)

    @property
    def matrices(self) -> int:
        """Elements of the matrices of all heads."""
        return self.value_heads * self.key_dim * self.value_dim

    def shapes(self, hidden: int) -> Shapes:
        """The tensors of a layer, but for its norms and FFN."""
        each = (self.value_heads,)
        return {
            "attn_qkv": (self.channels, hidden),
            "attn_gate": (self.value_width, hidden),
            "ssm_beta": (*each, hidden),
            "ssm_alpha": (*each, hidden),
            "ssm_conv1d": (self.channels, self.taps),
            "ssm_dt": each,
            "ssm_a": each,
            "ssm_norm": (self.value_dim,),
            "ssm_out": (hidden, self.value_width),
        }


def _need_taps(what: str, taps: int) -> None:
    if type(taps) is not int or not 2 <= taps <= MOST_TAPS:
        raise UnsupportedError(
            f"config: {what} has {shown(taps)} taps; the kernel takes 2 to {MOST_TAPS}"
        )

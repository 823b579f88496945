"""How the next token is chosen from the logits; sample.wgsl does it on the GPU."""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import inf
from typing import Any

from doppler.errors import RequestError

MOST_BLOCKS = 2048  # in which sample_blocks.wgsl cuts a vocabulary


def block_of(vocab: int) -> int:
    """BLOCK of the sampling kernels: vec4s of logits a block."""
    return 32 * -(-vocab // (4 * 32 * MOST_BLOCKS))


def blocks_of(vocab: int) -> int:
    """Blocks of a vocabulary."""
    return -(-vocab // (4 * block_of(vocab)))


def mask_bytes(vocab: int) -> int:
    """Bytes of a bit for each token of a vocabulary, in whole u32 words."""
    return 4 * -(-vocab // 32)


@dataclass(frozen=True)
class Sampling:
    """Settings of one generation, applied in the order in which they stand here.

    `repetition_penalty` divides positive (multiplies negative) logits of tokens already seen;
    `temperature` divides logits; `top_k` keeps the k best (0: all); `top_p` the fewest whose
    probabilities reach p; `min_p` those with at least that share of the best one's probability.
    `greedy` takes the best logit after the penalty and needs none of the rest.
    """

    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    greedy: bool = False

    def __post_init__(self) -> None:
        self._need(0 < self.repetition_penalty < inf, "repetition_penalty", "a number above 0")
        self._need(0 <= self.temperature < inf, "temperature", "a number of 0 or more")
        self._need(self.top_k >= 0, "top_k", "0 (off) or more")
        self._need(0 < self.top_p <= 1, "top_p", "above 0 and at most 1")
        self._need(0 <= self.min_p <= 1, "min_p", "between 0 and 1")
        self._need(0 <= self.seed < 2**32, "seed", "between 0 and 4294967295")

    def _need(self, holds: bool, name: str, bounds: str) -> None:
        if not holds:
            raise RequestError(f"sampling: {name} is {getattr(self, name)}; it must be {bounds}")

    @classmethod
    def from_json(cls, data: object) -> Sampling:
        """Raises RequestError for an unknown name or a value of the wrong kind."""
        if not isinstance(data, dict):
            raise RequestError("sampling must be an object of settings by name")
        values: dict[str, Any] = {}
        kinds: dict[str, type] = {field.name: type(field.default) for field in fields(cls)}
        for name, value in data.items():
            if name not in kinds:
                raise RequestError(f"sampling: {name!r} is not one of {', '.join(kinds)}")
            if isinstance(value, bool) != (kinds[name] is bool) or not isinstance(
                value, (int, float)
            ):
                raise RequestError(f"sampling: {name} is {value!r}; it must be a number")
            if kinds[name] is int and isinstance(value, float) and not value.is_integer():
                raise RequestError(f"sampling: {name} is {value!r}; it must be a whole number")
            try:
                values[name] = kinds[name](value)
            except OverflowError:
                raise RequestError(f"sampling: {name} is far too large a number") from None
        return cls(**values)

    @property
    def is_greedy(self) -> bool:
        """Whether the best logit is taken: a temperature of 0 means that, too."""
        return self.greedy or self.temperature == 0

    def params(self, vocab: int) -> dict[str, int | float]:
        """The kernel's parameters."""
        return {
            "vocab": vocab,
            "temperature": 1.0 if self.is_greedy else self.temperature,
            "top_k": min(self.top_k, vocab),
            "top_p": self.top_p,
            "min_p": self.min_p,
            "repetition_penalty": self.repetition_penalty,
            "greedy": int(self.is_greedy),
        }

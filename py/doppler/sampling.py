"""How the next token is chosen from the logits; sample.wgsl does it on the GPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from doppler.errors import FormatError, RequestError
from doppler.inputs.fields import LARGEST_FLOAT, SMALLEST_FLOAT, Fields

DRAWS = frozenset(("temperature", "top_k", "top_p", "min_p"))  # settings of a random choice
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


_BOUNDS = {
    "temperature": (0.0, LARGEST_FLOAT),
    "top_p": (SMALLEST_FLOAT, 1.0),
    "min_p": (0.0, 1.0),
    "repetition_penalty": (SMALLEST_FLOAT, LARGEST_FLOAT),
}
_PLAIN = "a number above 0 that f32 holds"


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
        least, most = _BOUNDS["repetition_penalty"]
        self._need(least <= self.repetition_penalty <= most, "repetition_penalty", _PLAIN)
        most = _BOUNDS["temperature"][1]
        self._need(0 <= self.temperature <= most, "temperature", "0, or a number that f32 holds")
        self._need(self.top_k >= 0, "top_k", "0 (off) or more")
        self._need(0 < self.top_p <= 1, "top_p", "above 0 and at most 1")
        self._need(0 <= self.min_p <= 1, "min_p", "between 0 and 1")
        self._need(0 <= self.seed < 2**32, "seed", "between 0 and 4294967295")

    def _need(self, holds: bool, name: str, bounds: str) -> None:
        if not holds:
            raise RequestError(f"sampling: {name} is {getattr(self, name)}; it must be {bounds}")

    @classmethod
    def from_json(cls, data: object, model: ModelSampling | None = None) -> Sampling:
        """What is asked for; where that says nothing, what the model's own files do.

        Raises RequestError for an unknown name or a value of the wrong kind.
        """
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
        return cls(**values) if model is None else model.under(values)

    @property
    def is_greedy(self) -> bool:
        """Whether the best logit is taken: a temperature of 0 means that, too, and one that a GPU
        would take for 0.
        """
        return self.greedy or self.temperature < SMALLEST_FLOAT

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


@dataclass(frozen=True)
class ModelSampling:
    """How a model's files say that it is sampled; None where they say nothing."""

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    greedy: bool | None = None

    @classmethod
    def read(cls, item: Fields) -> Self:
        """As `to_json` wrote it. Raises FormatError for a value that Sampling would refuse."""
        names = [field.name for field in fields(cls) if item.has(field.name)]
        given: dict[str, Any] = {name: _setting(name, item, name) for name in names}
        return cls(**given)

    @classmethod
    def of_files(cls, files: Fields, names: Mapping[str, str]) -> tuple[Self, tuple[str, ...]]:
        """What a model's files say, by the names that they have for `names`; and what is wrong.

        A model can be used without these: one that makes no sense is left out, and that is told in
        a sentence.
        """
        found: dict[str, Any] = {}
        wrong = []
        for name, theirs in names.items():
            if not files.has(theirs):
                continue
            try:
                found[name] = _setting(name, files, theirs)
            except FormatError as error:
                wrong.append(f"{error}: it is left out, and answers are sampled without it")
        return cls(**found), tuple(wrong)

    def to_json(self) -> dict[str, float | int | bool]:
        """What they say, by name; `read` is its inverse."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def under(self, asked: Mapping[str, Any]) -> Sampling:
        """These settings where nothing else is asked for.

        Who asks for a draw of a certain kind has one, also of a model that says greedy.
        """
        own = self.to_json()
        if asked.keys() & DRAWS:
            own.pop("greedy", None)
        return Sampling(**{**own, **asked})


def _setting(name: str, item: Fields, key: str) -> float | int | bool:
    """The value at `key`, which is what `name` can be."""
    if name == "greedy":
        return item.flag(key)
    if name == "top_k":
        return item.integer(key)
    least, most = _BOUNDS[name]
    return item.number(key, least=least, most=most)

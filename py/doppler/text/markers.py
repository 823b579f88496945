"""What tells the parts of an answer apart: the structure tokens that one vocabulary has."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from doppler.text.textstream import Decoder

HARMONY = ("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>", "<|call|>")


@dataclass(frozen=True)
class Pair:
    """What stands before and after reasoning.

    named: the first line after `opens` names a channel, and which are reasoning. spelled: models
    without the tokens may write them as text.
    """

    opens: str
    closes: str
    named: frozenset[str] = frozenset()
    spelled: bool = False


PAIRS = (
    Pair("<think>", "</think>", spelled=True),  # Qwen3, DeepSeek-R1, SmolLM3 and many others
    Pair("[THINK]", "[/THINK]"),  # Mistral
    Pair("<|channel>", "<channel|>", named=frozenset({"thought"})),  # Gemma 4
    Pair("<seed:think>", "</seed:think>"),
    Pair("<|START_THINKING|>", "<|END_THINKING|>"),  # Command A
    Pair("<|inner_prefix|>", "<|inner_suffix|>"),  # Apertus
    Pair("<thought>", "</thought>", spelled=True),  # EXAONE Deep
    Pair("<|begin_of_thought|>", "<|end_of_thought|>", spelled=True),
    Pair("◁think▷", "◁/think▷", spelled=True),  # Kimi
)


@dataclass(frozen=True)
class Markers:
    """The markers that one vocabulary has. `text` decodes ids with their control tokens."""

    decoder: Decoder
    text: Callable[[Sequence[int]], str]
    opens: Mapping[int, Pair] = field(default_factory=dict)
    closes: frozenset[int] = frozenset()
    spelled: tuple[Pair, ...] = ()
    harmony: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        ids: Callable[[Sequence[str]], list[int | None]],
        decoder: Decoder,
        text: Callable[[Sequence[int]], str],
    ) -> Self:
        """ids: of pieces of the vocabulary, None for each that it lacks."""
        harmony = dict(zip(HARMONY, ids(HARMONY), strict=True))
        known = {name: token for name, token in harmony.items() if token is not None}
        if known.keys() >= set(HARMONY[:4]):
            return cls(decoder, text, harmony=known)
        opens = ids([pair.opens for pair in PAIRS])
        closes = ids([pair.closes for pair in PAIRS])
        found = [
            (start, end, pair)
            for start, end, pair in zip(opens, closes, PAIRS, strict=True)
            if start is not None and end is not None
        ]
        tokens = [pair for _, _, pair in found]
        return cls(
            decoder,
            text,
            opens={start: pair for start, _, pair in found},
            closes=frozenset(end for _, end, _ in found),
            spelled=tuple(pair for pair in PAIRS if pair.spelled and pair not in tokens),
        )

    @property
    def tokens(self) -> frozenset[int]:
        """Ids of all structure tokens."""
        return frozenset(self.opens) | self.closes | frozenset(self.harmony.values())

"""The parts of an answer: what a model thought, and what it says, told apart as tokens come.

A model marks them with structure tokens of its vocabulary, which are read as ids: text that looks
like one stays text. Where the vocabulary lacks them, a model may spell them out; that is read from
the text, at the beginning of an answer only. Which markers there are is data: PAIRS, and the
messages of harmony, GPT-OSS's format.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from doppler.text.harmony import HARMONY, Harmony
from doppler.text.pairs import PAIRS, Pair, Pairs
from doppler.text.parts import Reader
from doppler.text.textstream import Decoder


@dataclass(frozen=True)
class Channels:
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
    ) -> Channels:
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

    def reader(self, prompt: Sequence[int]) -> Reader:
        """A reader of the answer to a chat's prompt, in whose end it may have begun already."""
        return Harmony(self, prompt) if self.harmony else Pairs(self, prompt)

"""What tells the parts of an answer apart: the structure tokens that one vocabulary has."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
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
class CallMark:
    """What stands before and after a call of a tool; nothing after it where `closes` is empty.

    quote: a token around strings. spelled: models without the tokens write them as text.
    """

    opens: str
    closes: str
    quote: str = ""
    spelled: bool = False


CALLS = (
    CallMark("<|tool_call>", "<tool_call|>", quote='<|"|>'),  # Gemma 4
    CallMark("<tool_call>", "</tool_call>", spelled=True),  # Hermes, Qwen, SmolLM3, Granite 4
    CallMark("[TOOL_CALLS]", ""),  # Mistral
    CallMark("<|tool_call_start|>", "<|tool_call_end|>"),  # LFM2
    CallMark("<|tool_call|>", "<|/tool_call|>"),  # Phi-4-mini; Granite 3 lacks the second
)
INSIDE = ("[ARGS]", "[CALL_ID]")  # Mistral's tokens in a call
# How templates show a call that has no markers: Llama 3's.
_BARE = ('{"name": ', '"parameters": ')


@dataclass(frozen=True)
class Called:
    """How one vocabulary and template mark calls of tools.

    opens, closes, quotes: by the id of the token before a call. inside: texts of other tokens that
    stand in one.
    spelled: marks that are written as text, if any; bare: whether a call may be an answer without
    marks.
    """

    opens: Mapping[int, CallMark] = field(default_factory=dict)
    closes: Mapping[int, int | None] = field(default_factory=dict)
    quotes: Mapping[int, int | None] = field(default_factory=dict)
    inside: Mapping[int, str] = field(default_factory=dict)
    spelled: tuple[CallMark, ...] = ()
    bare: bool = False

    @classmethod
    def of(cls, ids: Callable[[Sequence[str]], list[int | None]], template: str) -> Self:
        """ids: as of Markers."""
        marks = [text for mark in CALLS for text in (mark.opens, mark.closes, mark.quote) if text]
        texts = [*marks, *INSIDE]
        known = {text: i for text, i in zip(texts, ids(texts), strict=True) if i is not None}
        found = [
            mark
            for mark in CALLS
            if mark.opens in known and (mark.closes in known or not mark.spelled)
        ]
        shown = [mark for mark in CALLS if mark.opens in template]
        return cls(
            opens={known[mark.opens]: mark for mark in found},
            closes={known[mark.opens]: known.get(mark.closes) for mark in found},
            quotes={known[mark.opens]: known.get(mark.quote) for mark in found},
            inside={known[text]: text for text in INSIDE if text in known},
            spelled=tuple(mark for mark in shown if mark.spelled and mark not in found),
            bare=not shown and all(text in template for text in _BARE),
        )

    @property
    def tokens(self) -> frozenset[int]:
        """Ids of all structure tokens."""
        others = (*self.closes.values(), *self.quotes.values())
        return frozenset((*self.opens, *self.inside, *(i for i in others if i is not None)))


@dataclass(frozen=True)
class Markers:
    """The markers that one vocabulary has. `text` decodes ids with their control tokens.

    ends: tokens that end an answer.
    """

    decoder: Decoder
    text: Callable[[Sequence[int]], str]
    opens: Mapping[int, Pair] = field(default_factory=dict)
    closes: frozenset[int] = frozenset()
    spelled: tuple[Pair, ...] = ()
    harmony: Mapping[str, int] = field(default_factory=dict)
    called: Called = field(default_factory=Called)
    ends: Collection[int] = ()

    @classmethod
    def of(
        cls,
        ids: Callable[[Sequence[str]], list[int | None]],
        decoder: Decoder,
        text: Callable[[Sequence[int]], str],
        template: str = "",
        ends: Collection[int] = (),
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
            called=Called.of(ids, template),
            ends=ends,
        )

    @property
    def tokens(self) -> frozenset[int]:
        """Ids of all structure tokens."""
        pairs = frozenset(self.opens) | self.closes
        return pairs | frozenset(self.harmony.values()) | self.called.tokens

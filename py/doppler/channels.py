"""The parts of an answer: what a model thought, and what it says, told apart as tokens come.

A model marks them with structure tokens of its vocabulary, which are read as ids: text that looks
like one stays text. Where the vocabulary lacks them, a model may spell them out; that is read from
the text, at the beginning of an answer only. Which markers there are is data: PAIRS, and the
messages of harmony, GPT-OSS's format.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from doppler.textstream import REPLACEMENT, Decoder, StopText, TextStream

Part = Literal["answer", "reasoning"]
Piece = tuple[Part, str]


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
HARMONY = ("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>", "<|call|>")
_HARMONY_PARTS: Mapping[str, Part] = {"analysis": "reasoning"}  # all others are for people
_LONGEST_NAME = 64  # characters of a channel's name: more is text
_LONGEST_HEADER = 64  # tokens of a message's header
_LOOK_BACK = 32  # tokens at the end of a prompt in which the template may begin the answer


class Reader(Protocol):
    """Generated ids -> pieces of parts."""

    @property
    def part(self) -> Part:
        """The part that is being written."""

    def push(self, token: int) -> list[Piece]:
        """What `token` completes."""

    def finish(self) -> list[Piece]:
        """What was held back."""


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
        return _Harmony(self, prompt) if self.harmony else _Pairs(self, prompt)


class Plain:
    """All that comes is the answer: of a text that is continued, nothing is read but text."""

    part: Part = "answer"

    def __init__(self, decoder: Decoder, prompt: Sequence[int]) -> None:
        self._stream = TextStream(decoder, prompt)

    def push(self, token: int) -> list[Piece]:
        return [("answer", self._stream.push(token))]

    def finish(self) -> list[Piece]:
        return [("answer", self._stream.finish())]


class _Parts:
    """What was written: parts without the white space around them, one after the other."""

    def __init__(self) -> None:
        self.part: Part = "answer"
        self._begun: set[Part] = set()  # which have text
        self._strip = False  # the white space at the beginning of a part
        self._held = ""  # white space that may be the end of reasoning

    def turn(self, part: Part) -> None:
        """A part begins."""
        self.part, self._strip, self._held = part, True, ""

    def say(self, text: str) -> list[Piece]:
        if self._strip:
            text = text.lstrip()
            if text and self.part in self._begun:
                text = "\n\n" + text
            self._strip = not text
        if self.part == "reasoning":
            text = self._held + text
            end = len(text.rstrip())
            text, self._held = text[:end], text[end:]
        if not text:
            return []
        self._begun.add(self.part)
        return [(self.part, text)]


class _Spelled:
    """Markers that are written as text: reasoning at the beginning of an answer."""

    def __init__(self, parts: _Parts, pairs: Sequence[Pair]) -> None:
        self._parts, self._pairs = parts, pairs
        self._start: str | None = "" if pairs else None  # of the answer, while it may be a marker
        self._until: StopText | None = None

    def open(self, pair: Pair) -> None:
        """Reasoning begins."""
        self._parts.turn("reasoning")
        self._start, self._until = None, StopText([pair.closes])

    def push(self, text: str) -> list[Piece]:
        if self._start is not None:
            text = self._start = self._start + text
            start = text.lstrip()
            opened = next((pair for pair in self._pairs if start.startswith(pair.opens)), None)
            if opened:
                self.open(opened)
                text = start.removeprefix(opened.opens)
            elif any(pair.opens.startswith(start) for pair in self._pairs):
                return []
            self._start = None
        if self._until is None:
            return self._parts.say(text)
        pieces = self._parts.say(self._until.push(text))
        if self._until.stopped:
            rest, self._until = self._until.rest, None
            self._parts.turn("answer")
            pieces += self._parts.say(rest)
        return pieces

    def finish(self) -> list[Piece]:
        """What was held back in vain."""
        held, self._start = self._start or "", None
        if self._until is not None:
            held, self._until = self._until.finish(), None
        return self._parts.say(held)


class _Pairs:
    """Reasoning between two tokens, which may come more than once."""

    def __init__(self, channels: Channels, prompt: Sequence[int]) -> None:
        self._channels, self._parts = channels, _Parts()
        self._spelled = _Spelled(self._parts, channels.spelled)
        self._stream = TextStream(channels.decoder, prompt)
        self._name: str | None = None  # of a channel, while its line is written
        self._named: frozenset[str] = frozenset()  # those that are reasoning
        self._begin(prompt[-_LOOK_BACK:])

    @property
    def part(self) -> Part:
        return self._parts.part

    def push(self, token: int) -> list[Piece]:
        opened = self._channels.opens.get(token)
        if opened is None and token not in self._channels.closes:
            return self._say(self._stream.push(token))
        if opened is None and self.part == "answer":
            return []  # it closes nothing
        pieces = self.finish()
        self._stream = TextStream(self._channels.decoder)
        self._named = opened.named if opened else frozenset()
        self._name = "" if self._named else None
        self._parts.turn("reasoning" if opened else "answer")
        return pieces

    def finish(self) -> list[Piece]:
        pieces = self._say(self._stream.finish())
        if self._name and not any(name.startswith(self._name) for name in self._named):
            pieces += self._parts.say(self._name)
        self._name = None
        return pieces + self._spelled.finish()

    def _say(self, text: str) -> list[Piece]:
        if self._name is None:
            return self._spelled.push(text) if text else []
        name, ended, rest = (self._name + text).partition("\n")
        self._name = None if ended or len(name) > _LONGEST_NAME else name
        if self._name is not None:
            return []
        if not ended:
            return self._parts.say(name)
        if name.strip() not in self._named:
            self._parts.turn("answer")
        return self._parts.say(rest)

    def _begin(self, tail: Sequence[int]) -> None:
        """Reads from the end of the prompt whether the template has begun the reasoning."""
        channels = self._channels
        markers = [at for at, token in enumerate(tail) if token in channels.tokens]
        if markers:
            at = markers[-1]
            pair = channels.opens.get(tail[at])
            after = channels.text(tail[at + 1 :]).strip()
            if pair and after in (pair.named or {""}):
                self._parts.turn("reasoning")
                self._spelled.finish()
                return
        text = channels.text(tail).rstrip()
        for pair in PAIRS:  # also where a vocabulary has the token and does not look for it
            if not text.endswith(pair.opens):
                continue
            if pair in channels.spelled:
                self._spelled.open(pair)
            elif pair in channels.opens.values():
                self._parts.turn("reasoning")
                self._spelled.finish()


class _Harmony:
    """GPT-OSS's messages: <|start|>role<|channel|>name<|message|>text<|end|>.

    A call of a tool, whose header says to whom it goes, stays in the answer as it was written.
    """

    def __init__(self, channels: Channels, prompt: Sequence[int]) -> None:
        self._channels, self._parts = channels, _Parts()
        self._names = {token: name for name, token in channels.harmony.items()}
        self._header: list[int] | None = None  # ids since a message began; None in its text
        self._stream = TextStream(channels.decoder, prompt)
        tail = list(prompt[-_LOOK_BACK:])
        start = channels.harmony["<|start|>"]
        if start in tail:
            for token in tail[len(tail) - 1 - tail[::-1].index(start) :]:
                self.push(token)

    @property
    def part(self) -> Part:
        return self._parts.part

    def push(self, token: int) -> list[Piece]:
        name = self._names.get(token)
        if name in ("<|start|>", "<|end|>", "<|return|>", "<|call|>"):
            pieces = self._close()
            self._header = [] if name == "<|start|>" else None
            return pieces
        if name == "<|message|>":
            return self._open()
        if name == "<|channel|>":
            pieces = self._close() if self._header is None else []
            self._header = [*(self._header or []), token]
            return pieces
        if self._header is None:
            return self._parts.say(self._stream.push(token))
        self._header.append(token)
        return self._plain()

    def finish(self) -> list[Piece]:
        pieces = self._parts.say(self._stream.finish())
        return pieces if self._header is None else pieces + self._plain(last=True)

    def _close(self) -> list[Piece]:
        pieces = self.finish()
        self._header = None
        self._stream = TextStream(self._channels.decoder)
        self._parts.turn("answer")
        return pieces

    def _open(self) -> list[Piece]:
        """The text of a message begins; its header says which part it is."""
        pieces = self._close() if self._header is None else []
        header = self._channels.text(self._header or [])
        self._header = None
        self._stream = TextStream(self._channels.decoder)
        if "to=" in header:
            self._parts.turn("answer")
            return self._parts.say(header.removeprefix("assistant") + "<|message|>")
        channel = header.partition("<|channel|>")[2].split()
        self._parts.turn(_HARMONY_PARTS.get(channel[0] if channel else "", "answer"))
        return pieces

    def _plain(self, last: bool = False) -> list[Piece]:
        """An answer without a header, from a model that was taught to do without."""
        header = self._channels.text(self._header or [])
        text = header.removeprefix("assistant")
        if len(self._header or []) <= _LONGEST_HEADER:
            if "<|channel|>" in header or "assistant".startswith(header):
                return []
            if not last and (text.endswith(REPLACEMENT) or "to=".startswith(text.lstrip()[:3])):
                return []
        self._header = None
        return self._parts.say(text)

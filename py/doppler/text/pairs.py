"""Reasoning, or a call, between two markers: tokens, or where the vocabulary lacks them, text."""

from __future__ import annotations

from collections.abc import Sequence

from doppler.text.call_values import QUOTE
from doppler.text.calls import Calls
from doppler.text.markers import PAIRS, Markers, Pair
from doppler.text.parts import LOOK_BACK, Part, Parts, Piece
from doppler.text.textstream import StopText, TextStream
from doppler.text.tools import Tools

_LONGEST_NAME = 64  # characters of a channel's name: more is text


class Spelled:
    """Markers that are written as text: reasoning at the beginning of an answer."""

    def __init__(self, parts: Calls, pairs: Sequence[Pair]) -> None:
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


class Pairs:
    """Reasoning and calls of tools between two tokens each, which may come more than once."""

    def __init__(self, markers: Markers, tools: Tools, prompt: Sequence[int]) -> None:
        self._markers = markers
        self._parts = Calls(Parts(), markers.called, tools, prompt)
        self.notes = self._parts.notes
        self._structure = markers.tokens
        self._call: int | None = None  # the token that began the call that is being written
        self._spelled = Spelled(self._parts, markers.spelled)
        self._stream = TextStream(markers.decoder, prompt)
        self._name: str | None = None  # of a channel, while its line is written
        self._named: frozenset[str] = frozenset()  # those that are reasoning
        self._begin(prompt[-LOOK_BACK:])

    @property
    def part(self) -> Part:
        return self._parts.part

    def push(self, token: int) -> list[Piece]:
        called = self._markers.called
        if self._call is not None:
            if token not in called.opens:
                return self._in_call(self._call, token)
            pieces = self._end_call("")
        else:
            pieces = []
        if token in called.opens:
            return pieces + self._begin_call(token)
        opened = self._markers.opens.get(token)
        if opened is None and token not in self._markers.closes:
            return self._say(self._stream.push(token))
        if opened is None and self.part == "answer":
            return []  # it closes nothing
        pieces = self.finish()
        self._stream = TextStream(self._markers.decoder)
        self._named = opened.named if opened else frozenset()
        self._name = "" if self._named else None
        self._parts.turn("reasoning" if opened else "answer")
        return pieces

    def _begin_call(self, token: int) -> list[Piece]:
        mark = self._markers.called.opens[token]
        pieces = self._say(self._stream.finish()) + self._end_name()
        self._stream = TextStream(self._markers.decoder)
        self._call = token
        return pieces + self._parts.open(mark.opens, mark.quote)

    def _in_call(self, call: int, token: int) -> list[Piece]:
        """A token of a call, which ends with a marker, or with the answer."""
        known = self._markers
        if token == known.called.closes[call]:
            return self._end_call(known.called.opens[call].closes)
        if token in known.ends:
            return self._end_call("")
        text = known.called.inside.get(token)
        if token == known.called.quotes[call]:
            text = QUOTE
        elif text is None and token in self._structure:
            text = known.text([token])
        if text is None:
            return self._parts.say(self._stream.push(token))
        pieces = self._parts.say(self._stream.finish() + text)
        self._stream = TextStream(known.decoder)
        return pieces

    def _end_call(self, closes: str) -> list[Piece]:
        pieces = self._parts.say(self._stream.finish()) + self._parts.close(closes)
        self._stream = TextStream(self._markers.decoder)
        self._call = None
        return pieces

    def finish(self) -> list[Piece]:
        if self._call is not None:
            return self._end_call("")
        pieces = self._say(self._stream.finish()) + self._end_name()
        return pieces + self._spelled.finish() + self._parts.finish()

    def _end_name(self) -> list[Piece]:
        """A channel's line that did not end: what cannot be the beginning of a name is text."""
        line, self._name = self._name, None
        if not line or any(name.startswith(line) for name in self._named):
            return []
        return self._parts.say(line)

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
        known = self._markers
        markers = [at for at, token in enumerate(tail) if token in self._structure]
        if markers:
            at = markers[-1]
            pair = known.opens.get(tail[at])
            after = known.text(tail[at + 1 :]).strip()
            if pair and after in (pair.named or {""}):
                self._parts.turn("reasoning")
                self._spelled.finish()
                return
        text = known.text(tail).rstrip()
        for pair in PAIRS:  # also where a vocabulary has the token and does not look for it
            if not text.endswith(pair.opens):
                continue
            if pair in known.spelled:
                self._spelled.open(pair)
            elif pair in known.opens.values():
                self._parts.turn("reasoning")
                self._spelled.finish()

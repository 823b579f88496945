"""Reasoning between two markers: tokens, or where the vocabulary lacks them, text."""

from __future__ import annotations

from collections.abc import Sequence

from doppler.text.markers import PAIRS, Markers, Pair
from doppler.text.parts import LOOK_BACK, Part, Parts, Piece
from doppler.text.textstream import StopText, TextStream

_LONGEST_NAME = 64  # characters of a channel's name: more is text


class Spelled:
    """Markers that are written as text: reasoning at the beginning of an answer."""

    def __init__(self, parts: Parts, pairs: Sequence[Pair]) -> None:
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
    """Reasoning between two tokens, which may come more than once."""

    def __init__(self, markers: Markers, prompt: Sequence[int]) -> None:
        self._markers, self._parts = markers, Parts()
        self._spelled = Spelled(self._parts, markers.spelled)
        self._stream = TextStream(markers.decoder, prompt)
        self._name: str | None = None  # of a channel, while its line is written
        self._named: frozenset[str] = frozenset()  # those that are reasoning
        self._begin(prompt[-LOOK_BACK:])

    @property
    def part(self) -> Part:
        return self._parts.part

    def push(self, token: int) -> list[Piece]:
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
        known = self._markers
        markers = [at for at, token in enumerate(tail) if token in known.tokens]
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

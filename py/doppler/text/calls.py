"""The calls of an answer as its text comes: held apart, read where they end, or text after all."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from doppler.store.digest import blake3_hex
from doppler.text.call_grammars import Written, read_bare, read_calls
from doppler.text.call_values import QUOTE
from doppler.text.markers import Called
from doppler.text.parts import Part, Parts, Piece
from doppler.text.quoted import Marks
from doppler.text.textstream import StopText
from doppler.text.tools import ToolCall, Tools

ID_LENGTH = 9  # letters and digits: what Mistral's templates ask for
_ID = re.compile(f"[A-Za-z0-9]{{{ID_LENGTH}}}")
_BARE = re.compile(r'\{\s*"(?:name|type)"\s*:')
_BARE_BEGUN = '{"name":', '{"type":'  # without white space


class Calls:
    """What is said goes through here: text of an answer, and that of calls between two markers.

    A call that is spelled, or has no markers at all, is looked for where a request has tools: any
    text may look like one, but what stands in backticks is an example.
    """

    def __init__(self, parts: Parts, called: Called, tools: Tools, prompt: Sequence[int]) -> None:
        self.made: list[ToolCall] = []
        self.notes: list[str] = []  # what could not be read, and why
        self._parts, self._tools, self._prompt = parts, tools, prompt
        self._marks = {mark.opens: mark for mark in called.spelled} if tools else {}
        self._look = Marks(list(self._marks))
        self._start: str | None = "" if called.bare and tools else None  # while it may be a call
        self._until: StopText | None = None  # of a call that is spelled
        self._opens = self._quote = ""
        self._body: list[str] | None = None
        self._read: Callable[[str], list[Written]] = self._between
        self._around: Part = "answer"

    @property
    def part(self) -> Part:
        """The part that is being written."""
        return self._parts.part

    def turn(self, part: Part) -> None:
        """A part begins."""
        self._parts.turn(part)

    def open(
        self, opens: str, quote: str = "", read: Callable[[str], list[Written]] | None = None
    ) -> list[Piece]:
        """A call begins with a marker. read: what makes calls of its text; by itself any grammar.

        quote: the text of QUOTE.
        """
        pieces = self.finish()  # of a call, too, that a model spelled and did not end
        self._opens, self._quote, self._body = opens, quote, []
        self._read, self._around = read or self._between, self.part
        self._parts.turn("tool_call")
        return [*pieces, ("tool_call", opens)] if opens else pieces

    def say(self, text: str) -> list[Piece]:
        """Text of the part that is being written."""
        if self._body is not None:
            return self._call(text)
        if self.part != "answer":
            return self._parts.say(text)
        if self._start is not None:
            return self._begin(self._start + text)
        if not self._marks:
            return self._parts.say(text)
        said, found = self._look.push(text)
        pieces = self._parts.say(said)
        if found:
            mark, rest = self._marks[self._look.found], self._look.rest
            pieces += self.open(mark.opens)
            self._until = StopText([mark.closes])
            pieces += self.say(rest)
        return pieces

    def close(self, closes: str = "") -> list[Piece]:
        """The call has ended, with a marker or without."""
        body, self._body, self._until = "".join(self._body or ()), None, None
        raw = self._opens + body.replace(QUOTE, self._quote) + closes
        try:
            written = self._read(body)
        except ValueError as error:
            if self._opens:  # or nothing but its beginning looked like a call
                self.notes.append(f"what was written as a tool call is text: {error}")
            self._parts.back()
            if self.part == "answer":
                self._look.skip(raw)
            return self._parts.say(raw)
        self._parts.turn(self._around)
        self._look.begin()
        first = len(self.made)
        for at, call in enumerate(written):
            self.made.append(self._made(call, first + at, "" if at else raw))
        return [*self.made[first:]]

    def finish(self) -> list[Piece]:
        """What was held back; a call that has not ended may be whole all the same."""
        if self._body is None:
            return self._let_go()
        pieces = [] if self._until is None else self._in_body(self._until.finish())
        return pieces + self.close()

    def _between(self, body: str) -> list[Written]:
        return read_calls(body, self._tools)

    def _made(self, call: Written, at: int, raw: str) -> ToolCall:
        """With an id of its own, which is the same for the same answer."""
        own = call.id
        taken = {made.id for made in self.made}
        if own is None or own in taken or not _ID.fullmatch(own):
            own = blake3_hex(f"{self._prompt} {at}".encode())[:ID_LENGTH]
        return ToolCall(own, call.name, call.arguments, raw)

    def _call(self, text: str) -> list[Piece]:
        if self._until is None:
            return self._in_body(text)
        pieces = self._in_body(self._until.push(text))
        if self._until.stopped:
            rest, closes = self._until.rest, self._until.found
            pieces += self.close(closes) + self.say(rest)
        return pieces

    def _in_body(self, text: str) -> list[Piece]:
        assert self._body is not None
        self._body.append(text)
        return [("tool_call", text.replace(QUOTE, self._quote))] if text else []

    def _begin(self, text: str) -> list[Piece]:
        """The beginning of an answer that may be a call without markers."""
        bare = "".join(text.split())
        self._start = None
        if _BARE.match(text.lstrip()):
            return self.open("", read=lambda body: read_bare(body, self._tools)) + self.say(text)
        if any(begun.startswith(bare) for begun in _BARE_BEGUN):
            self._start = text
            return []
        return self.say(text)

    def _let_go(self) -> list[Piece]:
        """What looked like the beginning of a marker, and was none."""
        held, self._start = self._start or "", None
        return self._parts.say(held + self._look.finish())

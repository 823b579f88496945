"""The parts of an answer, and what reads them: what a model thought, says, and calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from doppler.text.textstream import Decoder, TextStream
from doppler.text.tools import ToolCall

Part = Literal["answer", "reasoning", "tool_call"]
Piece = tuple[Part, str] | ToolCall  # text of a part; a call once it has ended
LOOK_BACK = 32  # tokens at the end of a prompt in which the template may begin the answer


class Reader(Protocol):
    """Generated ids -> pieces of parts, and calls among them, in order."""

    @property
    def notes(self) -> Sequence[str]:
        """What of the answer could not be read as what it begins like, in a sentence each."""

    @property
    def part(self) -> Part:
        """The part that is being written."""

    def push(self, token: int) -> list[Piece]:
        """What `token` completes."""

    def finish(self) -> list[Piece]:
        """What was held back."""


class Plain:
    """All that comes is the answer: of a text that is continued, nothing is read but text."""

    part: Part = "answer"
    notes: Sequence[str] = ()

    def __init__(self, decoder: Decoder, prompt: Sequence[int]) -> None:
        self._stream = TextStream(decoder, prompt)

    def push(self, token: int) -> list[Piece]:
        return [("answer", self._stream.push(token))]

    def finish(self) -> list[Piece]:
        return [("answer", self._stream.finish())]


class Parts:
    """What was written: parts without the white space around them, one after the other."""

    def __init__(self) -> None:
        self.part: Part = "answer"
        self._begun: set[Part] = set()  # which have text
        self._strip = False  # the white space at the beginning of a part
        self._held = ""  # white space that may be the end of reasoning
        self._left: tuple[Part, bool, str] = (self.part, self._strip, self._held)

    def turn(self, part: Part) -> None:
        """A part begins."""
        self._left = (self.part, self._strip, self._held)
        self.part, self._strip, self._held = part, True, ""

    def back(self) -> None:
        """The part that was left last goes on as if it had not been."""
        self.part, self._strip, self._held = self._left

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

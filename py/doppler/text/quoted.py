"""Marks that a model spells out, looked for in text as it comes, but not in what it quotes."""

from __future__ import annotations

from collections.abc import Sequence

_FENCE = 3  # backticks, at least
# What may stand before a fence on its line: white space, and marks of quotes and lists.
_BEFORE_FENCE = frozenset(" \t>-*+.)0123456789")


class Code:
    """Whether text stands in code as Markdown marks it: a span on one line, or a fence.

    Markdown's spans may go on over lines; here a backtick without its second holds for its line.
    """

    def __init__(self) -> None:
        self._run = 0  # backticks that came last
        self._opened = 0  # backticks that opened the code; 0 outside
        self._fences = False  # whether these can open a fence
        self._fenced = False
        self._begins = True  # whether the line has nothing yet that forbids a fence

    def push(self, text: str) -> None:
        """Text that has come."""
        for letter in text:
            if letter == "`":
                self._run += 1
            else:
                self._end_run()
                self._after(letter)

    @property
    def inside(self) -> bool:
        """Whether what follows is code; of backticks that came last, it is after all of them."""
        if not self._run:
            return self._opened > 0
        return not self._closes() if self._opened else True

    def _closes(self) -> bool:
        if self._fenced:
            return self._begins and self._run >= self._opened
        return self._run == self._opened

    def _end_run(self) -> None:
        if not self._run:
            return
        if not self._opened:
            self._opened, self._fences = self._run, self._begins and self._run >= _FENCE
        elif self._closes():
            self._opened, self._fenced = 0, False
        self._run, self._begins = 0, False

    def _after(self, letter: str) -> None:
        if letter != "\n":
            self._begins = self._begins and letter in _BEFORE_FENCE
            return
        self._begins = True
        self._fenced = self._opened > 0 and (self._fenced or self._fences)
        if not self._fenced:
            self._opened = 0


class Marks:
    """Holds back the end of a text while it may be the beginning of a mark outside code."""

    def __init__(self, marks: Sequence[str]) -> None:
        self._marks = marks
        self._code = Code()
        self._held = ""
        self.found = ""  # the mark that came last
        self.rest = ""  # what had come with it, after it

    def push(self, piece: str) -> tuple[str, bool]:
        """Text that is safe to show, and whether a mark has come after it."""
        text, self._held = self._held + piece, ""
        for at, letter in enumerate(text):
            for mark in self._marks:
                if letter != mark[0] or self._code.inside:
                    continue
                if text.startswith(mark, at):
                    self.found, self.rest = mark, text[at + len(mark) :]
                    return text[:at], True
                if len(text) - at < len(mark) and mark.startswith(text[at:]):
                    self._held = text[at:]
                    return text[:at], False
            self._code.push(letter)
        return text, False

    def skip(self, text: str) -> None:
        """Text in which no mark is to be found."""
        self._code.push(text)

    def begin(self) -> None:
        """What follows is on a line of its own."""
        self._code = Code()

    def finish(self) -> str:
        """What was held back in vain."""
        held, self._held = self._held, ""
        self._code.push(held)
        return held

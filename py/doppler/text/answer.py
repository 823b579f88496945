"""What is shown of a generation as it comes: the answer, the reasoning and calls, each apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from doppler.text.parts import Part, Piece, Reader
from doppler.text.textstream import StopText
from doppler.text.tools import ToolCall


@dataclass(frozen=True)
class Shown:
    """A token's text; without a token, text that was held back. `count` tokens have come so far."""

    token: int | None
    text: str
    count: int
    part: Part


class Output:
    """Generated ids -> text of each part, up to a stop text in the answer."""

    def __init__(
        self, reader: Reader | None, stop: Sequence[str], show: Callable[[Shown | ToolCall], None]
    ) -> None:
        """Without a reader there is no tokenizer: ids only are told.

        show: gets text as it comes, and each call of a tool once it has been read.
        """
        self.count = 0  # ids
        self._reader, self._tell = reader, show
        self._stop = StopText(stop)
        self._pieces: dict[Part, list[str]] = {"answer": [], "reasoning": [], "tool_call": []}
        self.calls: list[ToolCall] = []
        self.ends_with_call = False  # nothing was said since

    @property
    def text(self) -> str:
        """The answer alone; templates put a space of their own before a call that ends it."""
        text = "".join(self._pieces["answer"])
        return text.rstrip() if self.ends_with_call else text

    @property
    def reasoning(self) -> str | None:
        """What the model thought, as far as it came; None where there is none."""
        return "".join(self._pieces["reasoning"]) or None

    @property
    def notes(self) -> Sequence[str]:
        """What could not be read as what it begins like, in a sentence each."""
        return () if self._reader is None else tuple(self._reader.notes)

    @property
    def stopped(self) -> bool:
        """Whether a stop text has come: nothing that follows is of the answer."""
        return self._stop.stopped

    def push(self, token: int) -> None:
        """Shows the token's text."""
        self.count += 1
        self._show(token, [] if self._reader is None else self._reader.push(token))

    def repeat(self, ids: Sequence[int]) -> None:
        """Takes ids up to a stop text whose text was shown before: it is not shown again."""
        show, self._tell = self._tell, lambda shown: None
        for token in ids:
            self.push(token)
            if self.stopped:
                break
        self._tell = show

    def finish(self) -> None:
        """Shows what was held back."""
        if self._reader is not None:
            self._show(None, self._reader.finish())
        self._say(None, "answer", self._stop.finish())

    def _show(self, token: int | None, pieces: Sequence[Piece]) -> None:
        """Tells of a token once, with the first text of its pieces, and of others without it."""
        if all(isinstance(piece, ToolCall) for piece in pieces):
            current: Part = "answer" if self._reader is None else self._reader.part
            pieces = [(current, ""), *pieces]
        for piece in pieces:
            if isinstance(piece, ToolCall):
                self._show_call(piece)
                continue
            part, text = piece
            self._say(token, part, self._stop.push(text) if part == "answer" else text)
            token = None

    def _show_call(self, call: ToolCall) -> None:
        """Tells of a call, and before it of text that cannot go on to be a stop text."""
        if self.stopped:
            return
        self._say(None, "answer", self._stop.finish())
        self.calls.append(call)
        self.ends_with_call = True
        self._tell(call)

    def _say(self, token: int | None, part: Part, text: str) -> None:
        if token is None and not text:
            return
        self._pieces[part].append(text)
        if part == "answer" and text.strip():
            self.ends_with_call = False
        self._tell(Shown(token, text, self.count, part))

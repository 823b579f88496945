"""What is shown of a generation as it comes: the answer and the reasoning, each apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from doppler.text.parts import Part, Piece, Reader
from doppler.text.textstream import StopText


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
        self, reader: Reader | None, stop: Sequence[str], show: Callable[[Shown], None]
    ) -> None:
        """Without a reader there is no tokenizer: ids only are told."""
        self.count = 0  # ids
        self._reader, self._tell = reader, show
        self._stop = StopText(stop)
        self._pieces: dict[Part, list[str]] = {"answer": [], "reasoning": []}

    @property
    def text(self) -> str:
        """The answer alone."""
        return "".join(self._pieces["answer"])

    @property
    def reasoning(self) -> str | None:
        """What the model thought, as far as it came; None where there is none."""
        return "".join(self._pieces["reasoning"]) or None

    @property
    def stopped(self) -> bool:
        """Whether a stop text has come: nothing that follows is of the answer."""
        return self._stop.stopped

    def push(self, token: int) -> None:
        """Shows the token's text."""
        self.count += 1
        self._show(token, [] if self._reader is None else self._reader.push(token))

    def finish(self) -> None:
        """Shows what was held back."""
        if self._reader is not None:
            self._show(None, self._reader.finish())
        self._say(None, "answer", self._stop.finish())

    def _show(self, token: int | None, pieces: Sequence[Piece]) -> None:
        """Tells of a token once, with the first of its pieces, and of the others without it."""
        current: Part = "answer" if self._reader is None else self._reader.part
        for part, text in pieces or [(current, "")]:
            self._say(token, part, self._stop.push(text) if part == "answer" else text)
            token = None

    def _say(self, token: int | None, part: Part, text: str) -> None:
        if token is None and not text:
            return
        self._pieces[part].append(text)
        self._tell(Shown(token, text, self.count, part))

"""Ids -> text as it streams: whole characters only, and nothing of a stop text."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

REPLACEMENT = "\ufffd"  # what decoders give for bytes that are not yet a whole character
_FEW = 4  # tokens of a byte or more: the last character begins among so many
_MANY = 16


@dataclass(frozen=True)
class Decoder:
    """How ids become text, and which are not like others.

    silent: control tokens, which have no text. bytes: SentencePiece's tokens of one byte; a run of
    them is text only once it has ended, as some decoders take a run with one wrong byte for no text
    at all. replacement: ids of a U+FFFD that was written as such.
    """

    decode: Callable[[Sequence[int]], str]
    silent: Collection[int] = ()
    bytes: Collection[int] = ()
    replacement: tuple[int, ...] = ()


class TextStream:
    """Ids one by one -> pieces of text, which add up to the text of all ids after `before`.

    A token's text can depend on those before it (a space that is dropped at the beginning of a
    text, a character of several tokens), so a piece is what the text of the last few tokens has
    beyond what was given out. These begin where a character does and have text of their own.
    """

    def __init__(self, decoder: Decoder, before: Sequence[int] = ()) -> None:
        self._decoder, self._text = decoder, decoder.decode
        self._ids = self._tail(before)
        text = self._text(self._ids)
        self._given = len(text) - self._open(text)  # characters of the text of `_ids` that are out
        self._settled = len(self._ids)  # after so many of them a character begins

    def push(self, token: int) -> str:
        """The text that `token` completes; may be empty."""
        if token in self._decoder.silent:
            return ""
        run = bool(self._ids) and self._ids[-1] in self._decoder.bytes
        self._ids.append(token)
        if token in self._decoder.bytes:
            return ""
        if run and self._is_none(token):
            self._ids.pop()
            return ""
        return self._take(last=False)

    def finish(self) -> str:
        """What is left, with replacement characters for bytes that never became one."""
        return self._take(last=True)

    def _take(self, last: bool) -> str:
        text = self._text(self._ids)
        unsure = not last and text.endswith(REPLACEMENT)
        piece = text[self._given : len(text) - unsure]
        self._given += len(piece)
        if unsure:
            if len(self._ids) > _MANY:
                self._forget(len(self._ids) - _FEW, text)
        elif not piece and self._ids and self._is_none(self._ids[-1]):
            self._ids.pop()
        else:
            self._forget(self._settled, text)
            self._settled = len(self._ids)
        return piece

    def _is_none(self, token: int) -> bool:
        """Whether it is an id without a token: a space, too, has no text where it stands first."""
        return not self._text([token, token])

    def _forget(self, count: int, text: str) -> None:
        """Drops the first ids of `text` where the rest has text of its own."""
        rest = self._ids[count:]
        if count and (kept := self._text(rest)):
            self._ids, self._settled = rest, 0
            self._given = len(kept) - (len(text) - self._given)

    def _open(self, text: str) -> int:
        """Characters at the end of the prompt's text that may become another one."""
        written = self._decoder.replacement
        if not self._ids or tuple(self._ids[-len(written) :]) == written:
            return 0
        most = 3 if self._ids[-1] in self._decoder.bytes else 1  # some show one for each byte
        return min(most, len(text) - len(text.rstrip(REPLACEMENT)))

    def _tail(self, before: Sequence[int]) -> list[int]:
        """The last few ids of a prompt: the whole of a run of bytes, and some text."""
        tail: list[int] = []
        for token in reversed(before):
            whole = len(tail) >= _FEW and tail[-1] not in self._decoder.bytes
            if whole and (len(tail) > _MANY or self._text(tail[::-1])):
                break
            if token not in self._decoder.silent:
                tail.append(token)
        return tail[::-1]


class StopText:
    """Holds back the end of a stream while it may be the beginning of a stop string."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.stopped = False
        self.found = ""  # the stop string that came
        self.rest = ""  # what had come with it, after it

    def push(self, piece: str) -> str:
        """Text that is safe to show; nothing once a stop string has come."""
        if self.stopped:
            return ""
        text = self._held + piece
        found = [(at, len(stop)) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            at, size = min(found)
            self.stopped, self._held, self.rest = True, "", text[at + size :]
            self.found = text[at : at + size]
            return text[:at]
        keep = self._partial(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """What was held back in vain."""
        held, self._held = self._held, ""
        return held

    def _partial(self, text: str) -> int:
        """Characters at the end of `text` with which a stop string begins."""
        longest = max((len(stop) - 1 for stop in self._stops), default=0)
        for size in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-size:]) for stop in self._stops):
                return size
        return 0

"""The messages of harmony, GPT-OSS's format."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from doppler.text.call_grammars import read_one
from doppler.text.calls import Calls
from doppler.text.markers import Markers
from doppler.text.parts import LOOK_BACK, Part, Parts, Piece
from doppler.text.textstream import REPLACEMENT, TextStream
from doppler.text.tools import Tools

_HARMONY_PARTS: Mapping[str, Part] = {"analysis": "reasoning"}  # all others are for people
_LONGEST_HEADER = 64  # tokens of a message's header
_RECIPIENT = re.compile(r"\bto=([^\s<]+)")


class Harmony:
    """GPT-OSS's messages: <|start|>role<|channel|>name<|message|>text<|end|>.

    A message whose header says to whom it goes is a call of a tool, with its arguments as text.
    """

    def __init__(self, markers: Markers, tools: Tools, prompt: Sequence[int]) -> None:
        self._markers = markers
        self._parts = Calls(Parts(), markers.called, tools, prompt)
        self.notes = self._parts.notes
        self._names = {token: name for name, token in markers.harmony.items()}
        self._header: list[int] | None = None  # ids since a message began; None in its text
        self._stream = TextStream(markers.decoder, prompt)
        tail = list(prompt[-LOOK_BACK:])
        start = markers.harmony["<|start|>"]
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
        pieces += [] if self._header is None else self._plain(last=True)
        return pieces + self._parts.finish()

    def _close(self) -> list[Piece]:
        pieces = self.finish()
        self._header = None
        self._stream = TextStream(self._markers.decoder)
        self._parts.turn("answer")
        return pieces

    def _open(self) -> list[Piece]:
        """The text of a message begins; its header says which part it is."""
        pieces = self._close() if self._header is None else []
        header = self._markers.text(self._header or [])
        self._header = None
        self._stream = TextStream(self._markers.decoder)
        if to := _RECIPIENT.search(header):
            self._parts.turn("answer")
            opens = header.removeprefix("assistant") + "<|message|>"
            name = to[1].removeprefix("functions.")
            return pieces + self._parts.open(opens, read=lambda body: read_one(name, body))
        channel = header.partition("<|channel|>")[2].split()
        self._parts.turn(_HARMONY_PARTS.get(channel[0] if channel else "", "answer"))
        return pieces

    def _plain(self, last: bool = False) -> list[Piece]:
        """An answer without a header, from a model that was taught to do without."""
        header = self._markers.text(self._header or [])
        text = header.removeprefix("assistant")
        if len(self._header or []) <= _LONGEST_HEADER:
            if "<|channel|>" in header or "assistant".startswith(header):
                return []
            if not last and (text.endswith(REPLACEMENT) or "to=".startswith(text.lstrip()[:3])):
                return []
        self._header = None
        return self._parts.say(text)

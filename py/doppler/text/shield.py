"""What people and tools write never becomes a control token.

A template puts messages between control tokens, as text; then the whole is encoded, and control
tokens are recognised. So in what others wrote, each text that looks like one gets a mark inside
before it is rendered; the mark is dropped when no token can be recognised any more: encodings take
it away in their first step of normalisation (web/runtime/tokenizer.js), and what is left is encoded
as it would be if there were no such token.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from doppler.text.markers import PAIRS

MARK = "\ufdd1"  # a noncharacter, which no text has
_ESCAPED = "\\ufdd1"  # as a template may write it in JSON


class Shield:
    """Marks the texts of some tokens wherever they are found."""

    def __init__(self, tokens: Iterable[str]) -> None:
        self._tokens = frozenset(token for token in tokens if len(token) > 1)
        self._sizes = sorted({len(token) for token in self._tokens})
        letters = "".join(sorted({token[0] for token in self._tokens}))
        self._first = re.compile(f"[{re.escape(letters)}]" if letters else r"\b\B")

    def values(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """A template's values with marks in every string and every name."""
        marked = {name: self._value(value) for name, value in values.items()}
        if isinstance(values.get("messages"), list):
            marked["messages"] = [self._message(message) for message in values["messages"]]
        return marked

    @staticmethod
    def rendered(text: str) -> str:
        """What a template made of marked values: a mark is a mark, in JSON too."""
        return text.replace(_ESCAPED, MARK) if MARK in text or _ESCAPED in text else text

    def _message(self, message: Mapping[str, Any]) -> Any:
        """Reasoning at the beginning of an answer is marked off by tokens, as templates expect."""
        marked = self._value(message)
        content = message.get("content")
        if message.get("role") == "assistant" and isinstance(content, str):
            marked["content"] = self._answer(content)
        return marked

    def _answer(self, text: str) -> str:
        for pair in PAIRS:
            blank, opens, begun = text.partition(pair.opens)
            thought, closes, rest = begun.partition(pair.closes)
            if closes and not blank.strip():
                return blank + opens + self._text(thought) + closes + self._text(rest)
        return self._text(text)

    def _value(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, Mapping):
            return {self._value(name): self._value(item) for name, item in value.items()}
        if isinstance(value, Sequence):
            return [self._value(item) for item in value]
        return value

    def _text(self, text: str) -> str:
        parts, done = [], 0
        for found in self._first.finditer(text):
            at = found.start()
            if any(text[at : at + size] in self._tokens for size in self._sizes):
                parts.append(text[done : at + 1])
                done = at + 1
        return MARK.join([*parts, text[done:]])

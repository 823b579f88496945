"""Calls whose arguments are no JSON: Gemma 4's tables, and calls as Python writes them.

What is written otherwise is a ValueError, which says what is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from doppler.inputs.fields import shown

QUOTE = "\ufdd0"  # a token that stands before and after a string: a noncharacter, which no text has
TOOL_NAME = r"[\w.:/-]+"  # any that tools.NAME allows, and letters of all languages
Named = tuple[str, dict[str, Any]]  # a tool, and its arguments

_DEEPEST = 32  # lists and objects, which are read by calls in calls
_MOST_DIGITS = 310  # of an integer, with its sign: those of more are beyond every float
_SPACE = re.compile(r"\s*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?(?![\w.])")
_NAME = re.compile(TOOL_NAME)
_ARGUMENT = re.compile(r"[^\W\d][\w.-]*")
_STRING = re.compile(r"""'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)\"""", re.DOTALL)
_HEX = "[0-9a-fA-F]"
_ESCAPE = re.compile(rf"\\(U00(?:0{_HEX}|10){_HEX}{{4}}|u{_HEX}{{4}}|x{_HEX}{{2}}|.)", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "\n": "", **{letter: letter for letter in "\\'\""}}


def after_space(text: str, at: int) -> int:
    """Where what follows the white space begins."""
    space = _SPACE.match(text, at)
    assert space is not None
    return space.end()


class _Scanner:
    """Reads values from a text, one after the other."""

    words: dict[str, Any]

    def __init__(self, text: str) -> None:
        self._text, self._at = text, 0

    def _value(self, depth: int) -> Any:
        if depth > _DEEPEST:
            raise ValueError("it is nested too deeply")
        self._space()
        begin = self._text[self._at : self._at + 1]
        if begin == "{":
            return self._table(depth)
        if begin == "[":
            return [self._value(depth + 1) for _ in self._items("[", "]")]
        for word, value in self.words.items():
            if self._text.startswith(word, self._at):
                self._at += len(word)
                return value
        return self._number() if begin == "-" or begin.isdigit() else self._string()

    def _table(self, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for _ in self._items("{", "}"):
            key = self._key()
            if key in found:
                raise ValueError(f"the key {shown(key)} stands twice")
            found[key] = self._value(depth + 1)
        return found

    def _key(self) -> str:
        """The key, and what stands between it and its value."""
        raise NotImplementedError

    def _string(self) -> str:
        raise NotImplementedError

    def _number(self) -> float:
        """It may be infinite: who asks for calls refuses that for every grammar."""
        number = self._match(_NUMBER, "value")[0]
        whole = len(number) <= _MOST_DIGITS and not set(number) & set(".eE")
        return int(number) if whole else float(number)

    def _items(self, opens: str, closes: str) -> Iterator[None]:
        """Yields before each item; what comes between them is read here."""
        self._expect(opens)
        self._space()
        while not self._text.startswith(closes, self._at):
            yield
            self._space()
            if not self._text.startswith(closes, self._at):
                self._expect(",")
                self._space()
        self._at += len(closes)

    def _match(self, pattern: re.Pattern[str], what: str) -> re.Match[str]:
        found = pattern.match(self._text, self._at)
        if found is None:
            raise ValueError(f"there is no {what} at {self._rest()}")
        self._at = found.end()
        return found

    def _expect(self, text: str) -> None:
        if not self._text.startswith(text, self._at):
            raise ValueError(f"there is no {text!r} at {self._rest()}")
        self._at += len(text)

    def _rest(self) -> str:
        return shown(self._text[self._at :], 20)

    def _space(self) -> None:
        self._at = after_space(self._text, self._at)


class Gemma(_Scanner):
    """call:NAME{key:value,...}, one or several: keys are bare, strings stand between QUOTEs."""

    words = {"true": True, "false": False, "null": None}  # noqa: RUF012 (never changed)

    def calls(self) -> list[Named]:
        """All of the text."""
        calls = []
        while self._at < len(self._text):
            self._expect("call:")
            end = self._text.find("{", self._at)
            if end < 0:
                raise ValueError("it has no arguments")
            name, self._at = self._text[self._at : end].strip(), end
            calls.append((name, self._table(0)))
            self._space()
        return calls

    def _string(self) -> str:
        begin = self._at + 1
        if not self._text.startswith(QUOTE, self._at):
            raise ValueError(f"there is no value at {self._rest()}")
        end = self._text.find(QUOTE, begin)
        if end < 0:
            raise ValueError("a string does not end")
        self._at = end + 1
        return self._text[begin:end]

    def _key(self) -> str:
        if self._text.startswith(QUOTE, self._at):
            key = self._string()
        else:
            end = self._text.find(":", self._at)
            key = self._text[self._at : max(end, self._at)].strip()
            if not key or any(mark in key for mark in "{}[]," + QUOTE):
                raise ValueError(f"there is no key at {self._rest()}")
            self._at = end
        self._space()
        self._expect(":")
        return key


class Python(_Scanner):
    """[NAME(key=value, ...), ...], or one call alone, with values as Python writes them."""

    words = {  # noqa: RUF012 (never changed)
        "True": True,
        "False": False,
        "None": None,
        "true": True,
        "false": False,
        "null": None,
    }

    def calls(self) -> list[Named]:
        """All of the text."""
        if self._text.startswith("["):
            calls = [self._call() for _ in self._items("[", "]")]
        else:
            calls = [self._call()]
        self._space()
        if self._at < len(self._text):
            raise ValueError(f"more follows: {self._rest()}")
        return calls

    def _call(self) -> Named:
        name = self._match(_NAME, "name")[0]
        given: dict[str, Any] = {}
        for _ in self._items("(", ")"):
            key = self._match(_ARGUMENT, "argument")[0]
            if key in given:
                raise ValueError(f"the argument {shown(key)} stands twice")
            self._space()
            self._expect("=")
            given[key] = self._value(0)
        return name, given

    def _string(self) -> str:
        found = self._match(_STRING, "value")
        text = _ESCAPE.sub(_unescaped, found[1] if found[1] is not None else found[2])
        # Escapes of one character's two halves, as JSON writes them, make that character.
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")

    def _key(self) -> str:
        key = self._string()
        self._space()
        self._expect(":")
        return key


def _unescaped(found: re.Match[str]) -> str:
    text = found[1]
    if len(text) > 1:
        return chr(int(text[1:], 16))
    return _ESCAPED.get(text, found[0])

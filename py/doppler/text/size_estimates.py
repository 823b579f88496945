"""How large the result of a text's method or of a Jinja filter may be, before it is made.

In characters, and never less than it will be; only what can be more than what goes in is here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

SLOW = 16  # what costs so much more time than others counts as so much larger
ITEM = 12  # characters that an item of a list counts as
PLAIN_CODES = frozenset(("utf8", "ascii", "latin1", "utf16", "utf32"))
NUMBERS = re.compile(r"\d+")
FIELD_IN_FIELD = re.compile(r"\{[^{}]*\{")


@dataclass(frozen=True)
class _Use:
    """A method or filter about to be used: of which value, and with which arguments."""

    value: Any
    given: Sequence[Any]
    size: int  # of the value
    others: int  # of all arguments together

    @property
    def numbers(self) -> int:
        """The sum of all whole numbers that are given."""
        return sum(_numbers(self.given))

    def text(self, index: int) -> str:
        """The argument there as text; empty where there is none."""
        return str(self.given[index]) if index < len(self.given) else ""


def estimate(name: str, value: Any, given: Sequence[Any], measure: Callable[[Any], int]) -> int:
    """Characters that the method or filter `name` of `value` may give; `measure` tells a size."""
    use = _Use(value, given, measure(value), sum(map(measure, given)))
    of = _ESTIMATES.get(name)
    return use.size + use.others if of is None else of(use)


def _numbers(given: Iterable[Any]) -> Iterator[int]:
    for value in given:
        if isinstance(value, int):
            yield abs(value)
        elif isinstance(value, dict):
            yield from _numbers(value.values())
        elif isinstance(value, (list, tuple)):
            yield from _numbers(value)


def _padded(use: _Use) -> int:
    return use.size + use.others + use.numbers


def _filled(use: _Use) -> int:
    return use.size + ITEM * (use.others + use.numbers)


def _multiplied(use: _Use) -> int:
    return (use.size + 1) * (1 + use.numbers + use.others)


def _squared(use: _Use) -> int:
    return _multiplied(use) * (1 + use.numbers)


def _slow(use: _Use) -> int:
    return SLOW * _multiplied(use)


def _slow_text(use: _Use) -> int:
    return SLOW * use.size


def _stripped(use: _Use) -> int:
    """Each character may be compared with each that is to go."""
    return use.size + use.size * len(use.text(0)) // SLOW


def _coded(use: _Use) -> int:
    """Of the codecs, some take the square of a text's length in time."""
    name = re.sub("[^a-z0-9]", "", use.text(0).lower()) or "utf8"
    return 4 * use.size if name in PLAIN_CODES else use.size * use.size


def _indented(use: _Use) -> int:
    lines = str(use.value).count("\n") + 1
    return use.size + lines * (use.numbers + use.others)


def _tabbed(use: _Use) -> int:
    return use.size + str(use.value).count("\t") * max(8, use.numbers)


def _replaced(use: _Use) -> int:
    value, old = str(use.value), use.text(0)
    places = value.count(old) if old else len(value) + 1
    return use.size + places * len(use.text(1))


def _joined(use: _Use) -> int:
    """Of the method, whose value is the separator, and of the filter, whose argument is."""
    of_method = isinstance(use.value, str) and use.given and not isinstance(use.given[0], str)
    parts, separator = (use.given[0], use.value) if of_method else (use.value, use.text(0))
    count = len(parts) if hasattr(parts, "__len__") else 0
    return use.size + use.others + count * len(separator)


def _split(use: _Use) -> int:
    places = str(use.value).count(use.text(0)) if use.text(0) else use.size // 2
    return use.size + 4 * places


def _listed(use: _Use) -> int:
    return 5 * use.size if isinstance(use.value, str) else use.size


def _formatted(use: _Use) -> int:
    """Each field may be as long as all that is given, or as wide as the format or it says."""
    text = use.value.decode("latin-1") if isinstance(use.value, bytes) else str(use.value)
    widths = sum(int(digits[:12]) for digits in NUMBERS.findall(text))
    if "*" in text or FIELD_IN_FIELD.search(text):
        widths += len(text) * use.numbers
    return use.size + widths + (text.count("%") + text.count("{")) * use.others


_ESTIMATES: dict[str, Callable[[_Use], int]] = {
    **dict.fromkeys(("center", "ljust", "rjust", "zfill", "to_bytes"), _padded),
    **dict.fromkeys(("slice", "batch"), _filled),
    **dict.fromkeys(("tojson", "translate"), _multiplied),
    **dict.fromkeys(("round", "lipsum"), _squared),
    **dict.fromkeys(("wordwrap", "urlize", "striptags", "title", "pprint", "wordcount"), _slow),
    **dict.fromkeys(("%", "format", "format_map"), _formatted),
    **dict.fromkeys(("split", "rsplit", "splitlines"), _split),
    **dict.fromkeys(("strip", "lstrip", "rstrip", "trim"), _stripped),
    **dict.fromkeys(("encode", "decode"), _coded),
    "urlencode": _slow_text,
    "expandtabs": _tabbed,
    "indent": _indented,
    "join": _joined,
    "list": _listed,
    "replace": _replaced,
}

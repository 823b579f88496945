"""Strangers' regular expressions on names of modules, in time that has a bound.

PEFT's configs choose modules by Python's regular expressions, some of which take `re` years. Here
all places that a pattern may reach are followed at once: the time is the pattern's length times the
name's, squared, where no repeats stand in repeats. What takes far longer is refused, and so is what
cannot be matched so (references to groups, looking behind).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Set
from re import _constants, _parser  # type: ignore[attr-defined]
from typing import Any

from doppler.errors import FormatError, UnsupportedError
from doppler.inputs.fields import shown

_LONGEST = 4000  # characters of a pattern: those of PEFT's users have some hundreds
_LONGEST_NAME = 300
_MOST_WORK = 200_000  # places that are followed for one name: those of PEFT's users take thousands
_FLAGS = re.UNICODE.value
_CATEGORIES = {
    _constants.CATEGORY_DIGIT: r"\d",
    _constants.CATEGORY_NOT_DIGIT: r"\D",
    _constants.CATEGORY_SPACE: r"\s",
    _constants.CATEGORY_NOT_SPACE: r"\S",
    _constants.CATEGORY_WORD: r"\w",
    _constants.CATEGORY_NOT_WORD: r"\W",
}
_REPEATS = (_constants.MAX_REPEAT, _constants.MIN_REPEAT)
_CHARACTERS = (_constants.LITERAL, _constants.NOT_LITERAL, _constants.ANY, _constants.IN)

Places = Set[int]


class Pattern:
    """One expression. FormatError where it is none, UnsupportedError for what is not followed."""

    def __init__(self, text: str, where: str) -> None:
        self._told = f"{where}: the pattern {shown(text)}"
        self._work = 0  # for one name
        if len(text) > _LONGEST:
            raise FormatError(f"{self._told} has more than {_LONGEST} characters")
        try:
            self._tree = _parser.parse(text)
            flags = self._tree.state.flags
        except (re.error, RecursionError, OverflowError) as error:
            raise FormatError(f"{self._told} is no regular expression: {error}") from error
        if flags & ~_FLAGS:
            raise UnsupportedError(f"{self._told} sets flags, which Doppler does not follow")

    def is_whole(self, name: str) -> bool:
        """As re.fullmatch finds one."""
        return len(name) in self._ends(name)

    def starts(self, name: str) -> bool:
        """As re.match finds one."""
        return bool(self._ends(name))

    def _ends(self, name: str) -> Places:
        if len(name) > _LONGEST_NAME:
            raise FormatError(f"{shown(name)} is too long for the name of a module")
        self._work = 0
        try:
            return self._follow(self._tree, name, {0})
        except RecursionError as error:
            raise FormatError(f"{self._told} is nested too deeply") from error

    def _follow(self, nodes: Iterable[Any], name: str, places: Places) -> Places:
        """Where those may end that begin at one of these places."""
        self._spend(places)
        for operator, argument in nodes:
            if not places:
                return places
            places = self._step(operator, argument, name, places)
        return places

    def _step(self, operator: Any, argument: Any, name: str, places: Places) -> Places:
        self._spend(places)
        if operator in _CHARACTERS:
            fits = self._character(operator, argument)
            return {at + 1 for at in places if at < len(name) and fits(name[at])}
        if operator is _constants.BRANCH:
            ends = (self._follow(branch, name, places) for branch in argument[1])
            return {at for each in ends for at in each}
        if operator is _constants.SUBPATTERN and not argument[1] and not argument[2]:
            return self._follow(argument[3], name, places)
        if operator in _REPEATS:
            least, most, body = argument
            return self._repeat((least, int(most)), body, name, places)
        if operator is _constants.AT:
            return {at for at in places if self._is_at(argument, name, at)}
        if operator in (_constants.ASSERT, _constants.ASSERT_NOT) and argument[0] == 1:
            wanted = operator is _constants.ASSERT
            return {at for at in places if bool(self._follow(argument[1], name, {at})) == wanted}
        raise UnsupportedError(f"{self._told} has {operator}, which Doppler does not follow")

    def _spend(self, places: Places) -> None:
        self._work += len(places)
        if self._work > _MOST_WORK:
            raise UnsupportedError(f"{self._told} takes too long, as repeats in repeats do")

    def _repeat(self, times: tuple[int, int], body: Any, name: str, places: Places) -> Places:
        """Places only go on: after as many turns as the name has characters nothing is new."""
        (least, most), turns = times, len(name) + 1
        for _ in range(min(least, turns)):
            places = self._follow(body, name, places)
        found, last = set(places), places
        for _ in range(min(most - least, turns)):
            last = {*self._follow(body, name, last)} - found
            if not last:
                break
            found |= last
        return found

    def _is_at(self, kind: Any, name: str, at: int) -> bool:
        if kind in (_constants.AT_BEGINNING, _constants.AT_BEGINNING_STRING):
            return at == 0
        if kind is _constants.AT_END:
            return name[at:] in ("", "\n")
        if kind is _constants.AT_END_STRING:
            return at == len(name)
        around = (name[max(at - 1, 0) : at], name[at : at + 1])
        is_edge = len({bool(re.match(r"\w", it)) for it in around}) == 2
        return is_edge == (kind is _constants.AT_BOUNDARY)

    def _character(self, operator: Any, argument: Any) -> Callable[[str], bool]:
        if operator is _constants.ANY:
            return lambda c: c != "\n"
        if operator is _constants.LITERAL:
            return lambda c: ord(c) == argument
        if operator is _constants.NOT_LITERAL:
            return lambda c: ord(c) != argument
        negated = bool(argument) and argument[0][0] is _constants.NEGATE
        return lambda c: any(_is_in(item, c) for item in argument) != negated


def _is_in(item: tuple[Any, Any], character: str) -> bool:
    """Whether a character is in one part of a class."""
    kind, argument = item
    if kind is _constants.LITERAL:
        return ord(character) == int(argument)
    if kind is _constants.RANGE:
        return bool(argument[0] <= ord(character) <= argument[1])
    return kind is _constants.CATEGORY and bool(re.match(_CATEGORIES[argument], character))

"""Names of split GGUF files: NAME-00001-of-00003.gguf. No NumPy here: the page starts without."""

from __future__ import annotations

import re
from collections.abc import Iterable

_NAME = re.compile(r"(.+)-([0-9]{5})-of-([0-9]{5})(\.gguf)", re.IGNORECASE)


def _part_of(name: str) -> re.Match[str] | None:
    """How a part is named; None for any other name, such as that of part 2 of 1."""
    match = _NAME.fullmatch(name)
    return match if match and 1 <= int(match[2]) <= int(match[3]) else None


def part_names(name: str) -> tuple[str, ...]:
    """Names of all parts of the set that a file's name is of; that name alone for any other."""
    match = _part_of(name)
    if match is None:
        return (name,)
    stem, count, suffix = match[1], int(match[3]), match[4]
    return tuple(f"{stem}-{number + 1:05d}-of-{count:05d}{suffix}" for number in range(count))


def part_number(name: str) -> tuple[int, int] | None:
    """What a part's name says: its number, from 1, and how many there are."""
    match = _part_of(name)
    return (int(match[2]), int(match[3])) if match else None


def whole_name(name: str) -> str:
    """A file's name without .gguf and without what says which part it is."""
    match = _part_of(name)
    return match[1] if match else re.sub(r"\.gguf$", "", name, flags=re.IGNORECASE)


def models_among(names: Iterable[str]) -> list[list[str]]:
    """The GGUF models among a folder's files, each as its parts that are there, in order."""
    models: dict[tuple[str, ...], list[str]] = {}
    for name in sorted(names):
        if name.lower().endswith(".gguf"):
            match = _part_of(name)
            models.setdefault((match[1], match[3]) if match else (name,), []).append(name)
    return list(models.values())

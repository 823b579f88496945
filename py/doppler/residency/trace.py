"""Traces: which experts each layer of each token used, as JSON lines.

The first line says of what, then comes a line for each token, in the order of time:

    {"trace": "experts", "version": 1, "model": "m", "layers": 2, "experts": 8, "used": 2}
    {"used": [[3, 1], [0, 7]], "predicted": [[3, 2], [0, 7]]}

A layer without a mixture has an empty list in every token. `predicted`, which all tokens have or
none, is what was foretold of each layer before its router ran; it may be of any length. The first
line may say how large things are, too: `"units": [4096, 4096]`, bytes of an expert by layer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from doppler.errors import FormatError, SourceError, UnsupportedError

VERSION = 1
MOST_LAYERS, MOST_EXPERTS = 4096, 65536  # a damaged count must not fill the memory
MOST_SHOWN = 80  # characters of a damaged value in a message

Layers = tuple[tuple[int, ...], ...]  # of one token: the experts of each layer


@dataclass(frozen=True)
class Trace:
    """Tokens of one model in their order. `predicted` is empty, or has as many; `units`, the bytes
    of an expert by layer, is empty where they are not known.
    """

    model: str
    layers: int
    experts: int
    used: int
    tokens: tuple[Layers, ...]
    predicted: tuple[Layers, ...] = ()
    units: tuple[int, ...] = ()


def header_line(trace: Trace) -> str:
    """The first line, without its end."""
    head: dict[str, Any] = {"trace": "experts", "version": VERSION, "model": trace.model}
    head |= {"layers": trace.layers, "experts": trace.experts, "used": trace.used}
    return json.dumps(head | ({"units": trace.units} if trace.units else {}))


def token_line(used: Sequence[Sequence[int]], predicted: Sequence[Sequence[int]] = ()) -> str:
    """The line of one token, without its end: whoever runs a model writes it as it goes."""
    data = {"used": used, "predicted": predicted} if predicted else {"used": used}
    return json.dumps(data, separators=(",", ":"))


def write(trace: Trace, path: Path) -> None:
    """The trace as a file. Raises SourceError where it cannot be written."""
    try:
        with path.open("w", encoding="utf-8") as file:
            file.write(header_line(trace) + "\n")
            for number, used in enumerate(trace.tokens):
                predicted = trace.predicted[number] if trace.predicted else ()
                file.write(token_line(used, predicted) + "\n")
    except OSError as error:
        raise SourceError(f"{path} cannot be written: {error.strerror}") from error


def read(path: Path) -> Trace:
    """The trace of a file. Raises SourceError, and what `parse` does."""
    try:
        return parse(path.read_text(encoding="utf-8"), path.name)
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: a trace is UTF-8, and byte {error.start} is not") from error


def parse(text: str, name: str) -> Trace:
    """A trace by its text; `name` is what messages call it.

    Raises FormatError where it is none, and UnsupportedError for a version that is not known.
    """
    lines = _objects(text, name)
    _, head = next(lines, (0, {}))
    if head.get("trace") != "experts":
        raise FormatError(f"{name} line 1: this is no trace of experts")
    if head.get("version") != VERSION:
        version = _shown(head.get("version"))
        raise UnsupportedError(f"{name}: version {version} of traces is not known, {VERSION} is")
    layers = _count(head, "layers", MOST_LAYERS, name)
    experts = _count(head, "experts", MOST_EXPERTS, name)
    used = _count(head, "used", experts, name)
    tokens: list[Layers] = []
    predicted: list[Layers] = []
    for where, data in lines:
        tokens.append(_layers(data.get("used"), layers, experts, f"{where}: used"))
        _need_same(tokens, used, where)
        if "predicted" in data:
            predicted.append(_layers(data["predicted"], layers, experts, f"{where}: predicted"))
        if predicted and len(predicted) != len(tokens):
            raise FormatError(f"{where}: either all tokens have what was predicted or none has")
    if not tokens:
        raise FormatError(f"{name}: the trace has no tokens")
    model, units = str(head.get("model", "")), _units(head, layers, name)
    return Trace(model, layers, experts, used, tuple(tokens), tuple(predicted), units)


def _objects(text: str, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each line that is not empty, and where it is."""
    for number, line in enumerate(text.splitlines(), 1):
        where = f"{name} line {number}"
        if not line.strip():
            continue
        try:
            data = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise FormatError(f"{where}: not JSON: {_shown(line)}") from error
        if not isinstance(data, dict):
            raise FormatError(f"{where}: an object is wanted, not {_shown(data)}")
        yield where, data


def _count(head: dict[str, Any], key: str, most: int, name: str) -> int:
    value = head.get(key)
    if type(value) is not int or not 1 <= value <= most:
        raise FormatError(f"{name} line 1: {key} is {_shown(value)}, not a number from 1 to {most}")
    return value


def _units(head: dict[str, Any], layers: int, name: str) -> tuple[int, ...]:
    """Bytes of an expert by layer; nothing where they are not said."""
    found = head.get("units", [])
    if (
        not isinstance(found, list)
        or len(found) not in (0, layers)
        or not all(type(size) is int and size >= 0 for size in found)
    ):
        raise FormatError(f"{name} line 1: units is {_shown(found)}, not {layers} numbers of bytes")
    return tuple(found)


def _layers(value: Any, layers: int, experts: int, where: str) -> Layers:
    if not isinstance(value, list) or len(value) != layers:
        raise FormatError(f"{where} is not a list of {layers} layers: {_shown(value)}")
    for number, chosen in enumerate(value):
        if (
            not isinstance(chosen, list)
            or not all(type(it) is int and 0 <= it < experts for it in chosen)
            or len(set(chosen)) != len(chosen)
        ):
            raise FormatError(
                f"{where}, layer {number}: different experts from 0 to {experts - 1} are wanted, "
                f"not {_shown(chosen)}"
            )
    return tuple(map(tuple, value))


def _need_same(tokens: Sequence[Layers], used: int, where: str) -> None:
    """Every layer uses as many as the model says, or none in any token."""
    for number, (chosen, first) in enumerate(zip(tokens[-1], tokens[0], strict=True)):
        if len(chosen) not in (0, used) or len(chosen) != len(first):
            raise FormatError(
                f"{where}, layer {number}: {len(chosen)} experts used; a layer has {used} in every "
                "token, or none where it has no mixture"
            )


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= MOST_SHOWN else text[:MOST_SHOWN] + "…"

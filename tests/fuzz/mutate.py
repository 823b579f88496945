"""Changes to bytes, to JSON and to GGUF metadata, such as damage and malice make them."""

from __future__ import annotations

import copy
import json
import struct
from random import Random
from typing import Any

INTEGERS = [
    0,
    1,
    -1,
    2,
    3,
    7,
    255,
    256,
    2**15,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**53,
    2**63,
    2**64 - 1,
]
TEXTS = [
    "",
    "a",
    "llama",
    "\ud800",
    "a\nb",
    "\u202e",
    "\x00",
    "x" * 5000,
    "1",
    "none",
    "yarn",
    "é" * 99,
]
# Stands for lists in lists, which Python's own JSON does not write so deep.
DEEP = {f"{levels} deep": "[" * levels + "]" * levels for levels in (3, 50, 2000, 100_000)}
NUMBERS = [0.0, -0.0, 0.5, -1.5, 1e-320, 1e30, 1e308, float("inf"), float("-inf"), float("nan")]


def bytes_of(rng: Random, data: bytes) -> bytes:
    """Some bytes flipped, overwritten with an extreme number, cut out, doubled or cut off."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        at = rng.randrange(len(out) + 1)
        match rng.randrange(6):
            case 0 if out:
                out[at % len(out)] = rng.randrange(256)
            case 1 if out:
                out[at % len(out)] ^= 1 << rng.randrange(8)
            case 2:
                form, size = rng.choice((("<I", 4), ("<Q", 8)))
                number = rng.choice(INTEGERS) % (1 << 8 * size)
                out[at : at + size] = struct.pack(form, number)
            case 3:
                del out[at : at + rng.choice((1, 4, 8, 100))]
            case 4:
                out[at:at] = out[at : at + rng.choice((1, 4, 8, 100))]
            case 5 if rng.randrange(4) == 0:
                del out[at:]
    return bytes(out)


def value(rng: Random) -> Any:
    """A JSON value of any kind, often an extreme one."""
    kinds = [
        lambda: None,
        lambda: rng.random() < 0.5,
        lambda: rng.choice(INTEGERS),
        lambda: rng.choice(NUMBERS),
        lambda: rng.choice(TEXTS),
        lambda: 10 ** rng.choice((20, 40, 400, 4000)),
        lambda: [],
        lambda: {},
        lambda: [rng.choice(INTEGERS) for _ in range(rng.choice((1, 2, 100)))],
        lambda: {rng.choice(TEXTS): rng.choice(INTEGERS)},
        lambda: rng.choice(list(DEEP)),
    ]
    return rng.choice(kinds)()


def tree(rng: Random, data: Any) -> Any:
    """JSON with a few values of it replaced, removed, renamed, doubled or swapped."""
    data = copy.deepcopy(data)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        places = _places(data)
        if not places:
            return value(rng)
        holder, key = rng.choice(places)
        match rng.randrange(7):
            case 0 | 1 | 2:
                holder[key] = value(rng)
            case 3:
                del holder[key]
            case 4:
                holder[key] = _nudged(rng, holder[key])
            case 5:
                other, at = rng.choice(places)
                holder[key] = copy.deepcopy(other[at]) if key in _keys(holder) else None
            case 6 if isinstance(holder, dict):
                holder[rng.choice(TEXTS)] = holder.pop(key)
            case 6:
                holder.insert(key, copy.deepcopy(holder[key]))
    return data


def text_of(rng: Random, data: Any) -> bytes:
    """Mutated JSON as bytes, whose text is damaged now and then as well."""
    text = json.dumps(tree(rng, data)).encode()
    for name, lists in DEEP.items():
        text = text.replace(json.dumps(name).encode(), lists.encode())
    return bytes_of(rng, text) if rng.randrange(8) == 0 else text


def _keys(holder: Any) -> Any:
    return holder if isinstance(holder, dict) else range(len(holder))


def _places(data: Any, most: int = 4000) -> list[tuple[Any, Any]]:
    """Every value's holder and key, the first so many of long lists and tables."""
    found: list[tuple[Any, Any]] = []
    queue = [data]
    while queue and len(found) < most:
        holder = queue.pop()
        if isinstance(holder, (dict, list)):
            for key in list(_keys(holder))[:64]:
                found.append((holder, key))
                queue.append(holder[key])
    return found


def _nudged(rng: Random, found: Any) -> Any:
    """A little more or less of the same kind."""
    if isinstance(found, bool) or found is None:
        return not found
    if isinstance(found, (int, float)):
        return rng.choice((found + 1, found - 1, -found, found * 2, found * 1000, found // 2))
    if isinstance(found, str):
        return rng.choice((found[:-1], found + found, found.upper(), [found]))
    if isinstance(found, list):
        return rng.choice((found[:-1], found + found, found[::-1], {"0": found}))
    return [list(item) for item in found.items()]

"""A case: files as a stranger could give them. Their tails of zeros are not held in memory."""

from __future__ import annotations

import base64
import json
import zlib
from dataclasses import dataclass, field
from pathlib import Path

from doppler.errors import SourceError

CORPUS = Path(__file__).parent / "corpus"
Case = dict[str, "File"]


@dataclass
class File:
    """A file that begins with `head` and has zeros up to `length` bytes."""

    name: str
    head: bytes = field(repr=False)
    length: int

    async def size(self) -> int:
        return self.length

    async def read(self, offset: int, length: int) -> bytes:
        if offset < 0 or length < 0 or offset + length > self.length:
            raise SourceError(f"{self.name}: {length} bytes at {offset} were asked for")
        data = self.head[offset : offset + length]
        return data + bytes(length - len(data))


def whole(name: str, data: bytes) -> File:
    """A file that is given to its end."""
    return File(name, data, len(data))


def total(case: Case) -> int:
    """Bytes of all files."""
    return sum(file.length for file in case.values())


def to_text(case: Case) -> str:
    """A case as the corpus keeps it."""
    kept = {
        name: [base64.b85encode(zlib.compress(file.head, 9)).decode(), file.length]
        for name, file in case.items()
    }
    return json.dumps(kept, indent=1) + "\n"


def from_text(text: str) -> Case:
    """The inverse of `to_text`."""
    return {
        name: File(name, zlib.decompress(base64.b85decode(head)), length)
        for name, (head, length) in json.loads(text).items()
    }

"""Blocks of bytes that Python names and does not look into.

On CPython a block is a bytes-like object; in the page it is a JavaScript Uint8Array, so that
weights never enter the wasm heap. What handles blocks takes a `Buffers` and works in both places.
"""

from __future__ import annotations

import hashlib
from typing import Any, Protocol, TypeAlias

Buffer: TypeAlias = Any  # opaque: bytes, bytearray or memoryview here, a Uint8Array in the page


class Buffers(Protocol):
    """What can be done with blocks. Lengths and positions are in bytes."""

    def empty(self, length: int) -> Buffer:
        """A new block of zeros."""
        ...

    def put(self, target: Buffer, at: int, data: Buffer) -> None:
        """Copies `data` into `target` from position `at` on."""
        ...

    def part(self, data: Buffer, start: int, end: int) -> Buffer:
        """A view of `data[start:end]`, without a copy."""
        ...

    def to_bytes(self, data: Buffer) -> bytes:
        """A copy that Python can read: for headers and JSON, not for weights."""
        ...

    def from_bytes(self, data: bytes) -> Buffer:
        """The block that holds these bytes."""
        ...

    def length(self, data: Buffer) -> int:
        """Bytes in the block."""
        ...

    def blake3(self, data: Buffer) -> str:
        """BLAKE3 in hexadecimal."""
        ...

    async def sha256(self, data: Buffer) -> str:
        """SHA-256 in hexadecimal; asynchronous, as WebCrypto's is."""
        ...


class MemoryBuffers:
    """Blocks in Python's own memory, hashed by the packages of CPython."""

    def empty(self, length: int) -> Buffer:
        return bytearray(length)

    def put(self, target: Buffer, at: int, data: Buffer) -> None:
        view = memoryview(target)
        assert at + len(data) <= len(view), "a block is written past its end"
        view[at : at + len(data)] = data

    def part(self, data: Buffer, start: int, end: int) -> Buffer:
        return memoryview(data)[start:end]

    def to_bytes(self, data: Buffer) -> bytes:
        return bytes(data)

    def from_bytes(self, data: bytes) -> Buffer:
        return data

    def length(self, data: Buffer) -> int:
        return len(data)

    def blake3(self, data: Buffer) -> str:
        from blake3 import blake3  # a native package: there is none in the page, which has its own

        return blake3(data).hexdigest()

    async def sha256(self, data: Buffer) -> str:
        return hashlib.sha256(data).hexdigest()

"""BLAKE3 of bytes that Python holds, for a manifest's identity: by the buffers of either place."""

from __future__ import annotations

import sys

from doppler.buffers import Buffers, MemoryBuffers


def blake3_hex(data: bytes) -> str:
    """The 64 hexadecimal digits of BLAKE3."""
    buffers = _buffers()
    return buffers.blake3(buffers.from_bytes(data))


def _buffers() -> Buffers:
    if sys.platform == "emscripten":
        from doppler.page.buffers import PageBuffers

        return PageBuffers()
    return MemoryBuffers()

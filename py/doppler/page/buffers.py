"""Blocks of bytes in the page: JavaScript Uint8Arrays, hashed outside the wasm heap."""

from __future__ import annotations

from typing import cast

import doppler_runtime as runtime
from js import Uint8Array
from pyodide.ffi import to_js

from doppler.inputs.buffers import Buffer


class PageBuffers:
    """`Buffers` over Uint8Array: BLAKE3 by hash-wasm, SHA-256 by WebCrypto."""

    def empty(self, length: int) -> Buffer:
        return Uint8Array.new(length)

    def put(self, target: Buffer, at: int, data: Buffer) -> None:
        target.set(data, at)

    def part(self, data: Buffer, start: int, end: int) -> Buffer:
        return data.subarray(start, end)

    def to_bytes(self, data: Buffer) -> bytes:
        return cast(bytes, data.to_bytes())

    def from_bytes(self, data: bytes) -> Buffer:
        return to_js(data)

    def length(self, data: Buffer) -> int:
        return cast(int, data.length)

    def blake3(self, data: Buffer) -> str:
        return runtime.blake3(data)

    async def sha256(self, data: Buffer) -> str:
        return await runtime.sha256(data)

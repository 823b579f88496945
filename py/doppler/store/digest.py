"""BLAKE3 of bytes that Python holds, for a manifest's identity."""

from __future__ import annotations

import sys


def blake3_hex(data: bytes) -> str:
    """The 64 hexadecimal digits of BLAKE3."""
    if sys.platform == "emscripten":
        import doppler_runtime as runtime  # hash-wasm: Pyodide carries no package for it
        from pyodide.ffi import to_js

        return runtime.blake3(to_js(data))
    from blake3 import blake3

    return blake3(data).hexdigest()

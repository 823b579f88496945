"""Small files, which are read whole: how long each kind may be at most, and reading one.

The limits are some times what the largest models have. Without them a file of gigabytes that calls
itself config.json would be read into memory before anything of it is looked at.
"""

from __future__ import annotations

from doppler.errors import FormatError
from doppler.inputs.buffers import Buffers
from doppler.inputs.source import Source

MIB = 1 << 20
LIMITS = {  # bytes, by the name that such a file has
    "config.json": 8 * MIB,
    "generation_config.json": MIB,
    "tokenizer.json": 128 * MIB,
    "tokenizer_config.json": 16 * MIB,
    "chat_template.jinja": 4 * MIB,
    "model.safetensors.index.json": 64 * MIB,
    "manifest.json": 128 * MIB,
    "adapter_config.json": 8 * MIB,
    "adapter.json": 64 * MIB,
    "origin.json": 16 * MIB,
    "import.json": MIB,
    "list of files": 16 * MIB,  # a page of what a hub says of a repository
}


async def read_small(source: Source, kind: str, buffers: Buffers) -> bytes:
    """A whole file of a kind of LIMITS. Raises FormatError where it is longer than those are."""
    size = await source.size()
    if size > LIMITS[kind]:
        raise too_long(source.name, kind, size)
    return buffers.to_bytes(await source.read(0, size))


def too_long(where: str, kind: str, size: int | None = None) -> FormatError:
    """The error of a file that is longer than its kind; `size` is None where it was not told."""
    told = "goes on after" if size is None else f"has {size:,} bytes, more than the"
    return FormatError(
        f"{where} {told} {LIMITS[kind]:,} bytes that a {kind} may have at most; it is damaged or "
        "something else under that name: get it again"
    )

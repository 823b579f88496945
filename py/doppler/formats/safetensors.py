"""Safetensors: the header of one file or of a checkpoint cut into several.

Layout: the length of the header as u64, the header (JSON: name -> dtype, shape, data_offsets from
the header's end), then the data. A cut checkpoint has an index that maps names to files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from doppler.buffers import Buffers
from doppler.errors import FormatError, UnsupportedError
from doppler.formats.blocks import BYTES, BlockType, block_type
from doppler.formats.content import Content
from doppler.formats.fields import parse_json
from doppler.small import read_small
from doppler.source import Source

INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"

_LARGEST_HEADER = 100_000_000  # what the format itself allows
_KINDS = ("F32", "F16", "BF16")
_PARTS = ("_blocks", "_scales")  # of MXFP4 weights, the bytes of which lie apart


@dataclass(frozen=True)
class SafeTensor:
    """`offset` is from the start of `source`; `kind` is the dtype as the file writes it."""

    name: str
    kind: str
    shape: tuple[int, ...]
    source: Source
    offset: int
    bytes: int

    @property
    def is_part(self) -> bool:
        """Whether it is bytes of weights that have others in another tensor."""
        return self.kind == "U8" and self.name.endswith(_PARTS)

    @property
    def content(self) -> Content:
        """Where its bytes are. UnsupportedError for a dtype that Doppler does not know."""
        return Content(self.name, self.type, self.shape, self.source, self.offset)

    @property
    def type(self) -> BlockType:
        """UnsupportedError for a dtype that Doppler does not know."""
        if self.is_part:
            return BYTES
        if self.kind not in _KINDS:
            raise UnsupportedError(
                f"{self.source.name}: tensor {self.name!r} is of type {self.kind}, "
                f"not one of {', '.join(_KINDS)}"
            )
        return block_type(self.kind)


async def read_checkpoint(files: Mapping[str, Source], buffers: Buffers) -> dict[str, SafeTensor]:
    """All tensors by name of a folder's files. Raises FormatError where one is missing."""
    if INDEX_FILE in files:
        return await _read_indexed(files, buffers)
    if SINGLE_FILE in files:
        return await read_safetensors(files[SINGLE_FILE], buffers)
    raise FormatError(
        f"the folder has neither {SINGLE_FILE} nor {INDEX_FILE}; it is no safetensors checkpoint"
    )


async def _read_indexed(files: Mapping[str, Source], buffers: Buffers) -> dict[str, SafeTensor]:
    where = files[INDEX_FILE].name
    places = (await read_json(files[INDEX_FILE], INDEX_FILE, buffers)).get("weight_map")
    if not isinstance(places, dict):
        raise FormatError(f"{where} has no weight_map")
    tensors: dict[str, SafeTensor] = {}
    for name in sorted(set(map(str, places.values()))):
        if name not in files:
            raise FormatError(f"{where} names the file {name!r}, which is missing: fetch it too")
        tensors |= await read_safetensors(files[name], buffers)
    for tensor, name in places.items():
        if tensor not in tensors:
            raise FormatError(f"{where}: tensor {tensor!r} should be in {name!r} and is not")
    return tensors


async def read_safetensors(source: Source, buffers: Buffers) -> dict[str, SafeTensor]:
    """The tensors of one file. Raises FormatError where the header or a range makes no sense."""
    size = await source.size()
    if size < 8:
        raise FormatError(f"{source.name} is not a safetensors file: it has only {size} bytes")
    first = buffers.to_bytes(await source.read(0, 8))
    length = int.from_bytes(first, "little")
    if length > _LARGEST_HEADER:
        raise FormatError(f"{source.name} is not a safetensors file: it begins with {first!r}")
    if 8 + length > size:
        raise FormatError(_truncated(source.name, 8 + length - size))
    header = parse_json(buffers.to_bytes(await source.read(8, length)), source.name)
    header.pop("__metadata__", None)
    start = 8 + length
    tensors = {name: _tensor(name, item, source, start) for name, item in header.items()}
    end = max((tensor.offset + tensor.bytes for tensor in tensors.values()), default=start)
    if end > size:
        raise FormatError(_truncated(source.name, end - size))
    return tensors


def _tensor(name: str, item: Any, source: Source, start: int) -> SafeTensor:
    try:
        kind, shape = item["dtype"], tuple(item["shape"])
        first, end = item["data_offsets"]
        sane = all(type(n) is int and n >= 0 for n in (*shape, first, end)) and first <= end
    except (KeyError, TypeError, ValueError):
        sane = False
    if not sane:
        raise FormatError(f"{source.name}: the header's entry of tensor {name!r} is damaged")
    tensor = SafeTensor(name, kind, shape, source, start + first, end - first)
    is_known = (kind in _KINDS or tensor.is_part) and len(shape) > 0
    if is_known and tensor.bytes != tensor.type.tensor_bytes(shape):
        raise FormatError(
            f"{source.name}: tensor {name!r} of shape {shape} and type {kind} has {tensor.bytes} "
            f"bytes instead of {tensor.type.tensor_bytes(shape)}"
        )
    return tensor


async def read_json(source: Source, kind: str, buffers: Buffers) -> dict[str, Any]:
    """The object in a JSON file of a kind of small.LIMITS. Raises FormatError where it is none."""
    return parse_json(await read_small(source, kind, buffers), source.name)


def _truncated(name: str, missing: int) -> str:
    return f"{name} is truncated: {missing} bytes are missing at its end; download it again"

"""Safetensors: the header of one file or of a checkpoint cut into several.

Layout: the length of the header as u64, the header (JSON: name -> dtype, shape, data_offsets from
the header's end), then the data. A cut checkpoint has an index that maps names to files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from doppler.errors import FormatError, UnsupportedError
from doppler.formats.content import Content, check_apart
from doppler.formats.hf_quantization import quantised_as, what_to_do
from doppler.inputs.buffers import Buffers
from doppler.inputs.fields import LARGEST_SIZE, Fields, parse_json, shown
from doppler.inputs.small import read_small
from doppler.inputs.source import Source
from doppler.quantization.block_types import BYTES, BlockType, block_type

INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"

_LARGEST_HEADER = 100_000_000  # what the format itself allows
_MOST_TENSORS = 1 << 16  # of a file: the largest models, in many files, have not many more
_MOST_QUOTES = 12 * _MOST_TENSORS  # of which each has ten; the rest is for notes
_MOST_EXTENTS = 8
_KINDS = ("F32", "F16", "BF16")
_PARTS = ("_blocks", "_scales")  # of MXFP4 weights, the bytes of which lie apart


@dataclass(frozen=True, slots=True)
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
            told = shown(self.kind)[1:-1]
            kind = "FP8" if self.kind.startswith("F8") else f"a kind stored as {told}"
            raise UnsupportedError(
                f"{self.source.name}: tensor {shown(self.name)} is of type {told}, not one of "
                f"{', '.join(_KINDS)}; {what_to_do(quantised_as(self.name) or kind)}"
            )
        return block_type(self.kind)


async def read_checkpoint(files: Mapping[str, Source], buffers: Buffers) -> dict[str, SafeTensor]:
    """All tensors by name of a folder's files. Raises FormatError where one is missing.

    A whole file is taken as it is, whatever an index beside it says: it may be an older one's.
    """
    if SINGLE_FILE in files:
        return await read_safetensors(files[SINGLE_FILE], buffers)
    if INDEX_FILE in files:
        return await _read_indexed(files, buffers)
    raise FormatError(
        f"the folder has neither {SINGLE_FILE} nor {INDEX_FILE}; it is no safetensors checkpoint"
    )


async def _read_indexed(files: Mapping[str, Source], buffers: Buffers) -> dict[str, SafeTensor]:
    index = await read_json(files[INDEX_FILE], INDEX_FILE, buffers)
    where = files[INDEX_FILE].name
    places = Fields(index, where).table("weight_map")
    if not len(places):
        raise FormatError(f"{where} has no weight_map; get it again")
    tensors: dict[str, SafeTensor] = {}
    names = {tensor: places.text(tensor) for tensor in places}
    for name in sorted({*names.values()}):
        if name not in files:
            raise FormatError(
                f"{where} names the file {shown(name)}, which is missing: fetch it too"
            )
        for tensor, found in (await read_safetensors(files[name], buffers)).items():
            if tensor in tensors:
                first = tensors[tensor].source.name
                raise FormatError(f"the tensor {shown(tensor)} is in {first} and in {name}")
            tensors[tensor] = found
    for tensor, name in names.items():
        if tensor not in tensors:
            raise FormatError(
                f"{where}: tensor {shown(tensor)} should be in {shown(name)} and is not"
            )
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
    text = buffers.to_bytes(await source.read(8, length))
    if text.count(b"{") > _MOST_TENSORS:  # of which each takes some times its bytes here
        raise FormatError(f"{source.name}: its header has more than {_MOST_TENSORS} tensors")
    if text.count(b'"') > _MOST_QUOTES:
        raise FormatError(f"{source.name}: its header has more than {_MOST_QUOTES // 2} texts")
    header = parse_json(text, source.name)
    header.pop("__metadata__", None)
    fields, start = Fields(header, source.name), 8 + length
    tensors = {name: _tensor(name, fields, source, start) for name in header}
    _check_ranges(source.name, sorted(tensors.values(), key=lambda t: t.offset + t.bytes), size)
    return tensors


def _check_ranges(name: str, tensors: list[SafeTensor], size: int) -> None:
    """Raises FormatError where two share bytes, or the last, in the order of ends, is cut."""
    check_apart(name, tensors)
    if tensors and (end := tensors[-1].offset + tensors[-1].bytes) > size:
        raise FormatError(_truncated(name, end - size))


def _tensor(name: str, fields: Fields, source: Source, start: int) -> SafeTensor:
    entry = fields.table(name)
    kind, shape = entry.text("dtype"), tuple(entry.integers("shape", most=LARGEST_SIZE))
    offsets = entry.integers("data_offsets", most=LARGEST_SIZE)
    if len(offsets) != 2 or offsets[0] > offsets[1] or len(shape) > _MOST_EXTENTS:
        raise FormatError(f"{source.name}: the header's entry of tensor {shown(name)} is damaged")
    first, end = offsets
    tensor = SafeTensor(name, kind, shape, source, start + first, end - first)
    is_known, extents = kind in _KINDS or tensor.is_part, shape or (1,)
    if is_known and tensor.bytes != tensor.type.tensor_bytes(extents):
        raise FormatError(
            f"{source.name}: tensor {shown(name)} of shape {shape} and type {kind} has "
            f"{tensor.bytes} bytes instead of {tensor.type.tensor_bytes(extents)}"
        )
    return tensor


async def read_json(source: Source, kind: str, buffers: Buffers) -> dict[str, Any]:
    """The object in a JSON file of a kind of small.LIMITS. Raises FormatError where it is none."""
    return parse_json(await read_small(source, kind, buffers), source.name)


def _truncated(name: str, missing: int) -> str:
    return f"{name} is truncated: {missing} bytes are missing at its end; download it again"

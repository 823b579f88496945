"""The header of a GGUF file, read from a source as far as it reaches; tensor data stays there.

Layout (little endian): magic, version u32 (2 and 3 are the same), tensor count u64, metadata count
u64; then each metadata entry as key, value type u32, value; then each tensor as name, dimensions
u32, extents u64 (columns first), block type u32, offset u64 into the data, which starts at the next
multiple of the alignment. Strings are a u64 length and UTF-8.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np

from doppler.errors import FormatError, UnsupportedError
from doppler.formats.content import check_apart
from doppler.formats.other_files import what_it_is
from doppler.formats.tensor_names import is_of_other_part
from doppler.inputs.buffers import Buffers
from doppler.inputs.fields import Fields, shown
from doppler.inputs.source import Source
from doppler.quantization.block_types import BY_GGML_ID, OTHER_GGML_TYPES, BlockType

Value: TypeAlias = Any  # int, float, bool, str, list[str], list of lists, or a numeric ndarray
T = TypeVar("T")

_FIRST_READ = 64 << 10
_LARGEST_HEADER = 256 << 20  # the largest vocabularies take some 10 MB
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_SCALARS: dict[int, np.dtype[Any]] = {
    0: np.dtype("<u1"),
    1: np.dtype("<i1"),
    2: np.dtype("<u2"),
    3: np.dtype("<i2"),
    4: np.dtype("<u4"),
    5: np.dtype("<i4"),
    6: np.dtype("<f4"),
    7: np.dtype("?"),
    10: np.dtype("<u8"),
    11: np.dtype("<i8"),
    12: np.dtype("<f8"),
}
_STRING, _ARRAY = 8, 9
_UNREAD = BlockType("unread", -1, 1, 0)  # any that only parts have which see or hear
_DEEPEST_ARRAY = 4
# What takes many times its bytes here, and its time, has bounds far above those of any model.
_MOST_NESTED = 1000  # arrays in arrays of one file: no model needs any
_MOST_ENTRIES = 1 << 16  # of metadata: models have less than a hundred
_MOST_TENSORS = 1 << 17  # the largest models have less than half of it
_MOST_STRINGS = 1 << 21  # in lists: Gemma's tokens and merges are 777,000


@dataclass(frozen=True)
class GgufTensor:
    """`shape` is (rows, columns) or (width,); `offset` is from the start of the source."""

    name: str
    type: BlockType
    shape: tuple[int, ...]
    source: Source
    offset: int
    bytes: int


@dataclass(frozen=True)
class Gguf:
    """A file's header: metadata by key and tensors by name."""

    name: str
    metadata: dict[str, Value]
    tensors: dict[str, GgufTensor]


async def read_gguf(source: Source, buffers: Buffers) -> Gguf:
    """Reads and checks the header. Raises FormatError, UnsupportedError or SourceError."""
    size = await source.size()
    header = _Header(source, buffers, size)
    tensor_count, entry_count = await header.parse(_Cursor.preamble)
    header.check_count(tensor_count, 24, _MOST_TENSORS, "tensors")
    header.check_count(entry_count, 13, _MOST_ENTRIES, "metadata entries")
    metadata: dict[str, Value] = {}
    for _ in range(entry_count):
        key, value = await header.parse(_Cursor.entry)
        if key in metadata:
            raise FormatError(f"{source.name}: the metadata key {shown(key)} appears twice")
        metadata[key] = value
    records = [await header.parse(_Cursor.tensor) for _ in range(tensor_count)]
    alignment = _alignment(source.name, metadata)
    start = -(-header.position // alignment) * alignment
    tensors = _tensors(source, records, start, alignment, size)
    return Gguf(source.name, metadata, tensors)


class _Short(Exception):
    """The header goes on behind the bytes that have been read; `end` is how far, at least."""

    def __init__(self, end: int) -> None:
        self.end = end


class _Header:
    """The file's first bytes, which grow as the parser asks for more."""

    def __init__(self, source: Source, buffers: Buffers, size: int) -> None:
        self._source, self._buffers, self._size = source, buffers, size
        self._data = bytearray()
        self._nested = self._strings = 0
        self.position = 0

    async def parse(self, step: Callable[[_Cursor], T]) -> T:
        """Runs one step of the parser, again from its start whenever bytes were missing."""
        while True:
            cursor = _Cursor(self._source.name, self._data, self.position, self._size)
            cursor.nested, cursor.strings = self._nested, self._strings
            try:
                result = step(cursor)
            except _Short as short:
                await self._grow(short.end)
                continue
            self.position = cursor.position
            self._nested, self._strings = cursor.nested, cursor.strings
            return result

    async def _grow(self, end: int) -> None:
        have = len(self._data)
        if end > self._size:
            raise FormatError(
                f"{self._source.name} is truncated or damaged: its header needs byte {end} and the "
                f"file ends at {self._size}, {end - self._size} bytes earlier; download it again"
            )
        if end > _LARGEST_HEADER:
            raise FormatError(
                f"{self._source.name}: the header is larger than {_LARGEST_HEADER} bytes; "
                "the file is damaged"
            )
        target = min(self._size, max(end, 2 * have, _FIRST_READ))
        data = await self._source.read(have, target - have)
        self._data += self._buffers.to_bytes(data)

    def check_count(self, count: int, least: int, most: int, what: str) -> None:
        """There are at most `most` items, and each takes at least `least` bytes of the file."""
        if count * least > self._size:
            raise FormatError(
                f"{self._source.name}: the header counts {count} {what}, more than the file of "
                f"{self._size} bytes can hold; it is truncated or damaged"
            )
        if count > most:
            raise FormatError(
                f"{self._source.name}: the header counts {count} {what}, more than the {most} that "
                "any model may have; the file is damaged"
            )


class _Cursor:
    """Parses what lies at `position` of the bytes read so far."""

    def __init__(self, name: str, data: bytearray, position: int, size: int) -> None:
        self.name, self.data, self.position, self.size = name, data, position, size
        self.nested = self.strings = 0

    def take(self, length: int) -> bytearray:
        start, end = self.position, self.position + length
        if end > len(self.data):
            raise _Short(end)
        self.position = end
        return self.data[start:end]

    def u32(self) -> int:
        return int(_U32.unpack(self.take(4))[0])

    def u64(self) -> int:
        return int(_U64.unpack(self.take(8))[0])

    def string(self) -> str:
        return self.take(self.u64()).decode("utf-8", "replace")

    def preamble(self) -> tuple[int, int]:
        """Counts of tensors and metadata entries."""
        if self.size < 24 or bytes(self.take(4)) != b"GGUF":
            raise FormatError(what_it_is(self.name, bytes(self.data[:64]), self.size))
        version = self.u32()
        if version not in (2, 3):
            swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
            big = "big-endian " if swapped in (1, 2, 3) else ""
            raise UnsupportedError(
                f"{self.name} is {big}GGUF version {swapped if big else version}; Doppler reads "
                "little-endian versions 2 and 3: convert the model again with a newer llama.cpp"
            )
        return self.u64(), self.u64()

    def entry(self) -> tuple[str, Value]:
        """One metadata key and its value."""
        key = self.string()
        return key, self._value(key, self.u32(), 0)

    def tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        """Name, shape (rows first), block type number, offset into the data."""
        name = self.string()
        dimensions = self.u32()
        if not 1 <= dimensions <= 4:
            told = f"{self.name}: tensor {shown(name)} has {dimensions} dimensions"
            raise FormatError(f"{told}, not 1–4")
        extents = struct.unpack(f"<{dimensions}Q", self.take(8 * dimensions))
        return name, tuple(reversed(extents)), self.u32(), self.u64()

    def _value(self, key: str, kind: int, depth: int) -> Value:
        if kind in _SCALARS:
            dtype = _SCALARS[kind]
            return np.frombuffer(bytes(self.take(dtype.itemsize)), dtype)[0].item()
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY and depth < _DEEPEST_ARRAY:
            return self._array(key, depth)
        raise FormatError(f"{self.name}: metadata {shown(key)} has the unknown value type {kind}")

    def _array(self, key: str, depth: int) -> Value:
        kind, count = self.u32(), self.u64()
        if kind in _SCALARS:
            dtype = _SCALARS[kind]
            return np.frombuffer(bytes(self.take(count * dtype.itemsize)), dtype)
        if self.position + 8 * count > self.size:  # a string or an array takes 8 bytes or more
            raise _Short(self.position + 8 * count)
        if kind == _STRING:
            self.strings += count
            if self.strings > _MOST_STRINGS:
                raise FormatError(f"{self.name}: more than {_MOST_STRINGS} strings lie in lists")
            return self._strings(count)
        self.nested += count if kind == _ARRAY else 0
        if self.nested > _MOST_NESTED:
            raise FormatError(f"{self.name}: more than {_MOST_NESTED} arrays lie in arrays")
        return [self._value(key, kind, depth + 1) for _ in range(count)]

    def _strings(self, count: int) -> list[str]:
        """Vocabularies: one loop over local names, as it runs 262144 times and in wasm too."""
        data, position, available = self.data, self.position, len(self.data)
        length_at = _U64.unpack_from
        strings: list[str] = []
        append = strings.append
        for _ in range(count):
            start = position + 8
            if start > available:
                raise _Short(start)
            position = start + length_at(data, position)[0]
            if position > available:
                raise _Short(position)
            append(data[start:position].decode("utf-8", "replace"))
        self.position = position
        return strings


def _alignment(name: str, metadata: dict[str, Value]) -> int:
    fields = Fields(metadata, name)
    alignment = fields.integer("general.alignment", 32)
    if alignment < 8 or alignment & (alignment - 1):
        raise fields.error("general.alignment", "a power of two from 8 on")
    return alignment


def _tensors(
    source: Source,
    records: list[tuple[str, tuple[int, ...], int, int]],
    start: int,
    alignment: int,
    size: int,
) -> dict[str, GgufTensor]:
    name = source.name
    for tensor, _, kind, _ in records:  # before any other complaint
        if kind not in BY_GGML_ID and not is_of_other_part(tensor):
            raise UnsupportedError(f"{name}: {_unknown(tensor, kind)}")
    tensors: dict[str, GgufTensor] = {}
    for tensor, shape, kind, offset in records:
        if tensor in tensors:
            raise FormatError(f"{name}: the tensor {shown(tensor)} appears twice")
        if offset % alignment:
            raise FormatError(
                f"{name}: tensor {shown(tensor)} lies at {offset}, no multiple of {alignment}"
            )
        tensors[tensor] = _tensor(source, tensor, shape, kind, start + offset)
    _check_ranges(name, sorted(tensors.values(), key=lambda t: t.offset + t.bytes), size)
    return tensors


def _check_ranges(name: str, tensors: list[GgufTensor], size: int) -> None:
    """Raises FormatError where two share bytes, or the last, in the order of ends, is cut."""
    check_apart(name, tensors)
    if tensors and (end := tensors[-1].offset + tensors[-1].bytes) > size:
        raise FormatError(
            f"{name} is truncated: {end - size} bytes are missing at its end "
            f"(tensor {shown(tensors[-1].name)} ends at {end}, the file at {size}); "
            "download it again"
        )


def _unknown(tensor: str, kind: int) -> str:
    """What is said of a block type that Doppler does not read."""
    known = ", ".join(block.name for block in BY_GGML_ID.values())
    called = f" ({OTHER_GGML_TYPES[kind]})" if kind in OTHER_GGML_TYPES else ""
    return (
        f"tensor {shown(tensor)} has block type number {kind}{called}, which Doppler does not "
        f"read; choose a file quantised to one of {known}"
    )


def _tensor(
    source: Source, tensor: str, shape: tuple[int, ...], kind: int, offset: int
) -> GgufTensor:
    name = source.name
    if math.prod(shape) == 0:
        raise FormatError(f"{name}: tensor {shown(tensor)} of shape {shape} is empty")
    block = BY_GGML_ID.get(kind, _UNREAD)
    try:
        length = block.tensor_bytes(shape)
    except FormatError as error:
        raise FormatError(f"{name}: tensor {shown(tensor)}: {error}") from error
    return GgufTensor(tensor, block, shape, source, offset, length)

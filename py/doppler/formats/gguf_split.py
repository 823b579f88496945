"""Split GGUF: the parts NAME-00001-of-0000N.gguf -> one header.

As llama.cpp's gguf-split writes them, every part is a GGUF file of its own, with split.no (from 0),
split.count and split.tensors.count (tensors of all parts together). The first has the model's
metadata, and may have no tensors; what else stands in the others' metadata is not needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice, pairwise

from doppler.errors import FormatError
from doppler.formats.gguf import Gguf, GgufTensor, read_gguf
from doppler.formats.parts import part_names, part_number, whole_name
from doppler.inputs.buffers import Buffers
from doppler.inputs.fields import Fields, shown
from doppler.inputs.source import Source

_MOST = 99_999  # parts, which have five digits in their names
_NAMED = 3  # missing parts that a message names, at most
_ALL = "put all parts into one folder, or choose all of them at once in the page"


@dataclass(frozen=True)
class _Part:
    """One file's header, and which part it says that it is: `number` counts from 1."""

    header: Gguf
    number: int
    count: int
    tensors: int  # of all parts together

    @property
    def name(self) -> str:
        return self.header.name

    def __str__(self) -> str:
        return f"part {self.number} of {self.count}" if self.count > 1 else "a model of its own"


async def read_model(sources: Sequence[Source], buffers: Buffers) -> Gguf:
    """The header of one file, or of all parts of a set in any order.

    Raises what read_gguf raises, and FormatError where the files are not all parts of one model.
    """
    parts: list[_Part] = []
    for source in sources:
        parts.append(_part(await read_gguf(source, buffers)))
        if len(parts) > parts[0].count:  # too many, and a name may claim any number
            break
    parts.sort(key=lambda part: part.number)
    first = parts[0]
    for before, part in pairwise(parts):
        _check_pair(before, part)
    if len(parts) != first.count:
        raise FormatError(f"{_missing(parts)}; {_ALL}")
    tensors = _together(parts)
    if first.count > 1 and len(tensors) != first.tensors:
        raise FormatError(
            f"{first.name}: its split.tensors.count is {first.tensors}, and the {first.count} "
            f"parts have {len(tensors)} tensors together; get all parts again from one place"
        )
    return Gguf(first.name, first.header.metadata, tensors)


def _part(header: Gguf) -> _Part:
    """Raises FormatError where the header contradicts itself or the file's name."""
    fields = Fields(header.metadata, header.name)
    number, count = fields.integer("split.no", 0), fields.integer("split.count", 0, most=_MOST)
    tensors = fields.integer("split.tensors.count", 0)
    if count in (0, 1):  # files that were merged again count 0
        number, count = 0, 1
    if not 0 <= number < count:
        raise FormatError(
            f"{header.name}: split.no is {number} and split.count {count}; the file is damaged"
        )
    part = _Part(header, number + 1, count, tensors)
    named = part_number(part.name)
    if named not in (None, (part.number, part.count)):
        raise FormatError(
            f"{part.name} is {part}, as its header says, and not what its name says: it was "
            "renamed; get it again"
        )
    return part


def _check_pair(before: _Part, part: _Part) -> None:
    """Raises FormatError where two parts, in order, cannot be of one set."""
    if part.count != before.count:
        why = f"one is {before}, the other {part}"
    elif _differently_named(before.name, part.name):
        why = "their names differ in more than the number"
    elif part.number == before.number:
        why = f"each is {part}"
    elif part.tensors != before.tensors:
        why = f"split.tensors.count is {before.tensors} in one and {part.tensors} in the other"
    else:
        return
    raise FormatError(
        f"{before.name} and {part.name} are not parts of one model: {why}; give the parts of one "
        "model only"
    )


def _differently_named(one: str, other: str) -> bool:
    """Whether both are named as parts, and not of one set. Renamed files may be called anything."""
    named = part_number(one) is not None and part_number(other) is not None
    return named and whole_name(one) != whole_name(other)


def _missing(parts: list[_Part]) -> str:
    """Which parts are not there, by name where one of the others' names tells it."""
    first = parts[0]
    there = {part.number for part in parts}
    named = next((part.name for part in parts if part_number(part.name)), None)
    names = part_names(named) if named else None
    lacking = (number for number in range(1, first.count + 1) if number not in there)
    told = [
        f"{number} ({names[number - 1]})" if names else str(number)
        for number in islice(lacking, _NAMED)
    ]
    others = first.count - len(there) - len(told)
    more = f" and {others} more" if others else ""
    return f"{first.name} is {first}, and part {', '.join(told)}{more} is missing"


def _together(parts: list[_Part]) -> dict[str, GgufTensor]:
    """The tensors of all parts by name, each with the file that has it."""
    tensors: dict[str, GgufTensor] = {}
    for part in parts:
        for name, tensor in part.header.tensors.items():
            if name in tensors:
                first = tensors[name].source.name
                raise FormatError(
                    f"the tensor {shown(name)} is in {first} and in {part.name}; get all parts "
                    "again from one place"
                )
            tensors[name] = tensor
    return tensors

"""Stacked experts that PEFT adapts as parameters (target_parameters), as pairs of each expert.

All experts of a parameter have one A [experts · rank, columns], an expert's rows together, and one
B [rows, rank · experts], of which an expert has every `experts`-th column. Earlier versions of PEFT
took a parameter [experts, rows, columns] the other way round: then A and B are of its transpose.
Which parameter of a module it is, and which way round, follows from the shapes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from doppler.adapters.lora_config import LoraConfig
from doppler.adapters.mapping import Pair
from doppler.adapters.matrix import TYPES, Bits, check_type
from doppler.config.layer import EXPERT_PARTS
from doppler.config.model import ModelConfig
from doppler.errors import FormatError
from doppler.formats.architecture import Architecture
from doppler.formats.content import Computed, Content, Latest
from doppler.formats.tensor_names import weight_of_module
from doppler.inputs.buffers import Buffers
from doppler.inputs.fields import shown

_PARAMETERS = {"gate_up_proj": EXPERT_PARTS[:2], "down_proj": EXPERT_PARTS[2:]}


@dataclass(frozen=True)
class _Stack:
    """A parameter of all experts, each of which is [rows, columns] of `members` in this layout."""

    path: str
    prefix: str  # of names here: blk.3
    members: tuple[str, ...]
    has_columns_first: bool
    rows: int
    columns: int

    def has(self, shape: tuple[int, int]) -> list[bool]:
        """Whether A and B of that many rows and columns are of it (False), of its transpose."""
        plain, turned = (self.rows, self.columns), (self.columns, self.rows)
        ways = [False] * (shape == plain)
        return ways + [True] * (shape == turned and not self.has_columns_first)


def stacked_pairs(
    config: LoraConfig,
    base: ModelConfig,
    architecture: Architecture,
    sides: tuple[str, Content, Content],
    buffers: Buffers,
) -> list[Pair]:
    """Those of a module's name, A and B; none where the config names no parameter of it."""
    module, a, b = sides
    stacks = _stacks(config, base, architecture, module)
    if not stacks or base.experts is None:
        return []
    count = base.experts.count
    for content in (a, b):
        check_type(content)
        if len(content.shape) != 2:
            raise FormatError(f"{content.source.name}: {shown(content.name)} is no matrix")
    shape = b.shape[0], a.shape[1]
    found = [(stack, turned) for stack in stacks for turned in stack.has(shape)]
    if len(found) != 1:
        told = "could be of several" if found else "is of none"
        raise FormatError(
            f"{a.source.name}: {shown(module)} with an A of {shape[1]} columns and a B of "
            f"{shape[0]} rows {told} of the base's parameters that {config.where} names"
        )
    ((stack, turned),) = found
    rank = config.rank_of(stack.path)
    if a.shape[0] != rank * count or b.shape[1] != rank * count:
        raise FormatError(
            f"{a.source.name}: {shown(module)} has an A of shape {a.shape} and a B of shape "
            f"{b.shape}; {config.where} says that its rank is {rank}, of each of {count} experts"
        )
    scale, take = config.scale_of(stack.path), partial(_taken, latest=Latest(), buffers=buffers)
    pairs = []
    for expert in range(count):
        own_a = take(a, (slice(expert * rank, (expert + 1) * rank), slice(None)))
        own_b = take(b, (slice(None), slice(expert, None, count)))
        if turned:
            own_a, own_b = take(own_b, None), take(own_a, None)
        for number, member in enumerate(stack.members):
            part = take(own_b, (_rows(stack, number), slice(None)))
            name = f"{stack.prefix}.{member}.{expert}.weight"
            pairs.append(Pair(name, f"{stack.path} of expert {expert}", own_a, part, scale))
    return pairs


def _stacks(
    config: LoraConfig, base: ModelConfig, architecture: Architecture, module: str
) -> list[_Stack]:
    stacks = []
    for parameter, members in _PARAMETERS.items():
        path = f"{module}.{parameter}"
        name = weight_of_module(architecture, path)
        if name is None or not config.is_parameter(path):
            continue
        prefix, _, own = name.removesuffix(".weight").rpartition(".")
        is_down = own.startswith("ffn_down")
        rows = base.hidden if is_down else base.ffn * len(members)
        columns = base.ffn if is_down else base.hidden
        stacks.append(_Stack(path, prefix, members, own.endswith("_columns"), rows, columns))
    return stacks


def _rows(stack: _Stack, number: int) -> slice:
    """Those of one of its members: in turn, or one below another."""
    count = len(stack.members)
    if stack.has_columns_first:
        return slice(number, None, count)
    each = stack.rows // count
    return slice(number * each, (number + 1) * each)


def _taken(
    content: Content, at: tuple[slice, slice] | None, latest: Latest, buffers: Buffers
) -> Content:
    """Rows and columns of a matrix; None: its transpose."""

    def take(bits: Bits) -> Bits:
        return bits.T if at is None else bits[at]

    kind = TYPES[content.type.name]
    # An array of no bytes has the shape that is made.
    shape = take(np.broadcast_to(np.zeros((), kind), content.shape)).shape

    async def make() -> bytes:
        data = buffers.to_bytes(await content.source.read(content.offset, content.bytes))
        return np.ascontiguousarray(
            take(np.frombuffer(data, kind).reshape(content.shape))
        ).tobytes()

    length = content.type.tensor_bytes(shape)
    source = Computed(content.source.name, length, make, latest, buffers)
    return replace(content, shape=shape, source=source, offset=0)

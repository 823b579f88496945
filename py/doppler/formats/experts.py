"""Tensors of all experts of a layer -> one of each expert, as files of every kind stack them.

By their names here (PART in EXPERT_PARTS, `e` experts, `f` wide, of `h` hidden):
  PART_exps.weight           [e, f, h], or [e, h, f] of ffn_down: GGUF; with .bias [e, f] or [e, h]
  ffn_gate_up_exps.weight    [e, 2f, h], gates first: transformers 5, Mixtral and Qwen
  ffn_gate_up_columns.weight [e, h, 2f], gate and up in turn: transformers, GPT-OSS; .bias [e, 2f]
  ffn_down_columns.weight    [e, f, h]; .bias [e, h]
  *_columns.blocks, .scales  the two transposed and in MXFP4: [e, rows, columns / 32, 16] bytes, of
                             which low nibbles come first, and [e, rows, columns / 32] exponents
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from doppler.config.layer import EXPERT_PARTS
from doppler.config.model import ModelConfig
from doppler.errors import FormatError
from doppler.formats.content import Computed, Content, Latest
from doppler.inputs.buffers import Buffers
from doppler.inputs.fields import shown
from doppler.quantization.block_types import BlockType, block_type

_STACKED = re.compile(r"blk\.([0-9]+)\.(ffn_\w+)_(exps|columns)\.(weight|bias|blocks|scales)")
_PAIR = "ffn_gate_up"

Array = npt.NDArray[np.generic]


def split_experts(
    config: ModelConfig, tensors: Mapping[str, Content], buffers: Buffers
) -> dict[str, Content]:
    """All tensors by name, those of experts apart: for blk.0.ffn_gate_exps.weight there are
    blk.0.ffn_gate.0.weight and so on. What a model without experts has stays as it is.

    Raises FormatError where a stacked tensor's shape is not the config's.
    """
    if config.experts is None:
        return dict(tensors)
    splitter, found = _Splitter(config, tensors, buffers), dict[str, Content]()
    for name, content in tensors.items():
        match = _STACKED.fullmatch(name)
        if match is None:
            found[name] = content
        else:
            layer, part, layout, kind = match.groups()
            found |= splitter.split(layer, part, layout, kind, content)
    return found


class _Splitter:
    def __init__(
        self, config: ModelConfig, tensors: Mapping[str, Content], buffers: Buffers
    ) -> None:
        assert config.experts is not None
        self._count, self._ffn, self._hidden = config.experts.count, config.ffn, config.hidden
        self._named = {content.name: content for content in tensors.values()}  # as in the file
        self._buffers, self._latest = buffers, Latest()

    def split(
        self, layer: str, part: str, layout: str, kind: str, content: Content
    ) -> dict[str, Content]:
        """The tensors of each expert that are in a stacked one, by name."""
        _need_shape(content, self._shape(part, layout, kind))
        if kind == "scales":
            return {}  # taken with their blocks
        suffix = "bias" if kind == "bias" else "weight"
        made: dict[str, Content] = {}
        for number, member in enumerate(_members(part)):
            for expert in range(self._count):
                one = self._expert(part, layout, kind, content, expert, number)
                made[f"blk.{layer}.{member}.{expert}.{suffix}"] = one
        return made

    def _rows(self, part: str) -> int:
        return self._hidden if part == "ffn_down" else self._ffn * len(_members(part))

    def _columns(self, part: str) -> int:
        return self._ffn if part == "ffn_down" else self._hidden

    def _shape(self, part: str, layout: str, kind: str) -> tuple[int, ...]:
        """Of a stacked tensor."""
        rows, columns = self._rows(part), self._columns(part)
        if kind == "bias":
            return self._count, rows
        if kind == "weight":
            both = (columns, rows) if layout == "columns" else (rows, columns)
            return self._count, *both
        return self._count, rows, columns // 32, *((16,) if kind == "blocks" else ())

    def _expert(
        self, part: str, layout: str, kind: str, content: Content, expert: int, number: int
    ) -> Content:
        """Matrix or bias `number` of one expert."""
        members = len(_members(part))
        rows, columns = self._rows(part) // members, self._columns(part)
        shape = (rows,) if kind == "bias" else (rows, columns)
        each = content.bytes // self._count
        if layout == "exps":
            at = content.offset + each * expert + each // members * number
            return replace(content, shape=shape, offset=at)
        own = replace(content, shape=content.shape[1:], offset=content.offset + each * expert)
        if kind == "blocks":
            return self._mxfp4(own, self._scales(content, expert), shape, number, members)

        def pick(raw: Array) -> Array:
            return (raw if kind == "bias" else raw.T)[number::members]

        return self._computed(own, content.type, shape, pick)

    def _scales(self, blocks: Content, expert: int) -> Content:
        """Those of an expert's blocks, which the file has under nearly the same name."""
        name = re.sub("blocks$", "scales", blocks.name)
        scales = self._named.get(name)
        if scales is None:
            raise FormatError(
                f"{blocks.source.name}: tensor {shown(name)} is missing, the scales of "
                f"{shown(blocks.name)}"
            )
        _need_shape(scales, blocks.shape[:-1])
        each = scales.bytes // self._count
        return replace(scales, shape=scales.shape[1:], offset=scales.offset + each * expert)

    def _computed(
        self,
        raw: Content,
        kind: BlockType,
        shape: tuple[int, ...],
        compute: Callable[[Array], Array],
    ) -> Content:
        async def make() -> bytes:
            return np.ascontiguousarray(compute(await self._read(raw))).tobytes()

        return self._made(raw, kind, shape, make)

    def _mxfp4(
        self, blocks: Content, scales: Content, shape: tuple[int, ...], number: int, members: int
    ) -> Content:
        async def make() -> bytes:
            codes, exponents = await self._read(blocks), await self._read(scales)
            return mxfp4_blocks(codes[number::members], exponents[number::members]).tobytes()

        return self._made(blocks, block_type("MXFP4"), shape, make)

    def _made(
        self,
        raw: Content,
        kind: BlockType,
        shape: tuple[int, ...],
        make: Callable[[], Awaitable[bytes]],
    ) -> Content:
        length = kind.tensor_bytes(shape)
        source = Computed(raw.source.name, length, make, self._latest, self._buffers)
        return Content(raw.name, kind, shape, source, 0)

    async def _read(self, content: Content) -> Array:
        """Its elements as unsigned integers of their size."""
        data = self._buffers.to_bytes(await content.source.read(content.offset, content.bytes))
        return np.frombuffer(data, f"<u{content.type.bytes}").reshape(content.shape)


def mxfp4_blocks(codes: Array, exponents: Array) -> npt.NDArray[np.uint8]:
    """GGML's blocks [rows, groups, 17] of transformers' codes [rows, groups, 16], a byte having two
    neighbours, and exponents [rows, groups]. GGML's byte i has elements i and i + 16.
    """
    bytes_ = codes.astype(np.uint8)
    nibbles = np.stack([bytes_ & 15, bytes_ >> np.uint8(4)], axis=-1).reshape(*codes.shape[:-1], 32)
    packed = nibbles[..., :16] | (nibbles[..., 16:] << np.uint8(4))
    return np.concatenate([exponents.astype(np.uint8)[..., None], packed], axis=-1)


def _members(part: str) -> tuple[str, ...]:
    """The matrices of an expert that a stacked tensor holds."""
    return EXPERT_PARTS[:2] if part == _PAIR else (part,)


def _need_shape(content: Content, wanted: tuple[int, ...]) -> None:
    if content.shape != wanted:
        raise FormatError(
            f"{content.source.name}: tensor {shown(content.name)} has shape {content.shape}; the "
            f"config asks for {wanted}, the first number being that of the experts"
        )

"""Tensors, wherever they are -> their ranges of a model's byte space, in the order of use.

Each expert's tensors together are a range of whole blocks, so that it can be fetched, verified and
left out by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from doppler.config.model import ModelConfig
from doppler.errors import FormatError
from doppler.inputs.source import Source
from doppler.quantization.block_types import BlockType
from doppler.store.byte_copies import Piece
from doppler.store.manifest import BLOCK_SIZE, ExpertRange, Manifest, Tensor
from doppler.store.sharded import ALIGNMENT

Place: TypeAlias = tuple[Source, int, BlockType]  # a tensor's bytes: from an offset on

VECTOR_TYPES = ("F32", "F16", "BF16")
LEAST_BLOCK = 64 << 10
BLOCKS_AN_EXPERT = 16  # at least, where blocks can be so small: half of one is lost for each


def lay_out(
    config: ModelConfig, places: Mapping[str, Place], name: str, title: str
) -> tuple[Manifest, tuple[Piece, ...]]:
    """A manifest without tokenizer, blocks and shards; and what lies where in its byte space.

    `places` has every tensor of the config. Raises FormatError for a vector of quantised weights.
    """
    layout = _Layout(config, places)
    for key, shape in config.tensor_shapes().items():
        layout.add(key, shape)
    layout.end()
    manifest = Manifest(
        name=name,
        title=title,
        license=None,
        config=config,
        tokenizer=None,
        tensors=tuple(layout.tensors),
        bytes=layout.at,
        block_size=layout.block_size,
        blocks=(),
        shards=(),
        experts=tuple(layout.experts),
    )
    return manifest, tuple(layout.pieces)


class _Layout:
    """The byte space as it grows."""

    def __init__(self, config: ModelConfig, places: Mapping[str, Place]) -> None:
        self.tensors: list[Tensor] = []
        self.pieces: list[Piece] = []
        self.experts: list[ExpertRange] = []
        self.at = 0
        self._places = places
        self._owners = _owners(config)
        self._owner: tuple[int, int] | None = None  # layer and number of the expert being added
        self.block_size = BLOCK_SIZE
        if config.experts is not None:
            first = next(i for i in range(len(config.layers)) if config.mixture(i))
            self.block_size = self._block_size(config.expert_shapes(first, 0))

    def add(self, name: str, shape: tuple[int, ...]) -> None:
        source, offset, block = self._places[name]
        if len(shape) == 1 and block.name not in VECTOR_TYPES:
            raise FormatError(f"{source.name}: {name!r} is a vector of type {block.name}")
        owner = self._owners.get(name)
        if owner != self._owner:
            self.end()
            self._begin(owner)
        length = block.tensor_bytes(shape)
        self.tensors.append(Tensor(name, block.name, shape, self.at, length))
        self.pieces.append(Piece(source, offset, self.at, length))
        self.at += -(-length // ALIGNMENT) * ALIGNMENT

    def end(self) -> None:
        """What is added next does not belong to the same expert."""
        if self._owner is not None:
            last = self.experts[-1]
            self.at = -(-self.at // self.block_size) * self.block_size
            self.experts[-1] = ExpertRange(*self._owner, last.offset, self.at - last.offset)
        self._owner = None

    def _begin(self, owner: tuple[int, int] | None) -> None:
        self._owner = owner
        if owner is not None:
            self.at = -(-self.at // self.block_size) * self.block_size
            self.experts.append(ExpertRange(*owner, self.at, 0))

    def _block_size(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        """A power of two such that what pads experts to whole blocks is little beside them."""
        size = sum(self._places[name][2].tensor_bytes(shape) for name, shape in shapes.items())
        block = BLOCK_SIZE
        while block > LEAST_BLOCK and block * BLOCKS_AN_EXPERT > size:
            block //= 2
        return block


def _owners(config: ModelConfig) -> dict[str, tuple[int, int]]:
    """Tensors of experts -> layer and number of theirs."""
    return {
        name: (layer, expert)
        for layer in range(len(config.layers))
        for expert in config.expert_numbers(layer)
        for name in config.expert_shapes(layer, expert)
    }

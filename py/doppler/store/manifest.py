"""What a model is: config, tokenizer, tensors as ranges of one byte space, and hashes of its bytes.

The byte space holds the tensors in the order of their use, each at a multiple of 256 bytes with
zeros between. `description` says all that makes the model what it is, and its BLAKE3 is the model's
identity; its name, title, license and the cut into shard files lie beside it.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from doppler.config.model import ModelConfig
from doppler.errors import FormatError
from doppler.inputs.fields import LARGEST_SIZE, Fields, shown
from doppler.quantization.block_types import block_type
from doppler.sampling import ModelSampling
from doppler.store.config_fields import config_of, data_of
from doppler.store.sharded import (
    ALIGNMENT,
    Shard,
    check_blocks,
    check_shards,
    checked_hash,
    identity_of,
    range_of,
    read_sealed,
    shard_of,
)

MANIFEST_FILE = "manifest.json"
TOKENIZER_FILE = "tokenizer.json"
BLOCK_SIZE = 1 << 20
SHARD_SIZE = 16 << 20
VERSION = 1
RECUT_VERSION = 2  # of a manifest whose cut nobody has hashed yet


@dataclass(frozen=True)
class Tensor:
    """A range of the byte space. `shape` is (rows, columns) or (width,), names are GGUF's."""

    name: str
    type: str
    shape: tuple[int, ...]
    offset: int
    bytes: int


@dataclass(frozen=True)
class ExpertRange:
    """All tensors of one expert of a layer: whole blocks of the byte space, from `offset` on."""

    layer: int
    expert: int
    offset: int
    bytes: int


@dataclass(frozen=True)
class TokenizerInfo:
    """`tokenizer.json` beside the manifest, and what it does not say. `eos`: all ids that end."""

    bytes: int
    blake3: str
    bos: int | None
    eos: tuple[int, ...]
    add_bos: bool
    chat_template: str | None


@dataclass(frozen=True)
class Manifest:
    """`bytes` is the length of the byte space, `blocks` the BLAKE3 of each of its blocks.

    sampling: how answers are drawn where nobody says otherwise.
    """

    name: str
    title: str
    license: str | None
    config: ModelConfig
    tokenizer: TokenizerInfo | None
    tensors: tuple[Tensor, ...]
    bytes: int
    block_size: int
    blocks: tuple[str, ...]
    shards: tuple[Shard, ...]
    experts: tuple[ExpertRange, ...] = ()  # by layer and number
    sampling: ModelSampling = field(default_factory=ModelSampling)

    @cached_property
    def identity(self) -> str:
        """BLAKE3 of the canonical JSON of the description."""
        return identity_of(self._description())

    @cached_property
    def _by_name(self) -> dict[str, Tensor]:
        return {tensor.name: tensor for tensor in self.tensors}

    def tensor(self, name: str) -> Tensor:
        """The tensor of that name, which the config asks for."""
        return self._by_name[name]

    @property
    def bytes_by_type(self) -> dict[str, int]:
        """Bytes of the tensors of each block type, the most first."""
        sizes: Counter[str] = Counter()
        for tensor in self.tensors:
            sizes[tensor.type] += tensor.bytes
        return dict(sizes.most_common())

    @property
    def quantization(self) -> str:
        """The block type that most bytes have."""
        return next(iter(self.bytes_by_type))

    @property
    def parameters(self) -> int:
        """Weights in all tensors."""
        return sum(math.prod(tensor.shape) for tensor in self.tensors)

    def to_json(self) -> str:
        """The file's text; `from_json` is its inverse."""
        data = {
            "doppler": VERSION if all(it.is_hashed for it in self.shards) else RECUT_VERSION,
            "identity": self.identity,
            "name": self.name,
            "title": self.title,
            "license": self.license,
            "description": self._description(),
            "shards": [vars(shard) for shard in self.shards],
        }
        return json.dumps(data, ensure_ascii=False, indent=1) + "\n"

    def _description(self) -> dict[str, Any]:
        experts = {"experts": [vars(expert) for expert in self.experts]} if self.experts else {}
        sampling = {"sampling": own} if (own := self.sampling.to_json()) else {}
        return {
            **experts,
            **sampling,
            "config": data_of(self.config),
            "tokenizer": None if self.tokenizer is None else vars(self.tokenizer),
            "tensors": [vars(tensor) for tensor in self.tensors],
            "bytes": self.bytes,
            "block_size": self.block_size,
            "blocks": list(self.blocks),
        }

    @classmethod
    def from_json(cls, text: str, where: str) -> Manifest:
        """Reads and checks everything; FormatError names `where` and what is wrong."""
        return read_sealed(text, where, "a manifest", _parse)


def _parse(fields: Fields) -> Manifest:
    version = fields.integer("doppler")
    if version not in (VERSION, RECUT_VERSION):
        raise FormatError(
            f"manifest version {version} is neither {VERSION} nor {RECUT_VERSION}; update Doppler"
        )
    description = fields.table("description")
    manifest = Manifest(
        name=fields.text("name"),
        title=fields.text("title"),
        license=fields.text("license") if fields.has("license") else None,
        config=config_of(description.table("config")),
        tokenizer=_tokenizer(description),
        tensors=tuple(_tensor(item) for item in description.tables("tensors")),
        bytes=description.integer("bytes", most=LARGEST_SIZE),
        block_size=description.integer("block_size"),
        blocks=tuple(description.texts("blocks")),
        shards=tuple(
            shard_of(item, may_lack_hashes=version == RECUT_VERSION)
            for item in fields.tables("shards")
        ),
        experts=tuple(_expert(item) for item in description.tables("experts")),
        sampling=ModelSampling.read(description.table("sampling")),
    )
    _check(manifest)
    return manifest


def _expert(item: Fields) -> ExpertRange:
    return ExpertRange(item.integer("layer"), item.integer("expert"), *range_of(item))


def _tensor(item: Fields) -> Tensor:
    shape = tuple(item.integers("shape", least=1, most=LARGEST_SIZE))
    if len(shape) not in (1, 2):
        raise item.error("shape", "no more than two numbers")
    return Tensor(item.text("name"), item.text("type"), shape, *range_of(item))


def _tokenizer(description: Fields) -> TokenizerInfo | None:
    if not description.has("tokenizer"):
        return None
    item = description.table("tokenizer")
    return TokenizerInfo(
        bytes=item.integer("bytes", most=LARGEST_SIZE),
        blake3=checked_hash(item.text("blake3"), "the tokenizer's blake3"),
        bos=item.integer("bos") if item.has("bos") else None,
        eos=tuple(item.integers("eos")),
        add_bos=item.flag("add_bos"),
        chat_template=item.text("chat_template") if item.has("chat_template") else None,
    )


def _check(manifest: Manifest) -> None:
    _check_tensors(manifest)
    check_blocks(manifest)
    _check_experts(manifest)
    check_shards(manifest)


def _check_tensors(manifest: Manifest) -> None:
    shapes, wanted = {tensor.name: tensor.shape for tensor in manifest.tensors}, {}
    if len(shapes) != len(manifest.tensors):
        raise FormatError("a tensor is listed twice")
    for name, shape in manifest.config.each_shape():  # ends at the first one that is missing
        if name not in shapes:
            raise FormatError(f"tensor {name!r} is missing")
        wanted[name] = shape
    for name in shapes:
        if name not in wanted:
            raise FormatError(f"tensor {shown(name)} is none that the config asks for")
    end = 0
    for tensor in manifest.tensors:
        if tensor.shape != wanted[tensor.name]:
            raise FormatError(
                f"tensor {tensor.name!r} has shape {tensor.shape}, the config {wanted[tensor.name]}"
            )
        if tensor.bytes != block_type(tensor.type).tensor_bytes(tensor.shape):
            raise FormatError(f"tensor {tensor.name!r} cannot have {tensor.bytes} bytes")
        if tensor.offset % ALIGNMENT or tensor.offset < end:
            raise FormatError(f"tensor {tensor.name!r} cannot lie at {tensor.offset}")
        end = tensor.offset + tensor.bytes
    if end > manifest.bytes or manifest.bytes % ALIGNMENT:
        raise FormatError(f"tensors end at {end}, and the byte space at {manifest.bytes}")


def _check_experts(manifest: Manifest) -> None:
    config, size = manifest.config, manifest.block_size
    layers = range(len(config.layers))
    many = sum(len(config.expert_numbers(layer)) for layer in layers)
    if len(manifest.experts) != many:
        raise FormatError(f"there are ranges of {len(manifest.experts)} experts, not of {many}")
    known = ((layer, expert) for layer in layers for expert in config.expert_numbers(layer))
    for e, own in zip(manifest.experts, known, strict=True):
        if (e.layer, e.expert) != own:
            raise FormatError(f"the ranges of experts are not those of {many}, by layer")
        end = e.offset + e.bytes
        if e.offset < 0 or e.offset % size or e.bytes % size or end > manifest.bytes:
            raise FormatError(
                f"expert {e.expert} of layer {e.layer} is no whole number of blocks at {e.offset}"
            )
        for name in config.expert_shapes(e.layer, e.expert):
            tensor = manifest.tensor(name)
            if tensor.offset < e.offset or tensor.offset + tensor.bytes > end:
                raise FormatError(f"tensor {name!r} lies outside the range of its expert")

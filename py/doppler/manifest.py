"""What a model is: config, tokenizer, tensors as ranges of one byte space, and hashes of its bytes.

The byte space holds the tensors in the order of their use, each at a multiple of 256 bytes with
zeros between. `description` says all that makes the model what it is, and its BLAKE3 is the model's
identity; its name, title, license and the cut into shard files lie beside it.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any, TypeVar

from doppler.config import ModelConfig
from doppler.digest import blake3_hex
from doppler.errors import DopplerError, FormatError
from doppler.formats.blocks import block_type

MANIFEST_FILE = "manifest.json"
TOKENIZER_FILE = "tokenizer.json"
BLOCK_SIZE = 1 << 20
SHARD_SIZE = 16 << 20
ALIGNMENT = 256
VERSION = 1

_HEX = re.compile(r"[0-9a-f]{64}")
_SHARD_NAME = re.compile(r"shard-\d{5,}\.bin")
T = TypeVar("T")


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
class Shard:
    """One file of the cut: `bytes` of the byte space from `offset` on."""

    name: str
    offset: int
    bytes: int
    blake3: str
    sha256: str


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
    """`bytes` is the length of the byte space, `blocks` the BLAKE3 of each of its blocks."""

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

    @cached_property
    def identity(self) -> str:
        """BLAKE3 of the canonical JSON of the description."""
        text = json.dumps(
            self._description(), sort_keys=True, separators=(",", ":"), ensure_ascii=False
        )
        return blake3_hex(text.encode())

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
            "doppler": VERSION,
            "identity": self.identity,
            "name": self.name,
            "title": self.title,
            "license": self.license,
            "description": self._description(),
            "shards": [asdict(shard) for shard in self.shards],
        }
        return json.dumps(data, ensure_ascii=False, indent=1) + "\n"

    def _description(self) -> dict[str, Any]:
        experts = {"experts": [asdict(expert) for expert in self.experts]} if self.experts else {}
        return {
            **experts,
            "config": self.config.to_json(),
            "tokenizer": None if self.tokenizer is None else asdict(self.tokenizer),
            "tensors": [asdict(tensor) for tensor in self.tensors],
            "bytes": self.bytes,
            "block_size": self.block_size,
            "blocks": list(self.blocks),
        }

    @classmethod
    def from_json(cls, text: str, where: str) -> Manifest:
        """Reads and checks everything; FormatError names `where` and what is wrong."""
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise FormatError(f"{where} is not a manifest: {error}") from error
        try:
            manifest = _parse(data)
            _check(manifest)
        except DopplerError as error:
            raise type(error)(f"{where}: {error}") from error
        if manifest.identity != data.get("identity"):
            raise FormatError(
                f"{where}: its identity is {data.get('identity')!r} and its description's hash "
                f"{manifest.identity}; the manifest was changed after it was made"
            )
        return manifest


def _parse(data: Any) -> Manifest:
    if _field(data, "doppler", int) != VERSION:
        raise FormatError(f"manifest version {data['doppler']} is not {VERSION}; update Doppler")
    description = _field(data, "description", dict)
    return Manifest(
        name=_field(data, "name", str),
        title=_field(data, "title", str),
        license=_optional(data, "license", str),
        config=ModelConfig.from_json(_field(description, "config", dict)),
        tokenizer=_tokenizer(_optional(description, "tokenizer", dict)),
        tensors=tuple(_tensor(item) for item in _field(description, "tensors", list)),
        bytes=_field(description, "bytes", int),
        block_size=_field(description, "block_size", int),
        blocks=tuple(_field(description, "blocks", list)),
        shards=tuple(_shard(item) for item in _field(data, "shards", list)),
        experts=tuple(_expert(item) for item in description.get("experts", ())),
    )


def _expert(data: Any) -> ExpertRange:
    return ExpertRange(*(_field(data, field.name, int) for field in fields(ExpertRange)))


def _tensor(data: Any) -> Tensor:
    shape = tuple(_field(data, "shape", list))
    if len(shape) not in (1, 2) or not all(type(n) is int and n > 0 for n in shape):
        raise FormatError(f"the shape {list(shape)} of tensor {data.get('name')!r} is no shape")
    name, kind = _field(data, "name", str), _field(data, "type", str)
    return Tensor(name, kind, shape, _field(data, "offset", int), _field(data, "bytes", int))


def _shard(data: Any) -> Shard:
    return Shard(
        _field(data, "name", str),
        _field(data, "offset", int),
        _field(data, "bytes", int),
        _field(data, "blake3", str),
        _field(data, "sha256", str),
    )


def _tokenizer(data: dict[str, Any] | None) -> TokenizerInfo | None:
    if data is None:
        return None
    eos = tuple(_field(data, "eos", list))
    if not all(type(token) is int for token in eos):
        raise FormatError("the tokenizer's eos is no list of token ids")
    return TokenizerInfo(
        bytes=_field(data, "bytes", int),
        blake3=_hash(_field(data, "blake3", str), "the tokenizer's blake3"),
        bos=_optional(data, "bos", int),
        eos=eos,
        add_bos=_field(data, "add_bos", bool),
        chat_template=_optional(data, "chat_template", str),
    )


def _field(data: Any, key: str, kind: type[T]) -> T:
    if not isinstance(data, dict) or key not in data:
        raise FormatError(f"the field {key!r} is missing")
    value = data[key]
    if type(value) is not kind:  # a bool is no int here
        raise FormatError(f"the field {key!r} is {value!r:.60}, which is no {kind.__name__}")
    return value


def _optional(data: Any, key: str, kind: type[T]) -> T | None:
    return None if isinstance(data, dict) and data.get(key) is None else _field(data, key, kind)


def _hash(value: Any, what: str) -> str:
    if not isinstance(value, str) or not _HEX.fullmatch(value):
        raise FormatError(f"{what} is {value!r:.80}, which is no hash of 64 hexadecimal digits")
    return value


def _check(manifest: Manifest) -> None:
    _check_tensors(manifest)
    _check_blocks(manifest)
    _check_experts(manifest)
    _check_shards(manifest)


def _check_tensors(manifest: Manifest) -> None:
    shapes = {tensor.name: tensor.shape for tensor in manifest.tensors}
    wanted = manifest.config.tensor_shapes()
    if len(shapes) != len(manifest.tensors):
        raise FormatError("a tensor is listed twice")
    for name in sorted(wanted.keys() - shapes.keys()):
        raise FormatError(f"tensor {name!r} is missing")
    for name in sorted(shapes.keys() - wanted.keys()):
        raise FormatError(f"tensor {name!r} is none that the config asks for")
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


def _check_blocks(manifest: Manifest) -> None:
    size = manifest.block_size
    if size <= 0 or size % ALIGNMENT:
        raise FormatError(f"blocks of {size} bytes are no multiple of {ALIGNMENT}")
    if len(manifest.blocks) != -(-manifest.bytes // size):
        raise FormatError(f"{len(manifest.blocks)} blocks of {size} are not {manifest.bytes} bytes")
    for index, value in enumerate(manifest.blocks):
        _hash(value, f"the hash of block {index}")


def _check_experts(manifest: Manifest) -> None:
    config, size = manifest.config, manifest.block_size
    count = config.experts.count if config.experts else 0
    wanted = [(layer, expert) for layer in range(len(config.layers)) for expert in range(count)]
    if [(e.layer, e.expert) for e in manifest.experts] != wanted:
        raise FormatError(f"the ranges of experts are not those of {len(wanted)}, by layer")
    for e in manifest.experts:
        end = e.offset + e.bytes
        if e.offset < 0 or e.offset % size or e.bytes % size or end > manifest.bytes:
            raise FormatError(
                f"expert {e.expert} of layer {e.layer} is no whole number of blocks at {e.offset}"
            )
        for name in config.expert_shapes(e.layer, e.expert):
            tensor = manifest.tensor(name)
            if tensor.offset < e.offset or tensor.offset + tensor.bytes > end:
                raise FormatError(f"tensor {name!r} lies outside the range of its expert")


def _check_shards(manifest: Manifest) -> None:
    end, names = 0, set()
    for shard in manifest.shards:
        if not _SHARD_NAME.fullmatch(shard.name) or shard.name in names:
            raise FormatError(f"{shard.name!r} cannot be a shard's name")
        if shard.offset != end or shard.bytes <= 0 or end % manifest.block_size:
            raise FormatError(
                f"{shard.name} begins at {shard.offset}, between two blocks or shards"
            )
        _hash(shard.blake3, f"the blake3 of {shard.name}")
        _hash(shard.sha256, f"the sha256 of {shard.name}")
        names.add(shard.name)
        end += shard.bytes
    if end != manifest.bytes:
        raise FormatError(f"the shards hold {end} bytes of {manifest.bytes}")

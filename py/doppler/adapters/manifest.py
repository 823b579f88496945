"""What an adapter is: the base that it is of, its A and B as ranges of a byte space, who signed it.

`description` says all that a person judges it by, and its BLAKE3 is the adapter's identity. The
author's key and signature lie beside it, as the cut into shards does: who signs the same adapter
anew makes no other. Format and rules: docs/adapters.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from doppler.adapters.lora_config import MOST_RANK, invocation_tokens
from doppler.adapters.matrix import TYPES
from doppler.errors import FormatError, UnsupportedError
from doppler.inputs.fields import LARGEST_INT, LARGEST_SIZE, Fields, is_text, shown
from doppler.quantization.block_types import block_type
from doppler.store.manifest import Manifest
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

ADAPTER_FILE = "adapter.json"
VERSION = 1
LONGEST_NAME, LONGEST_NOTE, LONGEST_LICENSE = 200, 4000, 200  # characters

# Names of a base's matrices: of a layer, or of none.
_MATRIX = re.compile(r"(blk\.[0-9]{1,4}\.|(?!blk\.))[a-z][a-z0-9_.]{0,99}")
_KEY, _SIGNATURE = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{128}")


@dataclass(frozen=True)
class Stored:
    """A or B: where it is in the byte space, and its numbers' type."""

    type: str
    offset: int
    bytes: int


@dataclass(frozen=True)
class DeltaInfo:
    """scale · B·A of the base's matrix `name`; A is [rank, columns] and B [rows, rank]."""

    name: str
    rows: int
    columns: int
    rank: int
    scale: float
    a: Stored
    b: Stored

    @property
    def shapes(self) -> tuple[tuple[Stored, tuple[int, int]], ...]:
        """A and B with their shapes."""
        return (self.a, (self.rank, self.columns)), (self.b, (self.rows, self.rank))


@dataclass(frozen=True)
class Terms:
    """What its author says of it. `version` counts up; license None: nothing is said."""

    name: str
    version: int
    note: str = ""
    license: str | None = None


@dataclass(frozen=True)
class Signature:
    """Ed25519: the author's key (32 bytes) and the signature (64), in hexadecimal."""

    author: str
    signature: str


@dataclass(frozen=True)
class AdapterManifest:
    """`base` is the identity of the model that it is of; `invocation_tokens` None: always on."""

    terms: Terms
    base: str
    invocation_tokens: tuple[int, ...] | None
    deltas: tuple[DeltaInfo, ...]
    bytes: int
    block_size: int
    blocks: tuple[str, ...]
    shards: tuple[Shard, ...]
    signed: Signature | None = None

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.terms.name

    @cached_property
    def identity(self) -> str:
        """BLAKE3 of the canonical JSON of the description."""
        return identity_of(self._description())

    def to_json(self) -> str:
        """The file's text; `from_json` is its inverse."""
        signed = {"author": None, "signature": None} if self.signed is None else vars(self.signed)
        data = {
            "doppler_adapter": VERSION,
            "identity": self.identity,
            **signed,
            "description": self._description(),
            "shards": [vars(shard) for shard in self.shards],
        }
        return json.dumps(data, ensure_ascii=False, indent=1) + "\n"

    def _description(self) -> dict[str, Any]:
        tokens = self.invocation_tokens
        return {
            **vars(self.terms),
            "base": self.base,
            "invocation_tokens": None if tokens is None else list(tokens),
            "deltas": [{**vars(it), "a": vars(it.a), "b": vars(it.b)} for it in self.deltas],
            "bytes": self.bytes,
            "block_size": self.block_size,
            "blocks": list(self.blocks),
        }

    @classmethod
    def from_json(cls, text: str, where: str) -> AdapterManifest:
        """Reads and checks everything but the signature; errors name `where` and what is wrong."""
        return read_sealed(text, where, "an adapter", _parse)


def _parse(fields: Fields) -> AdapterManifest:
    version = fields.integer("doppler_adapter")
    if version != VERSION:
        raise UnsupportedError(
            f"the adapter's format has version {version}, and Doppler reads {VERSION}; update "
            "Doppler"
        )
    description = fields.table("description")
    manifest = AdapterManifest(
        terms=Terms(
            description.text("name"),
            description.integer("version"),
            description.text("note"),
            description.text("license") if description.has("license") else None,
        ),
        base=checked_hash(description.text("base"), "the identity of its base"),
        invocation_tokens=invocation_tokens(description, "invocation_tokens"),
        deltas=tuple(_delta(item) for item in description.tables("deltas")),
        bytes=description.integer("bytes", most=LARGEST_SIZE),
        block_size=description.integer("block_size"),
        blocks=tuple(description.texts("blocks")),
        shards=tuple(shard_of(item) for item in fields.tables("shards")),
        signed=_signature(fields),
    )
    _check(manifest)
    return manifest


def _delta(item: Fields) -> DeltaInfo:
    rows, columns = (item.integer(key, least=1) for key in ("rows", "columns"))
    return DeltaInfo(
        name=item.text("name"),
        rows=rows,
        columns=columns,
        rank=item.integer("rank", least=1, most=MOST_RANK),
        scale=item.number("scale"),
        a=_stored(item.table("a")),
        b=_stored(item.table("b")),
    )


def _stored(item: Fields) -> Stored:
    return Stored(item.choice("type", TYPES), *range_of(item))


def _signature(fields: Fields) -> Signature | None:
    if not fields.has("author") and not fields.has("signature"):
        return None
    author, signature = fields.text("author"), fields.text("signature")
    if not _SIGNATURE.fullmatch(signature):
        raise FormatError(
            f"signature is {shown(signature)}, which is none of 128 hexadecimal digits"
        )
    return Signature(checked_key(author), signature)


def checked_key(text: str) -> str:
    """The text, or FormatError where it is no public key: 64 hexadecimal digits in lower case."""
    if not _KEY.fullmatch(text):
        raise FormatError(
            f"{shown(text, 66)} is no author's public key, which has 64 hexadecimal digits"
        )
    return text


def check_terms(terms: Terms) -> None:
    """FormatError where what the author says is too long, empty, or of more than one line."""
    limits = (("name", terms.name, LONGEST_NAME), ("license", terms.license, LONGEST_LICENSE))
    for what, text, most in limits:
        if text is None:
            continue
        if not text.strip() or len(text) > most or not text.isprintable():
            raise FormatError(
                f"its {what} is {shown(text)}, and must be a line of 1 to {most} printable "
                "characters"
            )
    if len(terms.note) > LONGEST_NOTE or not is_text(terms.note):
        raise FormatError(f"its note is no text of at most {LONGEST_NOTE} characters")
    if not 1 <= terms.version <= LARGEST_INT:
        raise FormatError(f"its version is {terms.version}, and must be 1 to {LARGEST_INT}")


def _check(manifest: AdapterManifest) -> None:
    check_terms(manifest.terms)
    if not manifest.deltas:
        raise FormatError("it changes nothing of its base")
    if len({it.name for it in manifest.deltas}) != len(manifest.deltas):
        raise FormatError("a matrix of the base is listed twice")
    for delta in manifest.deltas:
        if delta.name == "blk" or not _MATRIX.fullmatch(delta.name):
            raise FormatError(f"{shown(delta.name)} is no name of a model's matrix")
    end, placed = 0, set[Stored]()
    for delta in manifest.deltas:
        for stored, shape in delta.shapes:
            if stored.bytes != block_type(stored.type).tensor_bytes(shape):
                raise FormatError(
                    f"{shown(delta.name)} of shape {shape} cannot have {stored.bytes} bytes"
                )
            if stored in placed:  # several may have one A, which their file had once for all
                continue
            if stored.offset != end:  # so that there are no bytes that nobody looks at
                raise FormatError(f"{shown(delta.name)} cannot lie at {stored.offset}, not {end}")
            placed.add(stored)
            end += -(-stored.bytes // ALIGNMENT) * ALIGNMENT
    if manifest.bytes != end:
        raise FormatError(f"its matrices end at {end}, and its byte space at {manifest.bytes}")
    check_blocks(manifest)
    check_shards(manifest)


def check_base(manifest: AdapterManifest, base: Manifest, where: str) -> None:
    """FormatError, with what differs, where an adapter is not of that model."""
    if manifest.base == base.identity:
        for delta in manifest.deltas:
            _check_matrix(delta, base, where)
        return
    differs = ""
    try:
        for delta in manifest.deltas:
            _check_matrix(delta, base, where)
    except FormatError as error:
        differs = f"; {str(error).removeprefix(f'{where}: ')}"
    raise FormatError(
        f"{where} is an adapter of the model {manifest.base}, and {shown(base.name)} is "
        f"{base.identity}{differs or ': its matrices have the same shapes and other numbers'}"
    )


def _check_matrix(delta: DeltaInfo, base: Manifest, where: str) -> None:
    shapes: Mapping[str, tuple[int, ...]] = {it.name: it.shape for it in base.tensors}
    own, wanted = shapes.get(delta.name), (delta.rows, delta.columns)
    if own != wanted:
        has = "does not have it" if own is None else f"has it as {own}"
        raise FormatError(
            f"{where}: it changes {shown(delta.name)} of shape {wanted}; the base {has}"
        )

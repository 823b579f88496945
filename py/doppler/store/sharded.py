"""A byte space in blocks and shards, as a model's or an adapter's file describes it, and its check.

The file's `description` says all that makes the thing what it is; `identity` is its hash.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from doppler.errors import DopplerError, FormatError
from doppler.inputs.fields import LARGEST_SIZE, Fields, parse_json, shown
from doppler.store.digest import blake3_hex

ALIGNMENT = 256

_HEX = re.compile(r"[0-9a-f]{64}")
_SHARD_NAME = re.compile(r"shard-[0-9]{5,9}\.bin")


@dataclass(frozen=True)
class Shard:
    """One file of the cut: `bytes` of the byte space from `offset` on.

    Its hashes do not follow from those of its blocks: None where nobody has had the whole file yet.
    """

    name: str
    offset: int
    bytes: int
    blake3: str | None
    sha256: str | None

    @property
    def is_hashed(self) -> bool:
        """Whether the file's own hashes are known."""
        return self.blake3 is not None and self.sha256 is not None


class Sharded(Protocol):
    """A byte space in blocks and shards: a model's, or that of an adapter."""

    @property
    def name(self) -> str: ...
    @property
    def identity(self) -> str: ...
    @property
    def bytes(self) -> int: ...
    @property
    def block_size(self) -> int: ...
    @property
    def blocks(self) -> tuple[str, ...]: ...
    @property
    def shards(self) -> tuple[Shard, ...]: ...


S = TypeVar("S", bound=Sharded)


def read_sealed(text: str, where: str, what: str, parse: Callable[[Fields], S]) -> S:
    """What `parse` makes of a file's text, checked; errors name `where` and what is wrong.

    what: "a manifest". Raises FormatError also where its identity is not its description's hash.
    """
    fields = Fields(parse_json(text, f"{where} is not {what}"), where)
    try:
        made = parse(fields)
    except DopplerError as error:
        message = str(error)
        named = message if message.startswith(f"{where}: ") else f"{where}: {message}"
        raise type(error)(named) from error
    if made.identity != fields.get("identity"):
        raise FormatError(
            f"{where}: its identity is {shown(fields.get('identity'), 66)} and its description's "
            f"hash {made.identity}; it was changed after it was made"
        )
    return made


def identity_of(description: Mapping[str, Any]) -> str:
    """BLAKE3 of the canonical JSON of a description."""
    text = json.dumps(description, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return blake3_hex(text.encode())


def shard_of(item: Fields, *, may_lack_hashes: bool = False) -> Shard:
    """One of the files of a cut, not checked yet."""
    hashes = [
        None if may_lack_hashes and not item.has(name) else item.text(name)
        for name in ("blake3", "sha256")
    ]
    return Shard(item.text("name"), *range_of(item), *hashes)


def range_of(item: Fields) -> tuple[int, int]:
    """Offset and length in the byte space."""
    return item.integer("offset", most=LARGEST_SIZE), item.integer("bytes", most=LARGEST_SIZE)


def checked_hash(value: Any, what: str) -> str:
    """The value, or FormatError where it is no BLAKE3 or SHA-256 in hexadecimal."""
    if not isinstance(value, str) or not _HEX.fullmatch(value):
        raise FormatError(
            f"{what} is {shown(value, 66)}, which is no hash of 64 hexadecimal digits"
        )
    return value


def check_blocks(manifest: Sharded) -> None:
    """FormatError where there are not as many hashes as blocks."""
    size = manifest.block_size
    if size <= 0 or size % ALIGNMENT:
        raise FormatError(f"blocks of {size} bytes are no multiple of {ALIGNMENT}")
    if len(manifest.blocks) != -(-manifest.bytes // size):
        raise FormatError(f"{len(manifest.blocks)} blocks of {size} are not {manifest.bytes} bytes")
    for index, value in enumerate(manifest.blocks):
        checked_hash(value, f"the hash of block {index}")


def shard_file(name: Any) -> str:
    """The name of a shard's file. Raises FormatError for what cannot be one."""
    if not isinstance(name, str) or not _SHARD_NAME.fullmatch(name):
        raise FormatError(f"{shown(name)} cannot be a shard's name")
    return name


def check_shards(manifest: Sharded) -> None:
    """FormatError where the shards are not the byte space, cut between blocks."""
    end, names = 0, set()
    for shard in manifest.shards:
        if shard_file(shard.name) in names:
            raise FormatError(f"{shown(shard.name)} cannot be the name of two shards")
        if shard.offset != end or shard.bytes <= 0 or end % manifest.block_size:
            raise FormatError(
                f"{shard.name} begins at {shard.offset}, between two blocks or shards"
            )
        for kind, value in (("blake3", shard.blake3), ("sha256", shard.sha256)):
            if value is not None:
                checked_hash(value, f"the {kind} of {shard.name}")
        names.add(shard.name)
        end += shard.bytes
    if end != manifest.bytes:
        raise FormatError(f"the shards hold {end} bytes of {manifest.bytes}")

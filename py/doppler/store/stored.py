"""What was stored comes back through here: whatever lies there, only a DopplerError is raised.

Files of one model may be cut, overwritten or another program's. That costs this one model, or
nothing where what is lost can be done without, and never the list of all.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from doppler.errors import DopplerError, FormatError
from doppler.inputs.fields import parse_json
from doppler.store.cut import is_same_cut
from doppler.store.manifest import Manifest
from doppler.store.sharded import Shard, shard_file

T = TypeVar("T")


def read_manifest(data: bytes, where: str) -> Manifest:
    """The manifest of these bytes. Raises DopplerError, which names `where`, for any others."""

    def read() -> Manifest:
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            raise FormatError(f"{where} is not a manifest: it is no UTF-8 ({error})") from error
        return Manifest.from_json(text, where)

    return guarded(read, f"{where} is not a manifest")


def damaged_title(identity: str) -> str:
    """What a stored model is called whose own title cannot be read."""
    return f"Damaged model {identity[:8]}…"


def guarded(read: Callable[[], T], what: str) -> T:
    """What `read` returns; any error that is not ours becomes a FormatError that begins so."""
    try:
        return read()
    except Exception as error:  # RecursionError and MemoryError, too
        raise as_ours(error, what) from error


def as_ours(error: Exception, what: str) -> DopplerError:
    """The error itself where it is for people, else one that begins so."""
    if isinstance(error, DopplerError):
        return error
    return FormatError(f"{what} ({type(error).__name__}: {error!s:.80})")


@dataclass(frozen=True)
class Origin:
    """The address of the manifest that a model came from, and why it is not known though it should
    be. shards: names and bytes of the files beside it, where that cut is not the stored one.
    """

    url: str | None = None
    problem: str | None = None
    shards: tuple[tuple[str, int], ...] | None = None

    @classmethod
    def of(cls, url: str, served: Manifest, stored: Manifest) -> Origin:
        """A model's that is stored so and served so."""
        if is_same_cut(served, stored):
            return cls(url)
        return cls(url, None, tuple((it.name, it.bytes) for it in served.shards))

    def to_json(self) -> str:
        """The file's text; `read_origin` is its inverse."""
        shards = {} if self.shards is None else {"shards": self.shards}
        return json.dumps({"url": self.url, **shards})

    def served(self, stored: Manifest) -> Manifest:
        """The model as it is cut there. Raises FormatError where that is no cut of this one."""
        if self.shards is None:
            return stored
        shards, end = list[Shard](), 0
        for name, count in self.shards:
            if count <= 0 or end % stored.block_size:
                break
            shards.append(Shard(name, end, count, None, None))
            end += count
        if end != stored.bytes or len(shards) != len(self.shards):
            raise FormatError("origin.json: its shards are no cut of the model")
        return replace(stored, shards=tuple(shards))


DAMAGED_ORIGIN = Origin(
    None,
    "Where it came from is no longer known (origin.json is damaged): the model works, "
    "but a damaged part of it could not be fetched again",
)


def read_origin(data: bytes | None) -> Origin:
    """What an origin.json says. A model without one came from a person's disk: it has no address,
    and nothing is wrong.
    """
    if data is None:
        return Origin()
    try:
        told = parse_json(data, "origin.json")
        url, shards = told["url"], told.get("shards")
        if not isinstance(url, str) or not url.startswith(("http://", "https://")):
            raise ValueError
        if shards is not None:
            shards = tuple((shard_file(name), int(count)) for name, count in shards)
    except Exception:  # whatever it holds, the model itself is whole without it
        return DAMAGED_ORIGIN
    return Origin(url, None, shards)

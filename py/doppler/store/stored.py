"""What was stored comes back through here: whatever lies there, only a DopplerError is raised.

Files of one model may be cut, overwritten or another program's. That costs this one model, or
nothing where what is lost can be done without, and never the list of all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from doppler.errors import DopplerError, FormatError
from doppler.inputs.fields import parse_json
from doppler.store.manifest import Manifest

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


def read_origin(data: bytes | None) -> tuple[str | None, str | None]:
    """The address in an origin.json, and what is wrong with the file where it tells none.

    A model without the file came from a person's disk: no address, and nothing is wrong.
    """
    if data is None:
        return None, None
    try:
        url = parse_json(data, "origin.json")["url"]
        if not isinstance(url, str) or not url.startswith(("http://", "https://")):
            raise ValueError
    except Exception:  # whatever it holds, the model itself is whole without it
        return None, (
            "Where it came from is no longer known (origin.json is damaged): the model works, "
            "but a damaged part of it could not be fetched again"
        )
    return url, None

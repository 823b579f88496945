"""One large file fetched from an address; a fetch that was cut off goes on where it ended.

What came lies in the target, and beside it, in `<target>.version`, what it is the beginning of: a
part of one file is never joined to a part of another.
"""

from __future__ import annotations

import errno
import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from doppler.errors import SourceError, StorageError
from doppler.inputs.answers import Answer, check_range, check_same
from doppler.inputs.source import Progress

PIECE = 1 << 20
TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True)
class _Version:
    """What the server told of the file: how long it is, and what tells it from others."""

    bytes: int
    etag: str
    modified: str

    @property
    def answer(self) -> Answer:
        return Answer(200, length=self.bytes, etag=self.etag, modified=self.modified)


def download(url: str, target: Path, progress: Progress) -> None:
    """Fetches the file; what came stays when it fails. Raises SourceError."""
    version = _kept(target)
    have = target.stat().st_size if version else 0
    if version is not None and have == version.bytes:
        return
    try:
        with _asked(url, have, version) as response:
            answer = _answer(url, response)
            if version is not None and answer.status == 206:
                check_range(url, answer, have, version.bytes, version.bytes)
                check_same(url, version.answer, answer)
            else:  # the first time, or the file there is another now
                have, version = 0, _told(url, answer)
                _version_file(target).write_text(json.dumps(asdict(version)))
            with target.open("ab" if have else "wb") as out:
                for piece in _pieces(response):
                    out.write(piece)
                    progress(out.tell(), version.bytes)
    except urllib.error.HTTPError as error:
        raise SourceError(
            f"{url} answers {error.code} {error.reason}; check the address"
        ) from error
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError(
                f"{target} cannot be written: {error.strerror}; free some space and run the same "
                "command again"
            ) from error
        raise SourceError(
            f"{url} cannot be fetched ({error}); run the same command again to go on from "
            f"{target.stat().st_size if target.exists() else 0} bytes"
        ) from error
    if target.stat().st_size != version.bytes:
        raise SourceError(
            f"{url} ended after {target.stat().st_size} of {version.bytes} bytes; "
            "run the same command again to go on from there"
        )


def forget(target: Path) -> None:
    """Removes what is kept beside a target that is whole."""
    _version_file(target).unlink(missing_ok=True)


def _version_file(target: Path) -> Path:
    return target.with_name(f"{target.name}.version")


def _kept(target: Path) -> _Version | None:
    """The file of which a beginning lies there; None where there is none, or it cannot be told."""
    if not target.exists():
        return None
    try:
        version = _Version(**json.loads(_version_file(target).read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return version if version.answer.version and target.stat().st_size <= version.bytes else None


def _asked(url: str, have: int, version: _Version | None) -> http.client.HTTPResponse:
    headers = {"Accept-Encoding": "identity"}
    if have and version is not None:
        headers |= {
            "Range": f"bytes={have}-{version.bytes - 1}",
            "If-Range": version.answer.version,
        }
    request = urllib.request.Request(url, headers=headers)
    response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    return response


def _answer(url: str, response: http.client.HTTPResponse) -> Answer:
    length = response.headers.get("Content-Length", "")
    return Answer(
        status=response.status,
        range=response.headers.get("Content-Range", ""),
        length=int(length) if length.isdecimal() else None,
        encoding=response.headers.get("Content-Encoding", "").lower(),
        type=response.headers.get("Content-Type", "").lower(),
        etag=response.headers.get("ETag", ""),
        modified=response.headers.get("Last-Modified", ""),
    )


def _told(url: str, answer: Answer) -> _Version:
    if answer.status != 200:
        raise SourceError(f"{url} answers {answer.status}; check the address")
    if answer.length is None or answer.is_encoded:
        raise SourceError(f"{url} does not say how long its file is; check the address")
    return _Version(answer.length, answer.etag, answer.modified)


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    while piece := file.read(PIECE):
        yield piece

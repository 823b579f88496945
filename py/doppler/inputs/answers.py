"""Whether what a server sends is what was asked for, and of the file that it was before.

Only headers are looked at: nothing is fetched here. The page sends no If-Range or If-Match: to
other sites these need a permission (CORS) that model hubs do not give, and an answer's own ETag
tells as much. What a site hides from the page cannot be held against it; lengths are checked all
the same.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from doppler.errors import SourceError

DISK = "download the file and open it from disk"
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)", re.IGNORECASE)
_DIGITS = re.compile(r"\d{1,16}")
_ADVICE = {  # what to do about a status that brings no bytes
    401: f"it wants a login that the page does not have: {DISK}",
    403: f"it wants a login that the page does not have: {DISK}",
    404: "check the address",
    410: "check the address",
    416: "the file there is shorter than it should be: have it mended, or get it from elsewhere",
    429: "it was asked too often: try again in some minutes",
}


@dataclass(frozen=True)
class Answer:
    """Status and headers of a response. Texts are empty, `length` None, where they are not told.

    where: the address that redirects ended at, without its query. hides: whether it is another
    site's, which lets the page see some headers only.
    """

    status: int
    range: str = ""
    length: int | None = None
    encoding: str = ""
    type: str = ""
    etag: str = ""
    modified: str = ""
    link: str = ""
    where: str = ""
    hides: bool = False

    @classmethod
    def of(cls, told: Any) -> Answer:
        """What web/runtime/fetch.js tells."""
        length = told.length.strip()
        return cls(
            status=told.status,
            range=told.range.strip(),
            length=int(length) if _DIGITS.fullmatch(length) else None,
            encoding=told.encoding.strip().lower(),
            type=told.type.strip().lower(),
            etag=told.etag.strip(),
            modified=told.modified.strip(),
            link=told.link,
            where=told.where,
            hides=told.hides,
        )

    @property
    def version(self) -> str:
        """What tells this version of the file from others: a strong ETag, else the date."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.modified

    @property
    def is_encoded(self) -> bool:
        """Whether the bytes that arrive are not those that were counted."""
        return self.encoding not in ("", "identity")


def refused(url: str, status: int) -> SourceError:
    """The error for a status that brings no bytes."""
    return SourceError(
        f"{url}: the server answered {status}; {_ADVICE.get(status, 'try again later')}"
    )


def check_range(url: str, answer: Answer, start: int, end: int, size: int | None) -> int | None:
    """Raises SourceError unless the answer is bytes [start, end) of the file, or up to its end.

    size: of the whole file, None where it is not known yet. Returns it, or None still.
    """
    if answer.status == 200:
        is_page = answer.type.startswith("text/html")
        what = "sent a web page instead" if is_page else "ignores range requests"
        raise SourceError(f"{url}: the server {what}; {DISK}")
    if answer.status != 206:
        raise refused(url, answer.status)
    if answer.type.startswith("multipart/"):
        raise _other(url, start, end, "several parts")
    if answer.is_encoded:
        raise _other(url, start, end, f"bytes packed by {answer.encoding:.20}")
    if answer.range:
        size = _ranged(url, answer.range, start, end, size)
    elif not answer.hides:
        raise _other(url, start, end, "a part without Content-Range")
    wanted = min(end, end if size is None else size) - start
    short = size is None and answer.length is not None and 0 < answer.length < wanted
    if answer.length not in (None, wanted) and not short:
        raise _other(url, start, end, f"{answer.length} bytes")
    return size


def _ranged(url: str, text: str, start: int, end: int, size: int | None) -> int | None:
    """The file's size, of a Content-Range that is the one that was asked for."""
    match = _RANGE.fullmatch(text)
    if match is None:
        raise _other(url, start, end, f"{text!r:.60}")
    first, last = int(match[1]), int(match[2])
    total = size if match[3] == "*" else int(match[3])
    if size not in (None, total):
        raise SourceError(
            f"{url}: the file there has {total} bytes and {size} were expected; it was changed or "
            "is cut short: try again, or get it from elsewhere"
        )
    wanted = end if total is None else min(end, total)
    if (first, last + 1) != (start, wanted):
        raise _other(url, start, wanted, f"bytes {first} to {last}")
    return total


def check_same(url: str, first: Answer, now: Answer) -> None:
    """Raises SourceError where two answers are not of one version of the file.

    A strong ETag tells by itself; else ETag and Last-Modified do, whichever there are; without
    either, redirects must at least end at the same place.
    """
    if first.etag and not first.etag.startswith("W/"):
        same = now.etag == first.etag
    elif first.etag or first.modified:
        same = (now.etag, now.modified) == (first.etag, first.modified)
    else:
        same = now.where == first.where
    if not same:
        raise changed(url)


def changed(url: str) -> SourceError:
    """The error for a file that was replaced since the first of it was read."""
    return SourceError(
        f"{url}: the file there changed since it was first read; nothing of it was kept, try again"
    )


def check_whole(url: str, answer: Answer, size: int | None) -> None:
    """Raises SourceError unless the answer is the whole file, of `size` bytes if that is known."""
    if answer.status != 200:
        raise refused(url, answer.status)
    if answer.is_encoded or size is None or answer.length in (None, size):
        return
    raise SourceError(
        f"{url}: the server sent {answer.length} bytes and not the {size} that the file has; "
        "have it mended, or get it from elsewhere"
    )


def _other(url: str, start: int, end: int, what: str) -> SourceError:
    return SourceError(
        f"{url}: bytes {start} to {end - 1} were asked for, and the server answered with {what}; "
        f"try again, or {DISK}"
    )

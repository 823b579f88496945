"""What a repository of a model hub holds: its GGUF models, and its checkpoint.

Hubs answer GET /api/models/ORG/NAME/tree/REVISION?recursive=true with a list of {type, path, size,
lfs: {size}}, a page at a time: a Link header gives the next one. Any site that answers so is one.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any
from urllib.parse import urljoin, urlsplit

from doppler.api.inspection import SeveralModels
from doppler.api.messages import Offer
from doppler.errors import FormatError, SourceError
from doppler.formats.parts import part_names, whole_name
from doppler.inputs.answers import DISK, Answer, refused
from doppler.inputs.nesting import is_too_deep
from doppler.page.addresses import HUB, Repository, repository
from doppler.page.http import fetch_small

LISTING = "list of files"
MOST_PAGES = 100
_NEXT = re.compile(r'<([^>]+)>\s*;\s*rel="?next"?')


async def model_at(url: str) -> str | None:
    """The address of the one model of the repository that `url` is the page of.

    None where it is no such page. Raises SeveralModels, SourceError, or FormatError where there is
    no model.
    """
    place = repository(url)
    if place is None:
        return None
    is_hub = urlsplit(place.origin).hostname == HUB
    try:
        files = await _files(place)
    except (SourceError, FormatError):
        if is_hub:
            raise
        return None  # another site, which is no hub
    offers = offers_of(place, files)
    if len(offers) > 1:
        raise SeveralModels(place.name, offers)
    if not offers:
        raise FormatError(
            f"{place.name} holds no model that Doppler reads: there is neither a .gguf, nor a "
            "config.json with .safetensors; choose another repository"
        )
    return offers[0].url


def offers_of(place: Repository, files: Mapping[str, int]) -> list[Offer]:
    """The models among the files of a repository, which are given with their bytes."""
    sets: dict[tuple[str, ...], int] = defaultdict(int)
    for path, size in files.items():
        folder, slash, name = path.rpartition("/")
        if name.lower().endswith(".gguf") and not name.lower().startswith("mmproj"):
            sets[tuple(f"{folder}{slash}{part}" for part in part_names(name))] += size
    offers = [
        Offer(whole_name(parts[0]), place.file(parts[0]), size, len(parts))
        for parts, size in sorted(sets.items(), key=lambda item: (item[1], item[0]))
    ]
    base = f"{place.folder}/" if place.folder else ""
    own = {path.removeprefix(base): size for path, size in files.items() if path.startswith(base)}
    weights = [
        size
        for name, size in own.items()
        if "/" not in name and name.startswith("model") and name.endswith(".safetensors")
    ]
    if weights and "config.json" in own:
        title = f"{place.name.rpartition('/')[2]} (safetensors)"
        offers.append(Offer(title, place.file(base), sum(weights), 0))
    return offers


async def _files(place: Repository) -> dict[str, int]:
    """All files by path, with their bytes."""
    files: dict[str, int] = {}
    url = place.listing
    for _ in range(MOST_PAGES):
        answer, data = await fetch_small(url, LISTING)
        if data is None:
            raise _absent(place, url, answer)
        files |= _page(url, bytes(data.to_bytes()))
        following = _NEXT.search(answer.link)
        if following is None:
            return files
        url = urljoin(url, following[1])
        if not url.startswith(f"{place.origin}/"):
            raise SourceError(f"{place.listing} goes on at another site, {url:.80}; {DISK}")
    raise SourceError(f"{place.listing} has more than {MOST_PAGES} pages of files; {DISK}")


def _page(url: str, data: bytes) -> dict[str, int]:
    try:
        if is_too_deep(data):
            raise RecursionError
        items = json.loads(data)
        return {item["path"]: _size(item) for item in items if item["type"] == "file"}
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise FormatError(f"{url} is no list of files as a model hub gives it") from error


def _size(item: Any) -> int:
    size = (item.get("lfs") or item)["size"]
    if type(size) is not int or size < 0 or not isinstance(item["path"], str):
        raise ValueError(size)
    return size


def _absent(place: Repository, url: str, answer: Answer) -> SourceError:
    if answer.status in (401, 403, 404):
        return SourceError(
            f"{place.name} at revision {place.revision} is not at {place.origin}, or is private: "
            f"the hub answered {answer.status}; check its name, or {DISK}"
        )
    return refused(url, answer.status)

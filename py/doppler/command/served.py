"""What the page server gives out: parts of the page, and the models of a folder.

A model is listed where all its files are served, and only there. `models/NAME` may be a link to a
folder elsewhere: whoever made it meant it. No other link and no path leads out of a folder.
"""

from __future__ import annotations

import hashlib
import json
import re
from base64 import b64encode
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from doppler.command.models import is_model
from doppler.command.wheel import SUMS_FILE
from doppler.errors import CorruptError, DopplerError, SourceError
from doppler.inputs.small import LIMITS, too_long
from doppler.store.manifest import MANIFEST_FILE, TOKENIZER_FILE, Manifest
from doppler.store.stored import guarded, read_manifest

MIME = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/x-icon",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".wasm": "application/wasm",
    ".webmanifest": "application/manifest+json",
    ".wgsl": "text/plain; charset=utf-8",
    ".whl": "application/zip",
    ".woff2": "font/woff2",
    ".zip": "application/zip",
}
NAMES = ("127.0.0.1", "localhost", "[::1]")  # of this machine, as a Host header says them
PORT_OF_HOST = re.compile(r":[0-9]*$")
# What web/ holds besides is for those who develop the page: types, settings, node_modules.
PAGE_FILES = ("index.html", "sw.js", "worker.js", "catalogue.json")
PAGE_FOLDERS = ("app", "kernels", "runtime", "swarm", "vendor")

MEND = "convert or pull the model again"


@dataclass(frozen=True)
class Listing:
    """`models`: what /models.json says of each; `problems`: one line for each that is left out."""

    models: list[dict[str, Any]]
    problems: list[str]


def page_file(root: Path, path: str) -> Path | None:
    """A part of the page; None for anything else below its folder."""
    folder = path.partition("/")[0]
    ours = path in PAGE_FILES or (folder in PAGE_FOLDERS and Path(path).suffix in MIME)
    return file_under(root, path) if ours else None


def part_digest(root: Path, file: Path) -> str | None:
    """SHA-256 in base64 that a part of the page should have: that with which it was installed, for
    what is another's (scripts/vendor.py), else what it has now. None for a file that is gone.
    """
    try:
        about = file.stat()
        sums = root / "vendor" / SUMS_FILE
        at = sums.stat().st_mtime_ns if sums.is_file() else 0
        name = file.relative_to(root.resolve() / "vendor").as_posix() if at else ""
    except OSError:
        return None
    except ValueError:  # not of vendor/
        name = ""
    installed = _installed(sums, at).get(name) if name else None
    try:
        return installed or _digest(file, about.st_mtime_ns, about.st_size)
    except OSError:
        return None


@lru_cache(maxsize=4)
def _installed(sums: Path, _at: int) -> dict[str, str]:
    found: dict[str, str] = json.loads(sums.read_text(encoding="utf-8"))
    return found


@lru_cache(maxsize=1024)
def _digest(file: Path, _at: int, _size: int) -> str:
    with file.open("rb") as data:
        return b64encode(hashlib.file_digest(data, "sha256").digest()).decode()


def model_file(models: Path, path: str) -> Path | None:
    """The file of a path below the folder of models, where it is served."""
    name, _, rest = path.partition("/")
    if not rest or not _is_plain(name):
        return file_under(models, path)
    return file_under(models / name, rest)


def file_under(root: Path, path: str) -> Path | None:
    """The file that a URL's path means, or None where there is none inside root."""
    if not all(_is_plain(part) for part in path.split("/")):
        return None
    try:
        base = root.resolve()
        target = (base / path).resolve()
        return target if target.is_file() and target.is_relative_to(base) else None
    except (OSError, ValueError, RuntimeError):  # too long a name, no name at all, a loop of links
        return None


def _is_plain(part: str) -> bool:
    return bool(part) and part[0] != "." and "\0" not in part and "\\" not in part


def manifest_in(folder: Path) -> Manifest:
    """The manifest of a model's folder. Raises DopplerError, whatever lies there."""
    path = folder / MANIFEST_FILE
    try:
        if not path.is_file():
            problem = "is no file" if path.exists() else "is not there"
            raise SourceError(
                f"{path} {problem}; give the folder of a model that doppler convert or pull made"
            )
        if (size := path.stat().st_size) > LIMITS[MANIFEST_FILE]:
            raise too_long(str(path), MANIFEST_FILE, size)
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SourceError(f"{path} cannot be read: {reason}") from error
    return read_manifest(data, str(path))


def describe(models: Path, name: str) -> dict[str, Any]:
    """What /models.json says of the model in that folder. Raises DopplerError, as `manifest_in`."""
    manifest = manifest_in(models / name)
    tokenizer = manifest.tokenizer
    sizes: dict[str, int | None] = {shard.name: shard.bytes for shard in manifest.shards}
    sizes[MANIFEST_FILE] = None
    if tokenizer is not None:
        sizes[TOKENIZER_FILE] = tokenizer.bytes
    for file, size in sizes.items():
        _check_size(models, f"{name}/{file}", size)
    return {
        "name": name,
        "title": manifest.title,
        "url": f"models/{quote(name)}/{MANIFEST_FILE}",
        "id": manifest.identity,
        "bytes": manifest.bytes,
        "architecture": manifest.config.architecture,
        "quantization": manifest.quantization,
        "parameters": manifest.parameters,
        "context": manifest.config.context,
        "license": manifest.license,
        "chat": tokenizer is not None and tokenizer.chat_template is not None,
    }


def _check_size(models: Path, path: str, size: int | None) -> None:
    """Raises DopplerError for a file that is not served, or has another size than is known."""
    file = model_file(models, path)
    if file is None:
        raise SourceError(
            f"{models / path} is missing, or a link that leads out of the folder; {MEND}"
        )
    if size is not None and (has := file.stat().st_size) != size:
        raise CorruptError(f"{models / path} has {has} bytes instead of {size}; {MEND}")


def listing(models: Path) -> Listing:
    """Every model below the folder by name; one that is damaged costs no other."""
    found = Listing([], [])
    try:
        names = sorted(path.name for path in models.iterdir() if _is_plain(path.name))
    except OSError:
        return found
    for name in names:
        if not is_model(models / name):
            continue
        try:
            described = guarded(partial(describe, models, name), f"{models / name}")
        except DopplerError as error:
            found.problems.append(_printable(str(error)))
        else:
            found.models.append(described)
    return found


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else "�" for letter in text)[:400]

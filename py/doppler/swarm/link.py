"""Links with which the page gets a model from peers; `web/app/sharing/address.js` reads them."""

from __future__ import annotations

from urllib.parse import urlencode


def fragment(identity: str, torrent: str, tracker: str) -> str:
    """What stands behind a page's address; torrent: the infohash of a cut."""
    named = {"model": identity, "torrent": torrent, "tracker": tracker}
    return f"#{urlencode(named)}"

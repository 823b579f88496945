"""What the page server does for a swarm: the tracker at /tracker, torrents and web seed at /seed/.

`/seed/IDENTITY.torrent` is a model's torrent; its `url-list` is `/seed/`, below which BEP 19 finds
`IDENTITY/FILE`, in ranges.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web

from doppler.command.served import NAMES, PORT_OF_HOST
from doppler.command.torrents import Torrents
from doppler.swarm.tracker import Tracker

PATH = "/tracker"
ALL = "all"


@dataclass(frozen=True)
class Sharing:
    """What a server does for swarms besides carrying its own models.

    allow: infohashes that its tracker carries, too, or ALL. trackers: other servers' trackers that
    its page may use, as ws:// or wss:// addresses.
    """

    allow: Collection[str] = ()
    trackers: Sequence[str] = ()

    @property
    def allows_all(self) -> bool:
        """Whether the tracker carries every infohash."""
        return ALL in self.allow

    def described(self, models: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """What /models.json says: the path of the WebSocket, whether it carries `all` torrents,
        the identities of the `models` that it carries in any case, and `others` to use besides.
        """
        return {
            "path": PATH,
            "all": self.allows_all,
            "models": [model["id"] for model in models],
            "others": [*self.trackers],
        }

    @property
    def sources(self) -> list[str]:
        """The other trackers as the content security policy names them."""
        split = (urlsplit(url) for url in self.trackers)
        return list(dict.fromkeys(f"{it.scheme}://{it.netloc}" for it in split))


Serve = Callable[[str, Path | None], web.StreamResponse]


def add_routes(
    app: web.Application, models: Path, sharing: Sharing, names: Collection[str], serve: Serve
) -> Tracker:
    """names: hosts whose pages may use the tracker. serve: answers with a file."""
    torrents = Torrents(models)

    async def allowed(infohash: str) -> bool:
        return sharing.allows_all or infohash in sharing.allow or await torrents.carries(infohash)

    tracker = Tracker(allowed)

    async def meet(request: web.Request) -> web.StreamResponse:
        """A page of another site must not learn who shares what on this machine."""
        origin = request.headers.get("Origin")
        if origin is not None and _host(origin) not in names:
            raise web.HTTPForbidden(
                text="pages of other hosts cannot use this tracker; "
                "doppler serve --host-name NAME lets those of NAME\n"
            )
        if request.headers.get("Upgrade", "").lower() != "websocket":
            raise web.HTTPUpgradeRequired(text="this is a WebTorrent tracker: open a WebSocket\n")
        return await tracker.handle(request, _address(request))

    async def torrent(request: web.Request) -> web.StreamResponse:
        identity = request.match_info["identity"]
        found = await torrents.torrent(identity)
        if found is None:
            return serve(request.path, None)
        secure, host = request.scheme == "https", request.host
        trackers = [f"{'wss' if secure else 'ws'}://{host}{PATH}"]
        body = found.metainfo(trackers, [f"{request.scheme}://{host}/seed/"])
        return web.Response(body=body, content_type="application/x-bittorrent")

    async def seed(request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        return serve(request.path, await torrents.file(request.match_info["identity"], name))

    async def end(_: web.Application) -> None:
        await tracker.close()

    app.router.add_get(PATH, meet)
    app.router.add_get("/seed/{identity:[0-9a-f]{64}}.torrent", torrent)
    app.router.add_get("/seed/{identity:[0-9a-f]{64}}/{name}", seed)
    app.on_shutdown.append(end)
    return tracker


def _address(request: web.Request) -> str:
    """Whom the limits of an address are for: what a proxy in front says, where the request came by
    a name of `--host-name`; of an IPv6 address the network of 64 bits, which one owner has.
    """
    told = request.remote or ""
    if PORT_OF_HOST.sub("", request.host).lower() not in NAMES:
        told = request.headers.get("X-Forwarded-For", told).rpartition(",")[2].strip()
    try:
        address = ip_address(told)
    except ValueError:
        return request.remote or ""
    return str(ip_network((address, 64), strict=False)) if address.version == 6 else told


def _host(origin: str) -> str | None:
    """The name in an Origin header, as `names` have it: an IPv6 address in brackets."""
    try:
        host = urlsplit(origin).hostname
    except ValueError:
        return None
    return f"[{host}]" if host and ":" in host else host

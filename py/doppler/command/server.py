"""The page server: web/ at /, converted models under /models/, a list of them at /models.json, and
for swarms a tracker and a web seed (`swarm_routes`).

Every answer carries the headers that make the page cross-origin isolated, and a content security
policy under which it can load code from here only. It binds 127.0.0.1, and answers only those who
call it by a name of this machine, or by one that it was given.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import HttpProcessingError

from doppler.command.served import (
    MIME,
    NAMES,
    PORT_OF_HOST,
    listing,
    model_file,
    page_file,
    part_digest,
)
from doppler.command.swarm_routes import PATH, Sharing, add_routes
from doppler.command.wheel import ROOT
from doppler.errors import SourceError
from doppler.swarm.connections import Limits

WEB = ROOT / "web"
HOST = "127.0.0.1"
# Scripts come from here only; wasm-unsafe-eval is for Pyodide. People may type any model address,
# so HTTP is open; what arrives over it is verified data and never code. 'self' is the tracker, too;
# others are those that the server was told to name. HTML is what DOMPurify lets through, and
# workers are those that web/runtime/trusted.js names.
POLICY = (
    "default-src 'self'",
    "script-src 'self' 'wasm-unsafe-eval'",
    "worker-src 'self'",
    "connect-src 'self' blob: data: http: https:",
    "img-src 'self' blob: data:",
    "style-src 'self' 'unsafe-inline'",
    "object-src 'none'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
    "require-trusted-types-for 'script'",
    "trusted-types doppler dompurify",
)
HEADERS = {
    "Cache-Control": "no-cache",  # always ask; the ETag makes the answer short
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def _is_of_ours(record: logging.LogRecord) -> bool:
    """Whether a fault is this server's: whoever sends what is no HTTP is answered, and no more."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


LOG = logging.getLogger(__name__)
LOG.addFilter(_is_of_ours)


class RangedFile(web.FileResponse):
    """A file whose If-Range may be an ETag, too: aiohttp knows dates only."""

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """A range of another file than was asked for is the whole file."""
        wanted = request.headers.get("If-Range", "")
        if wanted.endswith('"') and wanted != self._tag():
            kept = {key: value for key, value in request.headers.items() if key.lower() != "range"}
            request = request.clone(headers=kept)
        return await super().prepare(request)

    def _tag(self) -> str | None:
        try:
            about = self._path.stat()
        except OSError:
            return None
        return f'"{about.st_mtime_ns:x}-{about.st_size:x}"'


def policy(trackers: Sequence[str] = ()) -> str:
    """The content security policy; trackers: origins of WebSockets that the page may open, too."""
    named = " ".join(("connect-src", *trackers))
    return "; ".join(it.replace("connect-src", named) for it in POLICY)


def application(
    models: Path, root: Path = WEB, names: Sequence[str] = (), sharing: Sharing | None = None
) -> web.Application:
    """The aiohttp application over a folder of model folders; `names`: more that it answers to."""
    known = {*NAMES, *(name.lower() for name in names)}
    sharing = sharing or Sharing()
    headers_of_all = {**HEADERS, "Content-Security-Policy": policy(sharing.sources)}

    @web.middleware
    async def only_by_name(request: web.Request, handler: Handler) -> web.StreamResponse:
        """A page of another name that was bound to this address must not read what is here."""
        hosts = [*request.headers.getall("Host", [""]), request.host]
        if not all(PORT_OF_HOST.sub("", host).lower() in known for host in hosts):
            return web.Response(
                status=421,
                text="this server answers to 127.0.0.1, localhost and [::1] only; "
                "doppler serve --host-name NAME adds a name\n",
            )
        return await handler(request)

    def serve(
        path: str, file: Path | None, about: Mapping[str, str] | None = None
    ) -> web.StreamResponse:
        if file is None:
            raise web.HTTPNotFound(text=f"there is no {path[:200]} here\n")
        headers = {"Content-Type": MIME.get(file.suffix, "application/octet-stream")}
        headers.update(about or {})
        if file.suffix == ".bin":  # the page stores shards itself; a second copy only costs disk
            headers["Cache-Control"] = "no-store"
        return RangedFile(file, headers=headers)

    async def page(request: web.Request) -> web.StreamResponse:
        path = request.match_info["path"] or "index.html"
        file = page_file(root, path)
        digest = await asyncio.to_thread(part_digest, root, file) if file else None
        return serve(path, file, {"Repr-Digest": f"sha-256=:{digest}:"} if digest else None)

    async def model(request: web.Request) -> web.StreamResponse:
        path = request.match_info["path"]
        return serve(path, model_file(models, path))

    async def listed(_: web.Request) -> web.StreamResponse:
        found = await asyncio.to_thread(listing, models)
        tracker = sharing.described(found.models)
        return web.json_response({"models": found.models, "tracker": tracker})

    async def add_headers(_: web.Request, response: web.StreamResponse) -> None:
        for name, value in headers_of_all.items():
            response.headers.setdefault(name, value)

    app = web.Application(middlewares=[only_by_name])
    app.on_response_prepare.append(add_headers)
    app.router.add_get("/models.json", listed)
    app.router.add_get("/models/{path:.*}", model)
    add_routes(app, models, sharing, known, serve)
    app.router.add_get("/{path:.*}", page)
    return app


def _open_files(wanted: int) -> None:
    """Lets this process have so many connections, as far as the system lets it."""
    if sys.platform != "win32":
        import resource

        least = wanted + 256  # what is open besides
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != resource.RLIM_INFINITY and soft < least:
            most = least if hard == resource.RLIM_INFINITY else min(least, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


class Server:
    """The server in a thread of its own, as a context manager; `url` ends in a slash.

    models: folder of model folders. port: 0 takes a free one. root: the page's folder. names: hosts
    that it answers to besides this machine's own. sharing: what its tracker carries.
    Raises SourceError when the port cannot be had.
    """

    def __init__(
        self,
        models: Path,
        port: int = 0,
        root: Path = WEB,
        names: Sequence[str] = (),
        sharing: Sharing | None = None,
    ) -> None:
        self.models = models
        self._app = application(models, root, names, sharing)
        self._wanted = port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.port = 0

    @property
    def url(self) -> str:
        """Address of the page."""
        return f"http://{HOST}:{self.port}/"

    @property
    def tracker(self) -> str:
        """Address of the tracker."""
        return f"ws://{HOST}:{self.port}{PATH}"

    def start(self) -> Server:
        """Listen; returns once connections are taken."""
        self._thread.start()
        try:
            self.port = self._wait(self._listen())
        except OSError as error:
            self._end_loop()
            raise SourceError(
                f"port {self._wanted} of {HOST} cannot be used ({error.strerror}); "
                "stop what holds it or give another with --port"
            ) from error
        return self

    def stop(self) -> None:
        """Close every connection and end the thread."""
        self._wait(self._runner.cleanup())
        self._end_loop()

    def __enter__(self) -> Server:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    async def _listen(self) -> int:
        _open_files(Limits().connections)
        self._runner = web.AppRunner(self._app, access_log=None, logger=LOG, shutdown_timeout=0.5)
        await self._runner.setup()
        await web.TCPSite(self._runner, HOST, self._wanted).start()
        return int(self._runner.addresses[0][1])

    def _wait(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

"""The page server: web/ at /, converted models under /models/, a list of them at /models.json.

Every answer carries the headers that make the page cross-origin isolated, and a content security
policy under which it can load code from here only. It binds 127.0.0.1.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

from aiohttp import web

from doppler.command.wheel import ROOT
from doppler.errors import DopplerError, SourceError
from doppler.manifest import MANIFEST_FILE, Manifest

WEB = ROOT / "web"
HOST = "127.0.0.1"
PORT = 8642
MIME = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/x-icon",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".wasm": "application/wasm",
    ".webmanifest": "application/manifest+json",
    ".wgsl": "text/plain; charset=utf-8",
    ".whl": "application/zip",
    ".woff2": "font/woff2",
    ".zip": "application/zip",
}
# Scripts come from here only; wasm-unsafe-eval is for Pyodide. People may type any model address,
# so connections are open; what arrives over them is verified data and never code.
POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'wasm-unsafe-eval'",
        "worker-src 'self' blob:",
        "connect-src 'self' blob: data: http: https:",
        "img-src 'self' blob: data:",
        "style-src 'self' 'unsafe-inline'",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "Cache-Control": "no-cache",  # always ask; the ETag makes the answer short
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def file_under(root: Path, path: str) -> Path | None:
    """The file that a URL's path means, or None where there is none inside root."""
    if "\0" in path or "\\" in path or any(part.startswith(".") for part in path.split("/")):
        return None
    base = root.resolve()
    target = (base / path).resolve()
    return target if target.is_file() and target.is_relative_to(base) else None


def describe(folder: Path) -> dict[str, Any] | None:
    """What /models.json says of one model folder; None where its manifest cannot be read."""
    path = folder / MANIFEST_FILE
    try:
        manifest = Manifest.from_json(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError, DopplerError):
        return None  # `doppler verify` says what is wrong with it; the others are still served
    tokenizer = manifest.tokenizer
    return {
        "name": folder.name,
        "title": manifest.title,
        "url": f"models/{quote(folder.name)}/{MANIFEST_FILE}",
        "id": manifest.identity,
        "bytes": manifest.bytes,
        "architecture": manifest.config.architecture,
        "quantization": manifest.quantization,
        "parameters": manifest.parameters,
        "context": manifest.config.context,
        "license": manifest.license,
        "chat": tokenizer is not None and tokenizer.chat_template is not None,
    }


def models_in(folder: Path) -> list[dict[str, Any]]:
    """Every readable model below the folder, by name."""
    found = (describe(path.parent) for path in sorted(folder.glob(f"*/{MANIFEST_FILE}")))
    return [model for model in found if model]


def application(models: Path, root: Path = WEB) -> web.Application:
    """The aiohttp application over a folder of model folders."""

    def serve(folder: Path, path: str) -> web.StreamResponse:
        file = file_under(folder, path)
        if file is None:
            raise web.HTTPNotFound(text=f"there is no {path} here\n")
        headers = {"Content-Type": MIME.get(file.suffix, "application/octet-stream")}
        if file.suffix == ".bin":  # the page stores shards itself; a second copy only costs disk
            headers["Cache-Control"] = "no-store"
        return web.FileResponse(file, headers=headers)

    async def page(request: web.Request) -> web.StreamResponse:
        path = request.match_info["path"] or "index.html"
        if path.startswith("node_modules/"):
            raise web.HTTPNotFound(text="what the page ships is in vendor/\n")
        return serve(root, path)

    async def model(request: web.Request) -> web.StreamResponse:
        return serve(models, request.match_info["path"])

    async def listing(_: web.Request) -> web.StreamResponse:
        found = await asyncio.to_thread(models_in, models)
        return web.json_response({"models": found})

    async def add_headers(_: web.Request, response: web.StreamResponse) -> None:
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)

    app = web.Application()
    app.on_response_prepare.append(add_headers)
    app.router.add_get("/models.json", listing)
    app.router.add_get("/models/{path:.*}", model)
    app.router.add_get("/{path:.*}", page)
    return app


class Server:
    """The server in a thread of its own, as a context manager; `url` ends in a slash.

    models: folder of model folders. port: 0 takes a free one. root: the page's folder.
    Raises SourceError when the port cannot be had.
    """

    def __init__(self, models: Path, port: int = 0, root: Path = WEB) -> None:
        self._app = application(models, root)
        self._wanted = port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.port = 0

    @property
    def url(self) -> str:
        """Address of the page."""
        return f"http://{HOST}:{self.port}/"

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
        self._runner = web.AppRunner(self._app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, HOST, self._wanted).start()
        return int(self._runner.addresses[0][1])

    def _wait(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

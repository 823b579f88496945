"""A server of model files on an origin of its own, with the faults that real ones have."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PIECE = 64 << 10


class ModelServer(ThreadingHTTPServer):
    """Serves a folder, with CORS and ranges. Set the faults as a test needs them."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.requests: list[tuple[str, str]] = []  # (file's name, Range header)
        self.status: int | None = None  # answered to everything
        self.ranges = True
        self.stall_after: int | None = None  # bytes of a body after which nothing more comes
        self.cut_after: int | None = None  # bytes of a body after which the connection is closed
        self.released = threading.Event()  # ends the stalled ones

    @property
    def url(self) -> str:
        """Address of the folder, with a slash at its end."""
        return f"http://127.0.0.1:{self.server_address[1]}/"

    def handle_error(self, request: object, client_address: object) -> None:
        """Pages that go away in the middle of an answer are no news."""


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    server: ModelServer

    def do_GET(self) -> None:
        name = self.path.strip("/").split("?")[0]
        asked = self.headers.get("Range", "")
        self.server.requests.append((name, asked))
        path = self.server.folder / name
        if self.server.status is not None or not path.is_file():
            return self._answer(self.server.status or 404, b"no\n")
        data = path.read_bytes()
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", asked)
        if match is None or not self.server.ranges:
            return self._answer(200, data)
        start, end = int(match[1]), min(int(match[2]) + 1, len(data))
        if start >= end:
            return self._answer(416, b"")
        return self._answer(206, data[start:end], f"bytes {start}-{end - 1}/{len(data)}")

    def _answer(self, status: int, body: bytes, content_range: str | None = None) -> None:
        self.send_response(status)
        self.send_header("Access-Control-Allow-Origin", "*")
        self.send_header("Access-Control-Expose-Headers", "Content-Range")
        self.send_header("Content-Length", str(len(body)))
        if content_range:
            self.send_header("Content-Range", content_range)
        self.end_headers()
        with suppress(ConnectionError):
            self._send(body)

    def _send(self, body: bytes) -> None:
        for at in range(0, len(body), PIECE):
            if self.server.stall_after is not None and at >= self.server.stall_after:
                self.server.released.wait(60)
                self.close_connection = True
                return
            if self.server.cut_after is not None and at >= self.server.cut_after:
                self.close_connection = True
                return
            self.wfile.write(body[at : at + PIECE])

    def log_message(self, format: str, *args: object) -> None:
        """The list of requests is enough."""


@contextmanager
def model_server(folder: Path) -> Iterator[ModelServer]:
    """The server, running."""
    server = ModelServer(folder)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        server.shutdown()
        server.server_close()
        thread.join()

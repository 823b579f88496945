"""A server of model files on an origin of its own, with the faults that real ones have."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PIECE = 64 << 10


@dataclass
class Reply:
    """What is about to be sent, which a fault may change. `number` counts all requests, from 0."""

    name: str
    number: int
    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    exposed: str = "Content-Range, ETag, Link"
    query: str = ""
    length: bool = True  # whether Content-Length is told; else the connection's end is the body's
    pause: float = 0.0  # seconds after each byte of the body


class ModelServer(ThreadingHTTPServer):
    """Serves a folder, with CORS and ranges. Set the faults as a test needs them."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.requests: list[tuple[str, str]] = []  # (file's name, Range header)
        self.status: int | None = None  # answered to everything
        self.ranges = True
        self.headers: dict[str, str] = {}  # sent with every file
        self.fault: Callable[[Reply], None] = lambda reply: None
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
        reply = self._reply(name, asked)
        reply.query = self.path.partition("?")[2]
        self.server.requests.append((name, asked))
        self.server.fault(reply)
        self._answer(reply)

    do_HEAD = do_GET

    def _reply(self, name: str, asked: str) -> Reply:
        number = len(self.server.requests)
        path = self.server.folder / name
        if self.server.status is not None or not path.is_file():
            return Reply(name, number, self.server.status or 404, b"no\n")
        data = path.read_bytes()
        headers = dict(self.server.headers)
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", asked)
        if self.headers.get("If-Range") not in (None, *headers.values()):
            match = None
        if match is None or not self.server.ranges:
            return Reply(name, number, 200, data, headers)
        start, end = int(match[1]), min(int(match[2]) + 1, len(data))
        if start >= end:
            return Reply(name, number, 416, b"")
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
        return Reply(name, number, 206, data[start:end], headers)

    def _answer(self, reply: Reply) -> None:
        self.send_response(reply.status)
        self.send_header("Access-Control-Allow-Origin", "*")
        self.send_header("Access-Control-Expose-Headers", reply.exposed)
        if reply.length:
            reply.headers.setdefault("Content-Length", str(len(reply.body)))
        else:
            self.send_header("Connection", "close")
        for key, value in reply.headers.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        with suppress(ConnectionError):
            self._send(reply)

    def _send(self, reply: Reply) -> None:
        size = 1 if reply.pause else PIECE
        for at in range(0, len(reply.body), size):
            if self.server.stall_after is not None and at >= self.server.stall_after:
                self.server.released.wait(60)
                self.close_connection = True
                return
            if self.server.cut_after is not None and at >= self.server.cut_after:
                self.close_connection = True
                return
            if reply.pause and self.server.released.wait(reply.pause):
                return
            self.wfile.write(reply.body[at : at + size])

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

"""The page server over HTTP: what it serves, what it refuses, and the headers it adds."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from doppler.command.server import Server
from doppler.errors import SourceError
from storable import storable


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    top = tmp_path_factory.mktemp("top")
    (top / "secret.txt").write_text("outside")
    models = top / "models"
    storable().save(models / "noise")
    (models / "broken").mkdir()
    (models / "broken" / "manifest.json").write_text("{")
    (models / "newer").mkdir()
    newer = storable().manifest.to_json().replace('"type": "', '"type": "Q9_')
    (models / "newer" / "manifest.json").write_text(newer)
    (models / "link.txt").symlink_to(top / "secret.txt")
    with Server(models) as server:
        yield server


def get(
    server: Server, path: str, headers: dict[str, str] | None = None
) -> tuple[int, http.client.HTTPMessage, bytes]:
    """Status, headers, body. The path is sent as it is: urllib would tidy it."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        connection.request("GET", path, headers=headers or {})
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/vendor/comlink.js", "text/javascript; charset=utf-8"),
        ("/vendor/pyodide/pyodide.mjs", "text/javascript; charset=utf-8"),
        ("/vendor/pyodide/pyodide.asm.wasm", "application/wasm"),
        ("/kernels/norm.wgsl", "text/plain; charset=utf-8"),
        ("/catalogue.json", "application/json; charset=utf-8"),
        ("/models/noise/shard-00000.bin", "application/octet-stream"),
        ("/", "text/html; charset=utf-8"),
        ("/nothing", "text/plain; charset=utf-8"),
    ],
)
def test_every_answer_has_its_type_and_isolates_the_page(
    server: Server, path: str, kind: str
) -> None:
    _, headers, _ = get(server, path)
    assert headers["Content-Type"] == kind
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert "script-src 'self' 'wasm-unsafe-eval';" in headers["Content-Security-Policy"]


def test_ranges(server: Server) -> None:
    shard = storable().shard(1)
    path = "/models/noise/shard-00001.bin"
    status, headers, body = get(server, path, {"Range": "bytes=100-199"})
    assert (status, body) == (206, shard[100:200])
    assert headers["Content-Range"] == f"bytes 100-199/{len(shard)}"
    assert get(server, path, {"Range": "bytes=4194000-"})[2] == shard[4194000:]
    assert get(server, path, {"Range": f"bytes={len(shard)}-"})[0] == 416


def test_the_browser_asks_again_and_gets_a_short_answer(server: Server) -> None:
    _, headers, _ = get(server, "/catalogue.json")
    assert headers["Cache-Control"] == "no-cache"
    status, _, body = get(server, "/catalogue.json", {"If-None-Match": headers["ETag"]})
    assert (status, body) == (304, b"")


def test_the_browser_keeps_no_second_copy_of_shards(server: Server) -> None:
    assert get(server, "/models/noise/shard-00000.bin")[1]["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    "path",
    [
        "/models/../secret.txt",
        "/models/%2e%2e/secret.txt",
        "/models/..%2fsecret.txt",
        "/models/noise/..%2f..%2f..%2fsecret.txt",
        "/models/link.txt",
        "/models//etc/passwd",
        "//etc/passwd",
        "/%00",
        "/..%5cpyproject.toml",
        "/../pyproject.toml",
        "/.npmrc",
        "/node_modules/comlink/package.json",
        "/vendor",
    ],
)
def test_nothing_outside_is_served(server: Server, path: str) -> None:
    status, _, body = get(server, path)
    assert status == 404
    assert b"outside" not in body


def test_the_list_names_readable_models_only(server: Server) -> None:
    listed = json.loads(get(server, "/models.json")[2])["models"]
    assert [model["name"] for model in listed] == ["noise"]
    model, manifest = listed[0], storable().manifest
    assert model["id"] == manifest.identity
    assert model["bytes"] == manifest.bytes
    assert model["chat"] is False
    assert get(server, "/" + model["url"])[0] == 200


def test_a_port_that_is_taken_is_told(server: Server, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=f"port {server.port} .* --port"):
        Server(tmp_path, server.port).start()

"""The page server over HTTP: what it serves, what it refuses, and the headers it adds."""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from doppler.command.served import listing
from doppler.command.server import WEB, Server
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
    bad_models(models, top)
    with Server(models, names=["Box.example"]) as server:
        yield server


def bad_models(models: Path, top: Path) -> None:
    """Folders with a manifest that is none, and links of all kinds."""
    sound = storable(1).manifest
    texts: dict[str, bytes] = {
        "empty": b"",
        "cut": sound.to_json().encode()[:500],
        "deep": b"[" * 100_000,
        "deeper": b'{"doppler": 1, "description": ' + b'{"a":' * 50_000,
        "list": b"[]",
        "number": b"1e999",
        "digits": b"1" * 10_000,
        "latin": '{"name": "ä"}'.encode("latin-1"),
        "surrogate": sound.to_json().replace("Noise 1", "\\ud800").encode(),
        "types": sound.to_json().replace('"heads": 4', '"heads": [[]]').encode(),
        "shapes": sound.to_json().replace('"shards": [', '"shards": [5, ').encode(),
        "renamed": sound.to_json().replace('"bytes": 1048576', '"bytes": 1048577').encode(),
        "shardless": sound.to_json().encode(),
        "identity": sound.to_json().replace('"identity": "', '"identity": "0').encode(),
    }
    for name, data in texts.items():
        (models / name).mkdir()
        (models / name / "manifest.json").write_bytes(data)
    with (models / "huge").with_name("huge.bin").open("wb") as file:
        file.truncate(3 << 30)
    (models / "huge").mkdir()
    (models / "huge.bin").rename(models / "huge" / "manifest.json")
    (models / "folder" / "manifest.json").mkdir(parents=True)
    (models / "loop").symlink_to(models / "loop")
    (models / "stray").write_text("no folder")
    storable(2).save(top / "elsewhere")
    (models / "linked").symlink_to(top / "elsewhere")
    storable(3).save(models / "leak")
    (models / "leak" / "shard-00000.bin").unlink()
    (models / "leak" / "shard-00000.bin").symlink_to(top / "secret.txt")
    storable(4).save(models / ".hidden")
    storable(5).save(models / "two words #1%20")
    os.mkfifo(models / "folder" / "pipe.bin")
    nobody = models / os.fsdecode(b"\xff")
    nobody.mkdir()
    (nobody / "manifest.json").write_text(sound.to_json())


def get(
    server: Server, path: str, headers: dict[str, str] | None = None, method: str = "GET"
) -> tuple[int, http.client.HTTPMessage, bytes]:
    """Status, headers, body. The path is sent as it is: urllib would tidy it."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        connection.request(method, path, headers=headers or {})
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
        ("/kernels/layer/norm.wgsl", "text/plain; charset=utf-8"),
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
        "/vendor/",
        "/package.json",
        "/package-lock.json",
        "/tsconfig.json",
        "/tsconfig.worker.json",
        "/.prettierignore",
        "/README.md",
        "/app/types.d.ts",
        "/runtime/messages.d.ts",
        "/vendor/comlink.d.ts",
        "/vendor/pyodide/pyodide.d.mts",
        "/vendor/.doppler-wheel.sha256",
        "/app/../package.json",
        "/app/%2e%2e/package.json",
        "/app//main.js",
        "/" + "x" * 300,
        "/app/" + "x" * 300 + ".js",
        "/models/" + "x" * 300,
        "/models/noise/" + "x" * 5000,
        "/models/loop",
        "/models/loop/manifest.json",
        "/models/stray/manifest.json",
        "/models/folder/manifest.json",
        "/models/folder/pipe.bin",
        "/models/leak/shard-00000.bin",
        "/models/linked/../../secret.txt",
        "/models/linked/..%2fsecret.txt",
        "/models/.hidden/manifest.json",
        "/models/noise",
        "/models/",
        "/models",
        "/%ff",
        "/%0a",
        "/models/%ed%a0%80/manifest.json",
        "/models/noise/manifest.json%00.bin",
    ],
)
def test_nothing_outside_is_served(server: Server, path: str) -> None:
    status, _, body = get(server, path)
    assert status == 404
    assert b"outside" not in body


def test_what_is_listed_is_served_and_what_is_damaged_costs_itself_only(server: Server) -> None:
    listed = json.loads(get(server, "/models.json")[2])["models"]
    assert [model["name"] for model in listed] == ["linked", "noise", "two words #1%20"]
    model, manifest = listed[1], storable().manifest
    assert model["id"] == manifest.identity
    assert model["bytes"] == manifest.bytes
    assert model["chat"] is False
    for model in listed:
        status, _, body = get(server, "/" + model["url"])
        assert (status, json.loads(body)["identity"]) == (200, model["id"])
        for shard in json.loads(body)["shards"]:
            path = "/" + model["url"].replace("manifest.json", shard["name"])
            assert get(server, path, {"Range": "bytes=0-9"})[0] == 206


def test_each_model_that_is_left_out_is_told(server: Server) -> None:
    problems = listing(server.models).problems
    for name in (
        "broken",
        "newer",
        "deep",
        "huge",
        "folder",
        "leak",
        "latin",
        "surrogate",
        "types",
    ):
        assert any(f"/{name}" in problem for problem in problems), (name, problems)
    assert len(problems) == 20
    assert all(problem.isprintable() for problem in problems)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:{port}", 200),
        ("127.0.0.1", 200),
        ("localhost:{port}", 200),
        ("LOCALHOST", 200),
        ("[::1]:{port}", 200),
        ("box.example:{port}", 200),
        ("evil.example:{port}", 421),
        ("evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost.evil.example:{port}", 421),
        ("evil@127.0.0.1", 421),
        ("127.0.0.1:80:80", 421),
        ("0.0.0.0:{port}", 421),
        ("", 421),
    ],
)
@pytest.mark.parametrize(
    "path", ["/", "/models.json", "/models/noise/shard-00000.bin", "/nothing", "/models/nothing"]
)
def test_a_page_of_another_name_reads_nothing(
    server: Server, host: str, status: int, path: str
) -> None:
    got, headers, body = get(server, path, {"Host": host.format(port=server.port)})
    assert got == (404 if status == 200 and "nothing" in path else status)
    if got == 421:
        assert body.count(b"\n") == 1
        assert b"--host-name" in body
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"


def test_a_request_that_names_a_whole_address(server: Server) -> None:
    """As to a proxy: the address counts, not the Host beside it."""
    assert get(server, "http://evil.example/models.json", {"Host": "127.0.0.1"})[0] == 421


@pytest.mark.parametrize(
    "method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"]
)
@pytest.mark.parametrize("path", ["/", "/models.json", "/models/noise/manifest.json", "/nothing"])
def test_nothing_but_get_and_head(server: Server, method: str, path: str) -> None:
    assert get(server, path, method=method)[0] == 405


@pytest.mark.parametrize(
    "sent",
    [
        b"GET * HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: " + b"a" * 9000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nA\x00: b\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\r\n\r\n",
    ],
)
def test_what_is_no_http_is_answered_and_logged_nowhere(
    server: Server, sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(sent)
        assert b" 400 " in connection.recv(4096).splitlines()[0]
    assert caplog.records == []


def test_head_is_get_without_a_body(server: Server) -> None:
    status, headers, body = get(server, "/models/noise/shard-00000.bin", method="HEAD")
    assert (status, body) == (200, b"")
    assert headers["Content-Length"] == str(len(storable().shard(0)))


def test_a_range_of_another_file_is_the_whole_file(server: Server) -> None:
    path = "/models/noise/shard-00001.bin"
    tag = get(server, path, method="HEAD")[1]["ETag"]
    asked = {"Range": "bytes=100-199"}
    assert get(server, path, asked | {"If-Range": tag})[0] == 206
    for other in ('"0-0"', f"W/{tag}", "Thu, 01 Jan 1970 00:00:00 GMT"):
        status, _, body = get(server, path, asked | {"If-Range": other})
        assert (status, len(body)) == (200, len(storable().shard(1)))
    assert get(server, path, asked | {"If-Match": '"0-0"'})[0] == 412


def test_a_file_that_nobody_may_read(server: Server) -> None:
    path = server.models / "noise" / "quality.json"
    path.write_text("{}")
    path.chmod(0)
    assert get(server, "/models/noise/quality.json")[0] in (
        403,
        *([200] if os.geteuid() == 0 else []),
    )
    path.unlink()


def test_what_the_page_is_made_of_is_served(server: Server) -> None:
    parts = [path for path in WEB.rglob("*") if path.is_file()]
    parts = [path for path in parts if "node_modules" not in path.parts]
    for path in parts:
        name = path.relative_to(WEB).as_posix()
        served = get(server, "/" + name, method="HEAD")[0] == 200
        ours = not name.startswith(("package", "tsconfig")) and path.suffix not in (".ts", ".mts")
        assert served == (ours and path.name[0] != "."), name


def test_a_port_that_is_taken_is_told(server: Server, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=f"port {server.port} .* --port"):
        Server(tmp_path, server.port).start()


def test_a_shard_of_another_size_is_not_served(tmp_path: Path) -> None:
    storable().save(tmp_path / "noise")
    shard = tmp_path / "noise" / "shard-00002.bin"
    for data in (shard.read_bytes()[:-1], shard.read_bytes() + b"x"):
        shard.write_bytes(data)
        found = listing(tmp_path)
        assert found.models == []
        (problem,) = found.problems
        assert f"{shard} has {len(data)} bytes instead of 4194304" in problem

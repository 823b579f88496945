"""Folders that commands write into: nothing that somebody has is lost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from doppler.cli import main
from doppler.command import catalogue
from gguf_files import write_llama
from storable import storable

FIXTURES = Path(__file__).parents[1] / "fixtures"
LLAMA, QWEN = str(FIXTURES / "llama32-like"), str(FIXTURES / "qwen3-like")
Said = pytest.CaptureFixture[str]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_another_model_is_not_written_over(tmp_path: Path, capsys: Said) -> None:
    out = tmp_path / "out"
    assert main(["convert", LLAMA, "-o", str(out)]) == 0
    before = files(out)
    for asked in (["convert", QWEN], ["synth", "gemma-3-270m", "--layers", "1"]):
        assert main([*asked, "-o", str(out)]) == 2
        told = capsys.readouterr().err
        assert f"{out} holds another model (out): give another folder, or remove" in told
        assert files(out) == before


def test_the_same_shapes_with_other_numbers_are_another_model(tmp_path: Path, capsys: Said) -> None:
    other = tmp_path / "other"
    shutil.copytree(LLAMA, other)
    weights = next(other.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-2] + b"\0\1")
    out = tmp_path / "out"
    assert main(["convert", LLAMA, "-o", str(out)]) == 0
    before = files(out)
    assert main(["convert", str(other), "-o", str(out)]) == 2
    assert "holds another model" in capsys.readouterr().err
    assert files(out) == before


def test_the_same_conversion_again_mends(tmp_path: Path, capsys: Said) -> None:
    out = tmp_path / "out"
    asked = ["convert", str(FIXTURES / "gpt-oss-like"), "-o", str(out), "--shard-size", "1M"]
    assert main(asked) == 0
    before = files(out)
    assert main(asked) == 0
    assert files(out) == before
    (out / "shard-00000.bin").write_bytes(before["shard-00000.bin"][:-1])
    (out / "shard-00001.bin").unlink()
    assert main(asked) == 0
    assert files(out) == before
    capsys.readouterr()
    assert main([*asked[:-1], "2M"]) == 2
    assert "holds this model in shards of another size" in capsys.readouterr().err
    assert files(out) == before
    (out / "manifest.json").write_text("{")
    assert main(asked) == 2
    assert "out is in use (" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["tokenizer.json", "quality.json", "adapter.json"])
def test_what_is_no_model_of_ours_stays(name: str, tmp_path: Path, capsys: Said) -> None:
    """A checkpoint, say, which has a tokenizer.json."""
    storable().save(tmp_path / "noise")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("mine")
    for asked in (["convert", LLAMA], ["recut", str(tmp_path / "noise"), "--shard-size", "1M"]):
        assert main([*asked, "-o", str(tmp_path / "out")]) == 2
        assert f"out has a {name} already: give another folder" in capsys.readouterr().err
    assert files(tmp_path / "out") == {name: b"mine"}


def test_what_an_interrupted_command_left_is_written_over(tmp_path: Path) -> None:
    """And files that only begin like shards are somebody's."""
    (tmp_path / "out").mkdir()
    for name in ("shard-00000.bin", "shard-00007.bin", "shard-list.txt", "tokenizer.json"):
        (tmp_path / "out" / name).write_text(name)
    assert main(["convert", LLAMA, "-o", str(tmp_path / "out")]) == 0
    assert {*files(tmp_path / "out")} == {"manifest.json", "shard-00000.bin", "shard-list.txt"}
    assert main(["verify", str(tmp_path / "out")]) == 0


@pytest.mark.parametrize("inside", ["", "models/out"])
def test_a_file_where_a_folder_should_be(inside: str, tmp_path: Path, capsys: Said) -> None:
    (tmp_path / "file").write_text("in the way")
    assert main(["convert", LLAMA, "-o", str(tmp_path / "file" / inside)]) == 1
    assert f"{tmp_path / 'file'} is no folder; choose another folder" in capsys.readouterr().err


def test_pull_gives_a_title_and_replaces_no_other_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    entry = catalogue.Entry("tiny", "Tiny", 1, "MIT", "http://none.example/", (), None)
    monkeypatch.setattr(catalogue, "find", lambda name: entry)

    def fetch(*_: object) -> Path:
        write_llama(tmp_path / "tiny.gguf")
        return tmp_path / "tiny.gguf"

    monkeypatch.setattr(catalogue, "fetch", fetch)
    out, asked = (
        tmp_path / "models" / "tiny",
        ["pull", "tiny", "--models", str(tmp_path / "models")],
    )
    assert main(asked) == 0
    whole = files(out)
    manifest = json.loads(whole["manifest.json"])
    assert (manifest["title"], manifest["license"]) == ("Tiny", "MIT")
    (out / "shard-00000.bin").write_bytes(b"")
    assert main(asked) == 0
    assert "tiny is fetched again: " in capsys.readouterr().err
    assert files(out) == whole
    shutil.rmtree(out)
    storable().save(out)
    (out / "shard-00000.bin").unlink()
    before = files(out)
    assert main(asked) == 2
    assert "holds another model" in capsys.readouterr().err
    assert files(out) == before

"""Strangers' files by `doppler convert`: one line that says what is wrong, and an exit code."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from checkpoint_files import write_checkpoint, write_tokenizer
from doppler.cli import main
from gguf_files import gguf_bytes, llama_metadata, llama_tensors

BIG = 10**400
TENSORS = llama_tensors()
GGUF: dict[str, dict[str, Any]] = {  # keys that differ from a sound file's
    "split.count": {"split.count": 2**32 - 1},
    "parts": {"split.no": 0, "split.count": 99_999},
    "layers and experts": {"llama.block_count": 4096, "llama.expert_count": 1024},
    "layers": {"llama.block_count": 2**32 - 1},
    "experts": {"llama.expert_count": [1, 2]},
    "scale": {"llama.logit_scale": []},
    "scaling type": {"llama.rope.scaling.type": []},
    "architecture": {"general.architecture": ["llama"]},
    "alignment": {"general.alignment": ("u64", 2**63)},
    "epsilon": {"llama.attention.layer_norm_rms_epsilon": ("f64", 1e300)},
    "base": {"llama.rope.freq_base": ("f64", 1e-300)},
    "width": {"llama.embedding_length": ("u64", 2**64 - 1)},
    "escapes": {"general.architecture": "\x1b[2J\u202e\n" * 1000},
}
CONFIG: dict[str, dict[str, Any]] = {
    "epsilon": {"rms_norm_eps": BIG},
    "heads": {"head_dim": BIG},
    "no number": {"rms_norm_eps": float("nan")},
    "layers": {"num_hidden_layers": 10**9},
    "vocabulary": {"vocab_size": 2**31 - 1},
    "layer types": {"layer_types": "full_attention"},
    "rope": {"rope_scaling": [1]},
    "rope base": {"rope_theta": BIG},
    "half a character": {"model_type": "\ud800"},
    "text": {"text_config": 5},
    "fp8": {"quantization_config": {"quant_method": "fp8"}, "model_type": "deepseek_v3"},
}


def refused(path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What the command line says of a file or folder that cannot be used, at once."""
    start = time.process_time()
    assert main(["convert", str(path), "-o", str(path.parent / "made")]) == 1
    assert time.process_time() - start < 2
    told = capsys.readouterr().err
    assert told.startswith("doppler: ")
    assert told.endswith("\n")
    assert told[:-1].isprintable()
    assert len(told) < 500
    assert not (path.parent / "made").exists()
    return told


@pytest.mark.parametrize("name", GGUF)
def test_gguf_files(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(gguf_bytes(llama_metadata() | GGUF[name], TENSORS))
    assert "x.gguf" in refused(path, capsys)


@pytest.mark.parametrize("name", CONFIG)
def test_configs(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_checkpoint(tmp_path / "x", 266)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | CONFIG[name]))
    told = refused(folder, capsys)
    assert ("FP8" in told) == (name == "fp8")


def nested(path: Path) -> None:
    path.write_bytes(b'{"a":' * 100_000)


def twice(path: Path) -> None:
    path.write_text(path.read_text().replace("{", '{"model_type": "llama", ', 1))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def other(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\x00[1]")


@pytest.mark.parametrize("damage", [nested, twice, cut, other])
def test_json(
    damage: Callable[[Path], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_tokenizer(write_checkpoint(tmp_path / "x", 266))
    damage(folder / "config.json")
    assert "config.json: its JSON is damaged" in refused(folder, capsys)


def test_a_file_with_a_name_of_several_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x\n\x1b[31m\u202ey.gguf"
    path.write_bytes(b"GGUF" + bytes(30))
    assert r"x\n\x1b[31m\u202ey.gguf is GGUF version 0" in refused(path, capsys)

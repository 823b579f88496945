"""`doppler quality`: what keys and values in fewer bits cost a tiny model, in the real page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from doppler.cli import main
from doppler.command.browser import Browser
from fixture_sets import FIXTURES


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("models") / "tiny"
    assert main(["convert", str(FIXTURES / "llama32-like"), "-o", str(target)]) == 0
    return target


def test_fewer_bits_take_less_and_cost_more(
    tiny: Path, browser: Browser, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = ["--adapter", browser.adapter]
    if browser.executable:
        chosen += ["--browser", browser.executable]
    capsys.readouterr()
    assert main(["quality", str(tiny), "--tokens", "40", "--json", *chosen]) == 0
    told = json.loads(capsys.readouterr().out)
    config = json.loads((tiny / "manifest.json").read_text("utf-8"))["description"]["config"]
    assert (told["model"], told["tokens"], told["context"]) == ("tiny", 40, config["context"])
    exact, half, eight = told["types"]
    assert [it["kv"] for it in told["types"]] == ["f32", "f16", "q8"]
    assert exact.keys() == {"kv", "bytes"}
    width = config["head_dim"]
    assert half["bytes"] * 2 == exact["bytes"]
    row = width + -(-width // 64) * 8
    assert eight["bytes"] * 4 * width == exact["bytes"] * row
    assert 0 < 10 * half["kl_mean"] < eight["kl_mean"] < 0.01
    assert half["tokens"] == eight["tokens"] == 40
    assert half["perplexity_before"] == eight["perplexity_before"]


def test_f32_is_not_compared_with_itself(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quality", str(tiny), "--kv", "f32"]) == 2
    assert "--kv f32 is what others are compared with" in capsys.readouterr().err

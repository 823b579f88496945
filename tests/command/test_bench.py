"""`doppler bench` on a tiny model: every figure is there, and agrees with what it is made of."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from doppler.cli import main
from doppler.command.bench import command, measure
from doppler.command.bench.card import watched_card
from doppler.command.bench.kernel_times import lines
from doppler.command.bench.plot import svg
from doppler.command.bench.report import tables
from doppler.command.browser import Browser
from doppler.command.shapes import SHAPES
from doppler.command.terminal import Terminal
from doppler.store.manifest import MANIFEST_FILE, Manifest

TINY = Path(__file__).parents[1] / "fixtures" / "gemma3-1b-like"
NVIDIA_SMI = """#!{python}
import sys, time
if "--query-gpu=name" in sys.argv:
    print("NVIDIA Test 9000")
while "--query-gpu=clocks.sm" in sys.argv:
    print("1980", flush=True)
    time.sleep(0.01)
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("models") / "tiny"
    assert main(["convert", str(TINY), "-o", str(target)]) == 0
    return target


@pytest.fixture(scope="module")
def bench(model: Path, browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with result.json and plot.svg of one bench."""
    folder = tmp_path_factory.mktemp("bench")
    lengths = ["--prompt", "16", "--contexts", "64", "16", "2000", "--tokens", "4", "--runs", "1"]
    chosen = ["--adapter", browser.adapter]
    if browser.executable:
        chosen += ["--browser", browser.executable]
    more = ["--kv", "f32", "--context", "96", "--profile", "--plot", str(folder / "plot.svg")]
    with (folder / "result.json").open("w") as out, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        patch.setattr(measure, "WARM_SECONDS", 0)  # no figure is looked at for its size
        patch.setattr(measure, "SETTLE_MS", 0)
        assert main(["bench", str(model), *lengths, *more, *chosen, "--json"]) == 0
    return folder


@pytest.fixture(scope="module")
def result(bench: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((bench / "result.json").read_text())
    return told


def test_a_token(result: dict[str, Any], model: Path) -> None:
    """Bytes are those of the model's matrices, once, and of the keys that the token sees."""
    manifest = Manifest.from_json((model / MANIFEST_FILE).read_text(), "tiny")
    matrices = [tensor for tensor in manifest.tensors if len(tensor.shape) == 2]
    assert manifest.config.tied
    token, config = result["per_token"], manifest.config
    assert token["context"] == 16
    columns = {tensor.name: -(-tensor.shape[1] // 4) * 4 for tensor in matrices}  # vec4s
    assert token["weight_bytes"] == sum(2 * t.shape[0] * columns[t.name] for t in matrices)
    seen = [min(17, layer.window or 17) for layer in config.layers]
    assert token["kv_bytes"] == 2 * 4 * config.shape(0).kv_width * sum(seen)
    assert token["dispatches"] == sum(k["count"] for k in result["profile"]["decode"]["kernels"])
    assert 0 < token["submits"] <= 2
    assert token["buffers"] == token["bind_groups"] == 0
    assert 0 < token["bytes_read"] < 4096


def test_rates(result: dict[str, Any]) -> None:
    """Contexts in order, those that fit; shares are of the shortest, and of the read bandwidth."""
    decode, ceiling = result["decode"], result["bandwidth"]["gb_s"]
    assert [entry["context"] for entry in decode] == [16, 64]
    assert ceiling > 0
    for entry in decode:
        assert 0 < entry["tok_s_min"] <= entry["tok_s"] <= entry["tok_s_max"]
        gb_s = (entry["weight_bytes"] + entry["kv_bytes"]) * entry["tok_s"] / 1e9
        assert entry["gb_s"] == pytest.approx(gb_s, abs=1e-3)
        # Of what was not rounded: on a slow machine so small a model reads a thousandth.
        assert entry["bandwidth_share"] == pytest.approx(gb_s / ceiling, abs=1e-4)
        assert entry["share"] == pytest.approx(entry["tok_s"] / decode[0]["tok_s"], abs=1e-4)
    assert decode[0]["kv_bytes"] < decode[1]["kv_bytes"]
    (prefill,) = result["prefill"]
    assert prefill["tokens"] == 16
    assert prefill["tok_s"] == pytest.approx(16_000 / prefill["ttft_ms"], rel=0.1)


def test_start_and_memory(result: dict[str, Any]) -> None:
    stages = {stage["stage"]: stage for stage in result["start"]["timeline"]}
    assert set(stages) >= {"page", "python", "device", "weights", "compile", "first token"}
    assert result["start"]["total_ms"] == stages["first token"]["end"]
    memory = result["memory"]
    kinds = [memory[kind] for kind in ("weights", "kv", "activations", "staging")]
    assert memory["total"] == sum(kinds)
    assert memory["ratio"] == pytest.approx(memory["total"] / (kinds[0] + kinds[1]), abs=1e-4)
    assert memory["context"] > result["context"] == 96, "memory is told for a context of its own"


def test_loading_beside_storage_alone(result: dict[str, Any]) -> None:
    stages = {stage["stage"]: stage for stage in result["start"]["timeline"]}
    seconds = (stages["weights"]["end"] - stages["weights"]["start"]) / 1000
    size, load, storage = result["model"]["bytes"], result["load"], result["storage"]
    assert load["gb_s"] == pytest.approx(size / seconds / 1e9, abs=1e-3)
    assert storage["bytes"] == size
    assert storage["gb_s"] > 0
    assert load["storage_share"] == pytest.approx(size / seconds / 1e9 / storage["gb_s"], abs=1e-3)


def test_where_it_ran(result: dict[str, Any]) -> None:
    assert "Chrome/" in result["browser"]
    assert result["adapter"]["vendor"]
    assert result["model"]["name"] == "tiny"


def test_profile(result: dict[str, Any]) -> None:
    """Kinds of dispatches without their layers' numbers, the longest first."""
    for profile in result["profile"].values():
        times = [kernel["us"] for kernel in profile["kernels"]]
        assert times == sorted(times, reverse=True)
        assert times[0] > 0
        assert not any("blk." in kernel["label"] for kernel in profile["kernels"])
        assert sum(kernel["share"] for kernel in profile["kernels"]) == pytest.approx(1, abs=0.01)


def test_lines() -> None:
    each = {"kernel": "matvec", "bytes": 6_000_000, "flops": 12_000_000}
    timings = [
        {"label": "ffn_down", "count": 2, "us": 4.0, **each},
        {"label": "head", "count": 1, "us": 16.0, **each},
    ]
    head, down = lines(timings, 3000.0)
    assert head["label"] == "head"
    assert (down["label"], down["count"], down["us"], down["share"]) == ("ffn_down", 2, 4.0, 0.2)
    assert (down["gb_s"], down["tflop_s"], down["bandwidth_share"]) == (1500.0, 3.0, 0.5)


def test_shown(result: dict[str, Any], bench: Path) -> None:
    """Tables and plot have each figure's name; the plot is well-formed."""
    text = tables(result)
    assert f"{result['per_token']['dispatches']:g} dispatches" in text
    assert "ffn_gate_up: matvec" in text
    assert f"at a context of {result['memory']['context']}" in text
    drawn = (bench / "plot.svg").read_text()
    assert drawn == svg(result)
    texts = [element.text for element in ElementTree.fromstring(drawn).iter() if element.text]
    assert {"after 64", "16 tokens", "first token", "weights"} <= set(texts)


@pytest.mark.parametrize(
    ("ask", "code", "reason"),
    [
        (["--tokens", "1"], 2, "--tokens is 1: a rate takes 2 or more"),
        (["--prompt", "0"], 2, "--prompt is 0"),
        (["--runs", "0"], 2, "--runs is 0"),
        (["--plot", "nowhere/plot.svg"], 2, "there is no nowhere"),
    ],
)
def test_what_cannot_be_measured(
    ask: list[str], code: int, reason: str, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", str(model), *ask]) == code
    assert reason in capsys.readouterr().err


def test_a_model_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "gemma-9"]) == 1
    assert "gemma-9 has no manifest.json" in capsys.readouterr().err


def test_synthetic_models_are_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = replace(SHAPES["llama-3.2-1b"], vocab=512, layers=SHAPES["llama-3.2-1b"].layers[:1])
    monkeypatch.setitem(SHAPES, "small", small)
    monkeypatch.setattr(command, "SYNTHETIC", tmp_path)
    made = [command._folder("small", Terminal(True)) / MANIFEST_FILE for _ in range(2)]
    assert made == [tmp_path / "small" / MANIFEST_FILE] * 2
    manifest = Manifest.from_json(made[0].read_text(), "small")
    assert manifest.config.vocab == 512


def test_the_cards_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with watched_card() as card:
        assert card is None
    program = tmp_path / "nvidia-smi"
    program.write_text(NVIDIA_SMI.format(python=sys.executable))
    program.chmod(0o755)
    start = time.monotonic()
    with watched_card() as card:
        assert card is not None
        assert card.name == "NVIDIA Test 9000"
        while card.clock_since(start) is None:
            assert time.monotonic() < start + 20, "no sample came"
            time.sleep(0.01)
        assert card.clock_since(start) == 1980
        assert card.clock_since(time.monotonic() + 60) is None

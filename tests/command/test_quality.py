"""The quality report: its figures against plain formulas, and the command that prints it."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tokenizers import Tokenizer

from checkpoint_files import write_as_checkpoint, write_checkpoint, write_tokenizer
from doppler.cli import main
from doppler.command.quality import measure, token_ids
from doppler.command.sample_text import TEXT
from doppler.convert.quality import compare
from doppler.errors import CorruptError, FormatError
from doppler.store.manifest import Manifest
from gguf_files import write_llama
from numpy_model import NumpyModel

FIXTURES = Path(__file__).parents[1] / "fixtures"
Floats = npt.NDArray[np.float32]


def plainly(before: Floats, after: Floats, following: Sequence[int]) -> dict[str, float]:
    """The figures, position by position and token by token, in Python's own numbers."""
    divergences, losses, same = [], [], 0
    for a, b, token in zip(before.tolist(), after.tolist(), following, strict=True):
        p, q = [[math.exp(z) / sum(map(math.exp, row)) for z in row] for row in (a, b)]
        divergences.append(sum(x * math.log(x / y) for x, y in zip(p, q, strict=True)))
        losses.append((-math.log(p[token]), -math.log(q[token])))
        same += p.index(max(p)) == q.index(max(q))
    n = len(divergences)
    ordered = sorted(divergences)
    rank = 0.99 * (n - 1)
    low = ordered[int(rank)]
    return {
        "tokens": n,
        "kl_mean": sum(divergences) / n,
        "kl_median": (ordered[(n - 1) // 2] + ordered[n // 2]) / 2,
        "kl_p99": low + (rank % 1) * (ordered[min(int(rank) + 1, n - 1)] - low),
        "agreement": same / n,
        "perplexity_before": math.exp(sum(loss for loss, _ in losses) / n),
        "perplexity": math.exp(sum(loss for _, loss in losses) / n),
    }


@pytest.mark.parametrize("n", [1, 2, 150])
def test_figures_equal_plain_formulas(n: int) -> None:
    rng = np.random.default_rng(n)
    before = 4 * rng.normal(size=(n, 37)).astype(np.float32)
    after = before + rng.normal(size=(n, 37)).astype(np.float32)
    following = rng.integers(0, 37, n).tolist()
    expected = plainly(before, after, following)
    assert compare(before, after, following).described() == pytest.approx(expected, rel=1e-9)
    assert n < 100 or 0.1 < expected["agreement"] < 0.9


def test_a_model_equals_itself_however_large_its_logits() -> None:
    logits = np.array([[1e4, -1e4, 0], [-3e4, -3e4, -3.1e4]], np.float32)
    told = compare(logits, logits, [0, 1])
    assert (told.kl_mean, told.kl_p99, told.agreement) == (0, 0, 1)
    assert told.perplexity == told.perplexity_before == pytest.approx(math.sqrt(2))


def test_a_known_divergence() -> None:
    """From a fair coin to one of 3 to 1: ln 2 - (ln 3)/2 - ... = ½ ln(½/¾) + ½ ln(½/¼)."""
    before, after = np.zeros((1, 2), np.float32), np.log(np.array([[3, 1]], np.float32))
    told = compare(before, after, [1])
    assert told.kl_mean == pytest.approx(0.5 * math.log(4 / 3), rel=1e-6)
    assert (told.perplexity_before, told.perplexity) == pytest.approx((2, 4))


def convert(source: Path, target: Path, *args: str) -> dict[str, Any]:
    """What the command prints with --json, in a process of its own."""
    command = [sys.executable, "-m", "doppler.cli", "convert", str(source), "-o", str(target)]
    done = subprocess.run([*command, *args, "--json"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


@pytest.mark.parametrize("name", ["gemma3-1b-like", "llama32-like", "qwen3-like"])
def test_report_without_a_tokenizer(tmp_path: Path, name: str) -> None:
    """Random ids; the figures are those of the whole models in memory."""
    convert(FIXTURES / name, tmp_path / "plain")
    told = convert(FIXTURES / name, tmp_path / "q", "--quant", "q8_0", "--quality-tokens", "40")
    report = told["quality"]
    assert json.loads((tmp_path / "q" / "quality.json").read_text()) == report
    assert (report["quant"], report["text"]) == ("q8_0", "random ids: the model has no tokenizer")
    models = [NumpyModel(tmp_path / "plain"), NumpyModel(tmp_path / "q")]
    ids = np.random.default_rng(0).integers(0, models[0].config.vocab, 41).tolist()
    before, after = (model.logits(ids[:-1]) for model in models)
    expected = plainly(before, after, ids[1:])
    figures = {key: report[key] for key in expected}
    assert figures == pytest.approx(expected, rel=1e-4)  # float32 logits
    assert 0 < np.linalg.norm(before - after) / np.linalg.norm(before) < 0.03
    assert 0 < report["kl_mean"] < 2e-3
    assert report["agreement"] >= 0.9


def test_report_on_a_real_model(tmp_path: Path, models: Path) -> None:
    """SmolLM2 in Q8_0 is almost as it was; 63.4 is the original's perplexity on 64 tokens."""
    source = write_as_checkpoint(models / "smollm2-135m-instruct", tmp_path / "hf")
    asked = ("--quant", "q8_0", "--quality-tokens", "64")
    report = convert(source, tmp_path / "q", *asked)["quality"]
    assert (report["tokens"], report["kept"]) == (64, [])
    assert 1e-4 < report["kl_mean"] < 3e-3
    assert report["agreement"] > 0.96
    assert report["perplexity_before"] == pytest.approx(63.4, abs=0.4)
    assert report["perplexity"] == pytest.approx(report["perplexity_before"], rel=0.01)


def test_fewer_bits_cost_more(tmp_path: Path) -> None:
    told = {
        quant: convert(FIXTURES / "llama32-like", tmp_path / quant, "--quant", quant)
        for quant in ("q4_0", "q8_0")
    }
    assert told["q4_0"]["bytes"] < told["q8_0"]["bytes"]
    assert told["q4_0"]["quality"]["kl_mean"] > 20 * told["q8_0"]["quality"]["kl_mean"] > 0


def test_report_on_a_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_tokenizer(write_checkpoint(tmp_path / "hf", 266))
    text = tmp_path / "cab.txt"
    text.write_text("ab abc, a cab\n" * 30)
    output = tmp_path / "q"
    args = ["convert", str(source), "-o", str(output), "--quant", "q4_0", "--text", str(text)]
    assert main([*args, "--quality-tokens", "90"]) == 0
    shown = capsys.readouterr().out
    assert "all sound\nmatrices left as they were: 1 of 8 (blk.0.ffn_down.weight first); " in shown
    assert "\nquality against the unquantised model, 90 tokens (cab.txt): KL divergence " in shown
    report = json.loads((output / "quality.json").read_text())
    assert report["kept"] == ["blk.0.ffn_down.weight"]
    assert f"KL divergence {report['kl_mean']:.4f} nats (median " in shown
    assert f"top-1 agreement {100 * report['agreement']:.1f} %" in shown
    ids = [
        1,
        *Tokenizer.from_file(str(source / "tokenizer.json"))
        .encode(text.read_text(), add_special_tokens=False)
        .ids,
    ][:91]
    assert main(["convert", str(source), "-o", str(tmp_path / "plain")]) == 0
    before, after = (NumpyModel(tmp_path / name).logits(ids[:-1]) for name in ("plain", "q"))
    expected = plainly(before, after, ids[1:])
    assert {key: report[key] for key in expected} == pytest.approx(expected, rel=1e-4)


def test_the_built_in_text_and_no_measure(tmp_path: Path) -> None:
    source = write_tokenizer(write_checkpoint(tmp_path / "hf", 266))
    report = convert(source, tmp_path / "q", "--quant", "q8_0")["quality"]
    assert (report["text"], report["tokens"]) == ("built-in text", 256)
    none = convert(source, tmp_path / "q", "--quant", "q8_0", "--quality-tokens", "0")["quality"]
    assert none == {"quant": "q8_0", "matrices": 8, "kept": ["blk.0.ffn_down.weight"]}
    assert json.loads((tmp_path / "q" / "quality.json").read_text()) == none
    assert "quality" not in convert(source, tmp_path / "plain")
    assert not (tmp_path / "plain" / "quality.json").exists()


def test_the_built_in_text_is_long_enough(models: Path) -> None:
    for folder in models.iterdir():
        path = folder / "manifest.json"
        manifest = Manifest.from_json(path.read_text(encoding="utf-8"), str(path))
        ids = token_ids(manifest, folder, TEXT, 300)
        assert ids is not None
        assert len(ids) == 301


@pytest.mark.parametrize(
    ("source", "args", "code", "message"),
    [
        ("x.gguf", ["--quant", "q8_0"], 2, "a GGUF file is quantised already"),
        ("hf", ["--text", "words"], 2, "--text is what"),
        ("hf", ["--quant", "q8_0", "--text", "nowhere"], 1, "nowhere cannot be read"),
        ("hf", ["--quant", "q8_0", "--text", "binary"], 1, "binary cannot be read as text"),
        ("hf", ["--quant", "q8_0", "--text", "word"], 2, "less than two words"),
        ("hf", ["--quant", "q8_0", "--text", "/dev/zero"], 1, "has more than 16 MiB"),
    ],
)
def test_wrong_requests_write_nothing(
    source: str,
    args: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_llama(Path("x.gguf"))
    write_checkpoint(Path("hf"), 64)
    Path("word").write_text("word")
    Path("words").write_text("some words")
    Path("binary").write_bytes(b"\xff\xfe \xff")
    assert main(["convert", source, "-o", "out", *args]) == code
    assert message in capsys.readouterr().err
    assert not Path("out").exists()


@pytest.mark.parametrize("args", [["--quant", "q5_0"], ["--quality-tokens", "-1"]])
def test_wrong_usage(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["convert", "x", "-o", "out", *args])
    assert ended.value.code == 2
    assert "usage: doppler" in capsys.readouterr().err


def test_damage_is_found(tmp_path: Path) -> None:
    source, folder = write_tokenizer(write_checkpoint(tmp_path / "hf", 266)), tmp_path / "q"
    convert(source, folder, "--quant", "q8_0")
    manifest = Manifest.from_json((folder / "manifest.json").read_text(), "x")
    other = write_checkpoint(tmp_path / "small", 64)
    shard = folder / "shard-00000.bin"
    data = bytearray(shard.read_bytes())
    data[5000] ^= 1
    shard.write_bytes(data)
    with pytest.raises(CorruptError, match="block 0"):
        measure(source, manifest, folder, [1, 2, 3], lambda done, total: None)
    convert(other, tmp_path / "other", "--quant", "q8_0")
    wrong = Manifest.from_json((tmp_path / "other" / "manifest.json").read_text(), "x")
    assert token_ids(wrong, folder, "abc", 9) is None
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(FormatError, match=r"tokenizer\.json cannot be used"):
        token_ids(manifest, folder, "abc", 9)


def test_memory_holds_one_tensor(tmp_path: Path) -> None:
    """The embedding is 77 MB as float32, and both models have other tensors beside."""
    source, folder = write_checkpoint(tmp_path / "hf", 200_000), tmp_path / "q"
    convert(source, folder, "--quant", "q4_0", "--quality-tokens", "0")
    manifest = Manifest.from_json((folder / "manifest.json").read_text(), "x")
    seen: list[tuple[int, int]] = []
    tracemalloc.start()
    measure(source, manifest, folder, [1, 2, 3], lambda *counts: seen.append(counts))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 77 << 20 > 4 * 96 * 200_000
    assert 4 * 96 * 200_000 < peak < 4 * 96 * 200_000 + (40 << 20)
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1]

"""`doppler generate` in a process of its own: the real page in a headless browser."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from doppler.cli import main
from doppler.command.browser import Browser
from doppler.command.client import error_named
from doppler.errors import CorruptError, DopplerError
from fixture_sets import reference
from scripted_model import CALL, SAID, THINKING, THOUGHT, write_script

TINY = Path(__file__).parents[1] / "fixtures" / "llama32-like"
# Our float32 sums run in another order than the reference's; mistakes in these models show as 0.7.
MARGIN = 1e-3


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("models") / "tiny"
    assert main(["convert", str(TINY), "-o", str(target)]) == 0
    return target


def run(browser: Browser, model: Path, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "doppler.cli", "generate", str(model), *args]
    chosen = ["--adapter", browser.adapter]
    if browser.executable:
        chosen += ["--browser", browser.executable]
    return subprocess.run([*command, *chosen], capture_output=True, text=True, timeout=300)


def test_json_has_all_that_is_promised(browser: Browser, tiny: Path, tmp_path: Path) -> None:
    ids, wanted = reference(TINY.name)
    ids = ids[:40]
    prompt = ["--prompt-ids", ",".join(map(str, ids)), "--max-tokens", "5", "--greedy"]
    prompt += ["--speculate", "on"]
    logits = tmp_path / "logits.npy"
    done = run(browser, tiny, *prompt, "--context", "64", "--logits", str(logits), "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["prompt_ids"] == ids
    assert told["finish_reason"] == "length"
    assert told["text"] == ""  # the checkpoint has no tokenizer
    assert told["reasoning_content"] is None
    assert set(told["timings"]) >= {"load_ms", "ttft_ms", "prefill_tok_s", "decode_tok_s"}
    stages = {stage["stage"]: stage["end"] - stage["start"] for stage in told["timeline"]}
    assert set(stages) >= {"page", "python", "device", "weights", "compile", "first token"}
    assert told["memory"]["gpu_bytes"]["weights"] > 0
    rows = np.load(logits)
    assert rows.dtype == np.float32
    assert np.abs(rows - wanted[:40]).max() < MARGIN
    assert told["generated_ids"][0] == int(rows[-1].argmax())
    assert len(told["generated_ids"]) == 5
    assert 1 <= told["drafts"]["batches"] <= told["drafts"]["tokens"] == 4


def test_the_pages_errors_arrive_as_they_are(browser: Browser, tiny: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(tiny, damaged)
    shard = damaged / "shard-00000.bin"
    data = bytearray(shard.read_bytes())
    data[1000] ^= 1
    shard.write_bytes(data)
    done = run(browser, damaged, "--prompt-ids", "1,2", "--json")
    assert done.returncode == 1
    error = json.loads(done.stdout)["error"]
    assert error["kind"] == "CorruptError"
    assert "block 0" in error["message"]


def test_errors_by_name() -> None:
    assert type(error_named("CorruptError", "block 7")) is CorruptError
    other = error_named("InternalError", "list index out of range")
    assert type(other) is DopplerError
    assert "InternalError: list index" in str(other)
    assert type(error_named("annotations", "no class")) is DopplerError


def test_thoughts_go_beside_the_answer_and_calls_under_it(browser: Browser, tmp_path: Path) -> None:
    script = [*THINKING[:-1], "<tool_call>", *CALL, "</tool_call>", THINKING[-1]]
    source, model = write_script(tmp_path / "thinker.gguf", script), tmp_path / "thinker"
    assert main(["convert", str(source), "-o", str(model)]) == 0
    done = run(browser, model, "--chat", "--prompt", "hello", "--greedy")
    assert done.returncode == 0, done.stderr
    thought, said = ("".join(words).replace("Ġ", " ").strip() for words in (THOUGHT, SAID))
    assert done.stdout.strip() == f'{said}\ntool call: weather {{"city": "Paris"}}'
    assert thought in done.stderr
    assert said not in done.stderr

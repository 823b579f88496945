"""Mutated files of each format, and those that once went wrong (tests/fuzz/corpus).

What is right is said in tests/fuzz/worker.py, and how a seed that failed is tried again. An hour of
it: ./scripts/test -m fuzz_hour.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

WORKER = Path(__file__).parents[1] / "fuzz" / "worker.py"
FORMATS = ("gguf", "split", "safetensors", "config", "tokenizer", "manifest")


def fuzz(kind: str, seconds: int, first: int) -> None:
    command = [sys.executable, str(WORKER), kind, "--seconds", str(seconds), "--first", str(first)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 90)
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout)
    assert told["failures"] == {}, f"try again: python {WORKER} {kind} --seed NUMBER"
    assert told["cases"] > 0
    assert told["kept"] > 0


@pytest.mark.parametrize("kind", FORMATS)
def test_a_few_seconds_of(kind: str) -> None:
    fuzz(kind, seconds=4, first=0)


@pytest.mark.fuzz_hour
@pytest.mark.parametrize("kind", FORMATS)
def test_ten_minutes_of(kind: str) -> None:
    fuzz(kind, seconds=600, first=1_000_000)

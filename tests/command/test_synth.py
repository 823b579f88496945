"""Models with random weights: true shapes, the mix of types, and finite logits in the page."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from doppler.cli import main
from doppler.command.shapes import SHAPES
from doppler.command.synth import type_of
from doppler.config.mixers import is_filter
from doppler.quantization.block_types import BLOCK_TYPES

MILLION = 1e6
VOCABULARY = 1024


@pytest.mark.parametrize(
    ("shape", "parameters", "megabytes"),
    [
        ("gemma-3-270m", 268.1, 245),
        ("gemma-3-1b", 999.9, 575),
        ("gemma-3-4b", 3880.3, 2243),
        ("llama-3.2-1b", 1235.8, 714),
        ("llama-3.2-3b", 3212.7, 1852),
        ("mistral-7b", 7248.0, 4208),
        ("qwen3.5-0.8b", 752.4, 431),
        ("qwen3.5-2b", 1881.8, 1080),
        ("qwen3.5-4b", 4205.8, 2419),
        ("mixtral-8x7b", 46702.8, 27252),
        ("gpt-oss-20b", 20914.8, 12097),
        ("gemma-4-26b-a4b", 25233.1, 15768),
        ("lfm2-350m", 354.5, 205),
        ("lfm2-1.2b", 1170.3, 676),
        ("lfm2.5-230m", 229.7, 131),
        ("lfm2-8b-a1b", 8339.9, 4826),
    ],
)
def test_shapes_are_those_of_the_models(shape: str, parameters: float, megabytes: int) -> None:
    """Parameters as the models' cards count them, text part only."""
    config = SHAPES[shape]
    shapes = config.tensor_shapes()
    assert sum(np.prod(extents) for extents in shapes.values()) / MILLION == pytest.approx(
        parameters, abs=0.1
    )
    types = {name: type_of(config, name, extents) for name, extents in shapes.items()}
    size = sum(BLOCK_TYPES[types[name]].tensor_bytes(extents) for name, extents in shapes.items())
    assert size / MILLION == pytest.approx(megabytes, abs=1)
    kinds = Counter(types.values())
    routers = sum(not layer.dense for layer in config.layers) if config.experts else 0
    floats = sum(len(extents) == 1 or is_filter(name) for name, extents in shapes.items())
    assert kinds["F32"] == floats + routers


def test_a_synthetic_model_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A layer of the smallest, which has four types of blocks, with few words: this is a CPU."""
    folder, logits = tmp_path / "s", tmp_path / "logits.npy"
    few = replace(SHAPES["gemma-3-270m"], vocab=VOCABULARY)
    monkeypatch.setitem(SHAPES, "gemma-3-270m", few)
    assert main(["synth", "gemma-3-270m", "--layers", "1", "-o", str(folder), "--json"]) == 0
    capsys.readouterr()
    ask = [
        "--prompt-ids",
        f"5,77,{VOCABULARY - 1}",
        "--max-tokens",
        "2",
        "--context",
        "16",
        "--greedy",
    ]
    options = ["--logits", str(logits), "--adapter", "swiftshader", "--json"]
    assert main(["generate", str(folder), *ask, *options]) == 0
    answer = json.loads(capsys.readouterr().out)
    values = np.load(logits)
    assert values.shape == (3, VOCABULARY)
    assert np.isfinite(values).all()
    assert 0.3 < values.std() < 30
    assert answer["generated_ids"][0] == int(values[-1].argmax())


@pytest.mark.parametrize(
    ("ask", "reason"),
    [
        (["gpt-7"], "is not one of gemma-3-270m, "),
        (["llama-3.2-1b", "--layers", "17"], "has 1 to 16 layers, not 17"),
    ],
)
def test_what_cannot_be_made(
    ask: list[str], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["synth", *ask, "-o", str(tmp_path / "s")]) == 2
    assert reason in capsys.readouterr().err

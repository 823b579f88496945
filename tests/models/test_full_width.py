"""Mixtures of experts at their full width, two layers of them, in the page against NumPy.

Minutes and some gigabytes each, so they are run when asked for: ./scripts/test -m full_width
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from doppler import references
from doppler.cli import main
from doppler.quantization.dequantize import dequantize
from doppler.store.manifest import MANIFEST_FILE, Manifest

PROMPT = [5, 77, 1234, 99, 3]
# Sums of some thousand products in another order; logits are about 1 to 2, and another expert or a
# wrong weight moves them by 0.1 and more.
MARGIN = 1e-3


class StoredWeights:
    """A model's tensors as float32, each read when it is asked for."""

    def __init__(self, folder: Path) -> None:
        self.manifest = Manifest.from_json((folder / MANIFEST_FILE).read_text(), str(folder))
        self._folder = folder

    def __call__(self, name: str) -> npt.NDArray[np.float32]:
        tensor = self.manifest.tensor(name)
        end, raw = tensor.offset + tensor.bytes, bytearray()
        for shard in self.manifest.shards:
            first, past = max(tensor.offset, shard.offset), min(end, shard.offset + shard.bytes)
            if first < past:
                with (self._folder / shard.name).open("rb") as file:
                    file.seek(first - shard.offset)
                    raw += file.read(past - first)
        return dequantize(tensor.type, bytes(raw), tensor.shape)


@pytest.mark.full_width
@pytest.mark.parametrize("shape", ["gpt-oss-20b", "mixtral-8x7b"])
def test_two_layers(shape: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, logits = tmp_path / shape, tmp_path / "logits.npy"
    assert main(["synth", shape, "--layers", "2", "-o", str(folder), "--json"]) == 0
    capsys.readouterr()
    ask = ["--prompt-ids", ",".join(map(str, PROMPT)), "--max-tokens", "2", "--context", "64"]
    options = ["--batch", "16", "--greedy", "--adapter", "swiftshader", "--logits", str(logits)]
    assert main(["generate", str(folder), *ask, *options, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    found, weights = np.load(logits), StoredWeights(folder)
    exact = references.forward(weights.manifest.config, weights, PROMPT)
    assert np.abs(found - exact).max() < MARGIN
    assert answer["generated_ids"][0] == int(exact[-1].argmax())

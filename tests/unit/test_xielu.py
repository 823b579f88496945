"""An FFN without gates, whose activation has numbers of its own in each layer."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from doppler import references
from doppler.config.layer import Experts
from doppler.errors import DopplerError, FormatError, UnsupportedError
from doppler.formats.hf_config import config_from_hf
from expert_files import converted, load_file, save_file
from family_files import changed, config_json, gguf_of
from fixture_sets import FIXTURES, reference
from numpy_model import NumpyModel

NAME = "apertus-like"
MATTERS = 0.1  # in logits, which the page has within 1e-3


def test_xielu_is_what_its_formula_says() -> None:
    """With a number at each of its ends; eps shows next to 0 alone."""
    a, b, beta, eps = numbers = np.array([1.3, 0.9, 0.4, -0.5])
    found = references.xielu(np.array([2.0, 0.0, -0.25, -2.0]), numbers)
    wanted = [a * 4 + beta * 2, np.expm1(eps) * b]
    wanted += [(np.expm1(x) - y) * b + beta * y for x, y in ((eps, -0.25), (-2.0, -2.0))]
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


@pytest.mark.parametrize("number", range(3))
def test_each_number_matters(tmp_path: Path, number: int) -> None:
    """That eps of 1e-6 is within what rounding is."""
    converted(FIXTURES / NAME, tmp_path)
    model = NumpyModel(tmp_path)
    for name, values in model.weights.items():
        if name.endswith("xielu.weight"):
            values[number] *= 0.5
    ids, expected = reference(NAME)
    assert np.abs(model.logits(ids) - expected).max() > MATTERS


def test_numbers_are_of_each_layer(tmp_path: Path) -> None:
    config = converted(FIXTURES / NAME, tmp_path).config
    assert not config.has_gates
    assert "blk.0.ffn_gate.weight" not in config.tensor_shapes()
    model = NumpyModel(tmp_path)
    each = [model.weights[f"blk.{index}.xielu.weight"] for index in range(3)]
    stored = load_file(FIXTURES / NAME / "model.safetensors")

    def number(layer: int, name: str) -> float:
        bits = stored[f"model.layers.{layer}.mlp.act_fn.{name}"].reshape(1).astype("<u4")
        return float((bits << np.uint32(16)).view(np.float32)[0])

    for layer, values in enumerate(each):
        a, b = (np.log1p(np.exp(number(layer, f"alpha_{it}"))) for it in "pn")
        beta, eps = number(layer, "beta"), number(layer, "eps")
        np.testing.assert_allclose(values, [a, beta + b, beta, eps], rtol=1e-6)
    assert len({values[0] for values in each}) == 3


def test_a_number_that_is_missing_or_none(tmp_path: Path) -> None:
    path = changed(NAME, tmp_path / "less")
    tensors = load_file(path / "model.safetensors")
    key = "model.layers.1.mlp.act_fn.eps"
    for wrong in (None, np.zeros((2, 2), np.float32), np.full(1, np.nan, np.float32)):
        others = {name: it for name, it in tensors.items() if name != key}
        save_file(others if wrong is None else others | {key: wrong}, path / "model.safetensors")
        with pytest.raises(FormatError, match=r"layer 1 must have a number|are not finite"):
            converted(path, tmp_path / "model")


def test_a_number_of_no_bytes(tmp_path: Path) -> None:
    """One without a dimension, whose place in the file is as long as it says."""
    path = changed(NAME, tmp_path / "short")
    file = path / "model.safetensors"
    data = file.read_bytes()
    name = re.search(rb'"[^"]*act_fn\.eps":\{[^}]*\[(\d+),(\d+)\]\}', data)
    assert name is not None
    ends = b"[%s,%s]" % (name[1], name[1].rjust(len(name[2])))
    file.write_bytes(data.replace(name[0], name[0][: name[0].rindex(b"[")] + ends + b"}"))
    with pytest.raises(FormatError, match="has 0 bytes instead of 2"):
        converted(path, tmp_path / "model")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"xielu.alpha_p": None}, "xielu.alpha_p is missing"),
        ({"xielu.alpha_p": [1.0]}, "xielu.alpha_p is of 1 layers, the model of 3"),
        ({"xielu.beta": "none"}, "xielu.beta is 'none', and must be"),
    ],
)
def test_keys_that_are_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str
) -> None:
    import family_files

    make = family_files.gguf_bytes

    def with_changes(metadata: dict[str, Any], tensors: Any) -> bytes:
        found = metadata | changes
        return make({key: it for key, it in found.items() if it is not None}, tensors)

    monkeypatch.setattr(family_files, "gguf_bytes", with_changes)
    (tmp_path / "x.gguf").write_bytes(gguf_of(NAME, "apertus"))
    with pytest.raises(DopplerError, match=re.escape(message)):
        converted(tmp_path / "x.gguf", tmp_path / "model")


def test_other_activations_and_experts_have_gates() -> None:
    with pytest.raises(UnsupportedError, match="activation 'silu' is not one of xielu"):
        config_from_hf(config_json(NAME) | {"hidden_act": "silu"}, "config.json")
    _, config = config_from_hf(config_json(NAME), "config.json")
    with pytest.raises(UnsupportedError, match="experts, and embeddings of layers, have gates"):
        replace(config, experts=Experts(4, 2))

"""Families of the table, each with what it alone has: read, computed, and found in GGUF too."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from doppler.engine.memory import rope_table
from doppler.errors import DopplerError, FormatError, UnsupportedError
from doppler.formats.hf_config import config_from_hf
from expert_files import FIXTURES, converted
from family_files import changed, config_json, gguf_of
from numpy_model import NumpyModel

GGUF = {  # general.architecture
    "granite-like": "granite",
    "smollm3-like": "smollm3",
    "mistral-like": "llama",
    "phi3-like": "phi3",
    "ernie45-like": "ernie4_5",
    "hunyuan-like": "hunyuan-dense",
}
MARGIN = 1e-3  # of logits in the page

WHOLE = {f"{kind}_factor": [1.0] * 12 for kind in ("short", "long")}  # of all pairs of a head


def with_rope(name: str, **changes: Any) -> dict[str, Any]:
    """The rope_parameters of a fixture with some changed, as a field of config.json."""
    return {"rope_parameters": config_json(name)["rope_parameters"] | changes}


# What makes a family another than Llama, switched off.
FEATURES: list[tuple[str, dict[str, Any]]] = [
    ("granite-like", {"embedding_multiplier": 1.0}),
    ("granite-like", {"attention_multiplier": 12**-0.5}),
    ("granite-like", {"residual_multiplier": 1.0}),
    ("granite-like", {"logits_scaling": 1.0}),
    ("smollm3-like", {"no_rope_layers": [1] * 5}),
    ("mistral-like", {"sliding_window": None}),
    ("phi3-like", {"sliding_window": None}),
    ("phi3-like", with_rope("phi3-like", long_factor=[1.0] * 9)),
    ("phi3-like", with_rope("phi3-like", attention_factor=1.0)),
    ("phi3-like", with_rope("phi3-like", partial_rotary_factor=1.0, **WHOLE)),
    ("ernie45-like", {"model_type": "llama"}),  # whose pairs are half a head apart
    ("hunyuan-like", with_rope("hunyuan-like", alpha=1.0)),
]
SWITCHES: list[tuple[str, dict[str, Any]]] = [  # of what config.json does not say
    ("hunyuan-like", {"norm_after_rope": False}),
]


def name_of(item: str | dict[str, Any]) -> str:
    """Of a test's case."""
    return item if isinstance(item, str) else " and ".join(item)


def reference(name: str) -> tuple[list[int], npt.NDArray[np.float32]]:
    """Ids of a prompt, and the logits of all of them."""
    with np.load(FIXTURES / name / "reference.npz") as arrays:
        return arrays["ids"].tolist(), arrays["logits"]


@pytest.mark.parametrize("name", GGUF)
def test_logits_of_converted_checkpoints(tmp_path: Path, name: str) -> None:
    """NumPy and torch add in another order: 1e-5 was measured."""
    converted(FIXTURES / name, tmp_path)
    ids, expected = reference(name)
    np.testing.assert_allclose(NumpyModel(tmp_path).logits(ids), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("name", "changes"), FEATURES, ids=name_of)
def test_each_feature_matters(tmp_path: Path, name: str, changes: dict[str, Any]) -> None:
    """Else the logits of the fixture would not show that it is computed."""
    converted(changed(name, tmp_path / "changed", **changes), tmp_path / "model")
    ids, expected = reference(name)
    moved = np.abs(NumpyModel(tmp_path / "model").logits(ids) - expected).max()
    assert moved > 100 * MARGIN


@pytest.mark.parametrize(("name", "changes"), SWITCHES, ids=name_of)
def test_what_a_family_always_does_matters(
    tmp_path: Path, name: str, changes: dict[str, Any]
) -> None:
    converted(FIXTURES / name, tmp_path)
    model = NumpyModel(tmp_path)
    model.config = replace(model.config, **changes)
    ids, expected = reference(name)
    assert np.abs(model.logits(ids) - expected).max() > 100 * MARGIN


@pytest.mark.parametrize("name", GGUF)
def test_a_gguf_of_the_same_weights(tmp_path: Path, name: str) -> None:
    converted(FIXTURES / name, tmp_path / "checkpoint")
    (tmp_path / "x.gguf").write_bytes(gguf_of(name, GGUF[name]))
    converted(tmp_path / "x.gguf", tmp_path / "gguf")
    models = [NumpyModel(tmp_path / folder) for folder in ("checkpoint", "gguf")]
    ids, _ = reference(name)
    one, other = (model.logits(ids) for model in models)
    np.testing.assert_allclose(other, one, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("granite-like", {"attention_bias": True}, "attention_bias is True, which Doppler"),
        ("granite-like", {"mlp_bias": True}, "mlp_bias is True, which Doppler"),
        ("granite-like", {"residual_multiplier": 0.0}, "residual_multiplier is 0.0, and must"),
        ("granite-like", {"residual_multiplier": 1e-30}, "norm_eps is .*must be positive and fin"),
        ("smollm3-like", {"no_rope_layers": [1, 0]}, "2 layers are said to have rope or none; the"),
        (
            "smollm3-like",
            {"no_rope_layers": [2] * 5},
            "no_rope_layers is .*whole numbers from 0 to",
        ),
        ("smollm3-like", {"use_sliding_window": True}, "use_sliding_window is True, which Doppler"),
        ("mistral-like", {"attention_bias": True}, "attention_bias is True, which Doppler"),
        ("mistral-like", {"partial_rotary_factor": 0.5}, "factor is 0.5, which Doppler"),
        ("phi3-like", with_rope("phi3-like", partial_rotary_factor=0.01), "so large that two dim"),
        ("phi3-like", with_rope("phi3-like", partial_rotary_factor=0.5), "9 rope factors for 6 p"),
        ("phi3-like", with_rope("phi3-like", long_factor=None), "long_factor is missing, and"),
        ("phi3-like", with_rope("phi3-like", long_factor=[-1.0]), "a list of positive numbers"),
        ("phi3-like", with_rope("phi3-like", short_factor=[1.0]), "1 rope factors for 9 pairs"),
        ("ernie45-like", {"use_bias": True}, "use_bias is True, which Doppler"),
        ("hunyuan-like", {"use_cla": True}, "use_cla is True, which Doppler"),
        (
            "hunyuan-like",
            with_rope("hunyuan-like", alpha=None),
            "rope type 'dynamic' is not one th",
        ),
        ("hunyuan-like", with_rope("hunyuan-like", rope_type="yarn"), "is 'yarn'; Doppler knows d"),
        ("hunyuan-like", with_rope("hunyuan-like", alpha=-1.0), "alpha is -1.0, and must"),
    ],
)
def test_what_is_refused(name: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DopplerError, match=message) as error:
        config_from_hf(config_json(name) | changes, "config.json")
    told = str(error.value)
    has_a_limit = "which Doppler" in told or "knows" in told
    assert has_a_limit == isinstance(error.value, UnsupportedError)


def test_a_window_that_mistral_does_not_name() -> None:
    """Its first configs have none and mean one; null means that there is none."""
    data = config_json("mistral-like")
    del data["sliding_window"]
    for item, window in (({}, 4096), ({"sliding_window": None}, 0)):
        _, config = config_from_hf(data | item, "config.json")
        assert {layer.window for layer in config.layers} == {window}


def test_a_tensor_that_has_not_the_rows_of_all_its_parts(tmp_path: Path) -> None:
    folder = changed("phi3-like", tmp_path / "changed", intermediate_size=50)
    with pytest.raises(FormatError, match=r"with ffn_gate and ffn_up in it, the config asks for"):
        converted(folder, tmp_path / "model")


def test_divisors_for_short_contexts(tmp_path: Path) -> None:
    """They hold as long as no more positions can be; then others do, for all of them."""
    converted(FIXTURES / "phi3-like", tmp_path)
    model = NumpyModel(tmp_path)
    ids, logits = reference("phi3-like")
    with np.load(FIXTURES / "phi3-like" / "reference.npz") as arrays:
        short = arrays["short"]
    np.testing.assert_allclose(model.logits(ids[: len(short)]), short, atol=1e-4, rtol=0)
    assert np.abs(short - logits[: len(short)]).max() > 100 * MARGIN
    (rope,) = model.config.ropes
    tables = [np.array(rope_table(rope, 24, context)).reshape(-1, 12, 2) for context in (64, 65)]
    for table, factors in zip(tables, (rope.factors, rope.long_factors), strict=True):
        angles = 1e4 ** -(np.arange(9) / 9) / factors
        np.testing.assert_allclose(table[1, :9, 1], np.sin(angles), rtol=1e-6)
        np.testing.assert_array_equal(table[:, 9:], [[[1, 0]] * 3] * len(table))
        np.testing.assert_allclose(table[64, :9, 0], math.sqrt(1 + 4 / 6), rtol=1e-6)

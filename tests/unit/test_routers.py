"""Mixtures whose routers add a number of each expert, and whose first layers are dense."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from doppler.config.layer import Experts, Layer
from doppler.config.model import ModelConfig
from doppler.errors import DopplerError, FormatError, UnsupportedError
from doppler.formats.hf_config import config_from_hf
from doppler.store.manifest import Manifest
from expert_files import converted, load_file, save_file
from family_files import changed, config_json, gguf_of
from fixture_sets import FIXTURES, reference
from numpy_model import NumpyModel

NAME, ERNIE = "glm4moe-like", "ernie45moe-like"
MARGIN = 1e-3  # of logits in the page
MATTERS = 100 * MARGIN


def moved(model: NumpyModel, name: str = NAME) -> float:
    """By how much a changed model's logits are others than those of transformers."""
    ids, expected = reference(name)
    return float(np.abs(model.logits(ids) - expected).max())


def of_experts(**changes: Any) -> Callable[[ModelConfig], ModelConfig]:
    def changed(config: ModelConfig) -> ModelConfig:
        assert config.experts is not None
        return replace(config, experts=replace(config.experts, **changes))

    return changed


OFF: list[tuple[str, str, Callable[[ModelConfig], ModelConfig]]] = [
    (NAME, "sigmoids", of_experts(sigmoid=False)),
    (NAME, "choice by biases", of_experts(biased=False)),
    (NAME, "shared experts", of_experts(beside=0)),
    (NAME, "factor", of_experts(factor=1.0)),
    (NAME, "norms of heads", lambda config: replace(config, qk_norm=False)),
    (NAME, "biases", lambda config: replace(config, biases=())),
    (ERNIE, "choice by biases", of_experts(biased=False)),
    (ERNIE, "shares that add up to one", of_experts(normed=False)),
    (ERNIE, "a softmax", of_experts(sigmoid=True)),
    (ERNIE, "shared experts", of_experts(beside=0)),
    (ERNIE, "pairs side by side", lambda config: replace(config, rope_pairs="half")),
]


@pytest.mark.parametrize(("name", "feature", "change"), OFF)
def test_each_feature_matters(
    tmp_path: Path, name: str, feature: str, change: Callable[[ModelConfig], ModelConfig]
) -> None:
    converted(FIXTURES / name, tmp_path)
    model = NumpyModel(tmp_path)
    model.config = change(model.config)
    assert moved(model, name) > MATTERS, feature


def test_weights_of_the_rows_that_turn_go_with_them(tmp_path: Path) -> None:
    """Biases of q and k and their norms are in the order of the rows; in another they show."""
    converted(FIXTURES / NAME, tmp_path)
    for part in ("attn_q.bias", "attn_k.bias", "attn_q_norm.weight", "attn_k_norm.weight"):
        model = NumpyModel(tmp_path)
        width = model.config.head_dim
        for name, values in model.weights.items():
            if name.endswith(part):
                heads = values.reshape(-1, 2, width // 4, 2, 1).swapaxes(1, 3)
                model.weights[name] = heads.reshape(values.shape)
        assert moved(model) > MATTERS, part


def test_the_first_layers_are_dense(tmp_path: Path) -> None:
    manifest = converted(FIXTURES / NAME, tmp_path)
    config = manifest.config
    assert [layer.dense for layer in config.layers] == [True, False, False]
    assert [len(config.expert_numbers(index)) for index in range(3)] == [0, 7, 7]
    assert [(shape.used, shape.dense) for shape in config.shapes] == [(0, 60), (3, 40), (3, 40)]
    ranges = [(e.layer, e.expert) for e in manifest.experts]
    assert ranges == [(layer, expert) for layer in (1, 2) for expert in range(7)]
    assert Manifest.from_json(manifest.to_json(), "it") == manifest
    wrong = json.loads(manifest.to_json())
    wrong["description"]["experts"][0]["layer"] = 0
    with pytest.raises(FormatError, match="not those of 14"):
        Manifest.from_json(json.dumps(wrong), "it")


def test_experts_one_by_one(tmp_path: Path) -> None:
    """As it was published."""
    path = changed(NAME, tmp_path / "apart")
    tensors = load_file(path / "model.safetensors")
    for name in [name for name in tensors if ".mlp.experts." in name]:
        prefix, stack = name.rpartition(".")[0], tensors.pop(name)
        for expert, matrix in enumerate(stack):
            parts = {"down": matrix}
            if "gate_up" in name:
                parts = dict(zip(("gate", "up"), np.split(matrix, 2), strict=True))
            for part, rows in parts.items():
                tensors[f"{prefix}.{expert}.{part}_proj.weight"] = rows
    save_file(tensors, path / "model.safetensors")
    first = converted(FIXTURES / NAME, tmp_path / "stacked")
    assert converted(path, tmp_path / "model").blocks == first.blocks


def test_a_gguf_is_the_same_model(tmp_path: Path) -> None:
    """With the layer behind the last; and without norms of heads, biases and shared experts."""
    first = converted(FIXTURES / NAME, tmp_path / "checkpoint")
    (tmp_path / "x.gguf").write_bytes(gguf_of(NAME, "glm4moe"))
    assert converted(tmp_path / "x.gguf", tmp_path / "gguf").config == first.config
    path = changed(
        NAME, tmp_path / "less", use_qk_norm=False, attention_bias=False, n_shared_experts=0
    )
    tensors = load_file(path / "model.safetensors")
    less = ("q_norm", "k_norm", "proj.bias", "shared_experts")
    kept = {name: it for name, it in tensors.items() if not any(part in name for part in less)}
    save_file(kept, path / "model.safetensors")
    (tmp_path / "y.gguf").write_bytes(gguf_of(str(path), "glm4moe"))
    second = converted(path, tmp_path / "second")
    assert converted(tmp_path / "y.gguf", tmp_path / "gguf of it").config == second.config
    assert second.config.experts is not None
    assert (second.config.experts.beside, second.config.biases) == (0, ())
    assert not second.config.qk_norm


def test_a_layer_beyond_that_predicts_nothing(tmp_path: Path) -> None:
    """Only what it takes to predict further tokens may be left out."""
    path = changed(NAME, tmp_path / "more")
    tensors = load_file(path / "model.safetensors")
    del tensors["model.layers.3.eh_proj.weight"], tensors["model.layers.3.shared_head.norm.weight"]
    save_file(tensors, path / "model.safetensors")
    with pytest.raises(UnsupportedError, match=r"'blk\.3\.attn_norm\.weight' is none"):
        converted(path, tmp_path / "model")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_group": 2}, "n_group is 2, which Doppler"),
        ({"topk_group": 2}, "topk_group is 2, which Doppler"),
        ({"scoring_func": "softmax"}, "scoring_func is 'softmax', which Doppler"),
        ({"routed_scaling_factor": 0.0}, "factor of experts is 0.0; it must be positive"),
        ({"first_k_dense_replace": 3}, "experts and no layer that has them"),
        ({"moe_intermediate_size": 22}, "with an FFN beside them|multiples of 4"),
        ({"intermediate_size": 62}, "its FFN is 62 wide and others 20"),
        ({"num_experts_per_tok": 8}, "a token uses 8 of 7 experts"),
    ],
)
def test_what_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DopplerError, match=message):
        config_from_hf(config_json(NAME) | changes, "config.json")


def test_what_ernie_refuses() -> None:
    """Layers with experts that are not all behind the first dense ones."""
    data = config_json(ERNIE)
    for changes in ({"moe_layer_interval": 2}, {"moe_layer_end_index": 1}):
        with pytest.raises(UnsupportedError, match="which Doppler cannot do"):
            config_from_hf(data | changes, "config.json")
    _, config = config_from_hf(data | {"moe_layer_end_index": -1}, "config.json")
    assert config == config_from_hf(data, "config.json")[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"expert_gating_func": 1}, "expert_gating_func is 1, which Doppler"),
        ({"expert_group_count": 4}, "expert_group_count is 4, which Doppler"),
        ({"nextn_predict_layers": 4}, "nextn_predict_layers is 4, and must be .* from 0 to 3"),
    ],
)
def test_what_is_refused_of_a_gguf(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str
) -> None:
    import family_files

    keys = family_files.KEYS["glm4moe"]
    monkeypatch.setitem(family_files.KEYS, "glm4moe", lambda config: keys(config) | changes)
    (tmp_path / "x.gguf").write_bytes(gguf_of(NAME, "glm4moe"))
    with pytest.raises(DopplerError, match=message):
        converted(tmp_path / "x.gguf", tmp_path / "model")


def test_layers_that_are_dense_for_no_reason() -> None:
    _, config = config_from_hf(config_json("llama32-like"), "x")
    with pytest.raises(FormatError, match="without experts in a model that has none"):
        replace(config, layers=(Layer(dense=True), *config.layers[1:]))
    _, config = config_from_hf(config_json(NAME), "x")
    own = Experts(7, 3, beside=40, own_norms=True)
    with pytest.raises(UnsupportedError, match="norms of their own, and layers no experts"):
        replace(config, post_norms=True, experts=own)
    with pytest.raises(UnsupportedError, match="a gate, or norms, or none"):
        replace(own, beside=0)

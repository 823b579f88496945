"""LFM2: what its files say otherwise than others, and what its convolutions compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from doppler import references
from doppler.command.shapes import SHAPES
from doppler.errors import DopplerError, FormatError, UnsupportedError
from doppler.formats.hf_config import config_from_hf
from expert_files import converted, load_file, save_file
from family_files import changed, config_json, metadata_of
from fixture_sets import FIXTURES, reference
from gguf_files import Tensors, gguf_bytes
from numpy_model import NumpyModel
from paper_engine import large_gpu, least_gpu, paper_engine, synthetic

NAME, MIXTURE = "lfm2-like", "lfm2moe-like"
MARGIN = 1e-3  # of logits in the page
Array = npt.NDArray[np.float32]
MIXERS = ["conv", "attention", "conv", "conv"]


def swapped(one: int, other: int) -> Any:
    """in_proj with two of B, C and x in each other's place."""

    def change(weights: Array) -> Array:
        parts = np.split(weights, 3)
        parts[one], parts[other] = parts[other], parts[one]
        return np.concatenate(parts)

    return change


def without(taps: Any) -> Any:
    """Filters of which some taps are zero."""

    def change(weights: Array) -> Array:
        return np.where(np.isin(np.arange(3), taps), np.float32(0), weights)

    return change


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("shortconv.in_proj", swapped(0, 1)),
        ("shortconv.in_proj", swapped(1, 2)),
        ("shortconv.conv", without([0])),
        ("shortconv.conv", without([1])),
        ("shortconv.conv", without([0, 1])),
        ("shortconv.conv", lambda weights: weights[:, ::-1]),
    ],
)
@pytest.mark.parametrize("layer", [0, 3])
def test_each_part_matters(tmp_path: Path, part: str, change: Any, layer: int) -> None:
    """In the first layer and in the last; B and x alone may change places."""
    converted(FIXTURES / NAME, tmp_path)
    ids, expected = reference(NAME)
    model = NumpyModel(tmp_path)
    key = f"blk.{layer}.{part}.weight"
    model.weights[key] = change(model.weights[key])
    moved = np.abs(model.logits(ids) - expected)
    assert moved.max() > 100 * MARGIN
    if part == "shortconv.conv":  # of the first token, whose past is nothing, only its own tap
        is_alone = bool((model.weights[key][:, 2] == NumpyModel(tmp_path).weights[key][:, 2]).all())
        assert (moved[0].max() < MARGIN) == is_alone


def test_a_convolution_by_hand() -> None:
    inputs, before = np.array([[1.0, 10.0], [2.0, 20.0]]), np.array([[0.5, 5.0], [0.25, 2.5]])
    filters = np.array([[1.0, 2.0, 4.0], [0.0, 0.0, 1.0]])
    out = references.conv(inputs, filters, before)
    np.testing.assert_array_equal(out, [[0.5 + 0.5 + 4.0, 10.0], [0.25 + 2.0 + 8.0, 20.0]])


def test_experts_as_they_were_published(tmp_path: Path) -> None:
    """One by one; and the number of each by which they are chosen alone matters."""
    path = changed(MIXTURE, tmp_path / "apart")
    tensors = load_file(path / "model.safetensors")
    for name in [name for name in tensors if ".experts." in name]:
        prefix, stack = name.rpartition(".")[0], tensors.pop(name)
        for expert, matrix in enumerate(stack):
            halves = zip(("w1", "w3"), np.split(matrix, 2), strict=True)
            parts = {"w2": matrix} if "down" in name else dict(halves)
            tensors |= {f"{prefix}.{expert}.{part}.weight": it for part, it in parts.items()}
    save_file(tensors, path / "model.safetensors")
    first = converted(FIXTURES / MIXTURE, tmp_path / "stacked")
    assert converted(path, tmp_path / "model").blocks == first.blocks
    assert [layer.dense for layer in first.config.layers] == [True, False, False, False]
    model = NumpyModel(tmp_path / "model")
    ids, expected = reference(MIXTURE)
    model.weights |= {
        name: np.zeros_like(it) for name, it in model.weights.items() if "exp_probs_b" in name
    }
    assert np.abs(model.logits(ids) - expected).max() > 100 * MARGIN


def test_experts_are_chosen_by_a_number_of_each() -> None:
    without = {"use_expert_bias": False}
    with pytest.raises(UnsupportedError, match="use_expert_bias is False, which Doppler cannot"):
        config_from_hf(config_json(MIXTURE) | without, "config.json")


def mixers(**changes: Any) -> list[str]:
    data = {key: value for key, value in (config_json(NAME) | changes).items() if value != "none"}
    _, config = config_from_hf(data, "config.json")
    assert (config.short_conv is not None) == ("conv" in {it.mixer for it in config.layers})
    return [layer.mixer for layer in config.layers]


def test_which_layers_attend() -> None:
    """By their types, by indices of those that do, or all."""
    assert mixers() == MIXERS
    assert mixers(full_attn_idxs=[0]) == MIXERS
    assert mixers(layer_types="none", full_attn_idxs=[1, 7]) == MIXERS
    assert mixers(layer_types=None, full_attn_idxs=[0, 2]) == ["attention", "conv"] * 2
    assert mixers(layer_types="none", full_attn_idxs="none") == ["attention"] * 4


@pytest.mark.parametrize(
    ("changes", "ffn"),
    [
        ({}, 96),
        ({"block_ff_dim": 6656, "block_multiple_of": 256, "block_ffn_dim_multiplier": 1.0}, 4608),
        ({"block_ff_dim": 12288, "block_multiple_of": 256, "block_ffn_dim_multiplier": 1}, 8192),
        ({"intermediate_size": 2560, "block_auto_adjust_ff_dim": False}, 2560),
        ({"block_ffn_dim_multiplier": None}, 73),
    ],
)
def test_the_width_of_the_ffn(changes: dict[str, Any], ffn: int) -> None:
    assert config_from_hf(config_json(NAME) | changes, "x")[1].ffn == ffn


def test_published_shapes() -> None:
    """What they have in common with config.json, of which only the differences are written here."""
    common = {"model_type": "lfm2", "num_key_value_heads": 8, "block_multiple_of": 256}
    attending = [2, 5, 8, 10, 12, 14]
    published = {
        "lfm2-350m": {"hidden_size": 1024, "block_ff_dim": 6656, "num_attention_heads": 16},
        "lfm2-1.2b": {"hidden_size": 2048, "block_ff_dim": 12288, "num_attention_heads": 32},
    }
    for name, data in published.items():
        data |= {"num_hidden_layers": 16, "full_attn_idxs": attending, "tie_embedding": True}
        assert config_from_hf(common | data, "x")[1] == SHAPES[name]


def test_keys_that_overrule_others() -> None:
    _, config = config_from_hf(config_json(NAME) | {"tie_embedding": False, "norm_eps": 1e-3}, "x")
    assert (config.tied, config.norm_eps) == (False, 1e-3)
    again = {"tie_embedding": None, "norm_eps": None, "rms_norm_eps": 1e-4}
    _, config = config_from_hf(config_json(NAME) | again, "x")
    assert (config.tied, config.norm_eps) == (True, 1e-4)


@pytest.mark.parametrize(
    ("changes", "message", "kind"),
    [
        ({"conv_bias": True}, "conv_bias is True, which Doppler cannot do", UnsupportedError),
        ({"conv_L_cache": 12}, "12 taps; the kernel takes 2 to 8", UnsupportedError),
        ({"conv_L_cache": -3}, "conv_L_cache is -3, and must be", FormatError),
        ({"layer_types": ["conv"] * 3}, "must name 4 layers of", FormatError),
        ({"layer_types": ["mamba"] * 4}, "layers of type mamba", UnsupportedError),
        ({"layer_types": None, "full_attn_idxs": [0.5]}, "full_attn_idxs is", FormatError),
        ({"block_multiple_of": 0}, "block_multiple_of is 0, and must be", FormatError),
        ({"block_ffn_dim_multiplier": 1e30}, "multiplier is 1e.30, and must be so", FormatError),
        ({"block_ffn_dim_multiplier": 0}, "ffn is 0; it must be positive", FormatError),
        ({"hidden_size": 62}, "hidden is 62; the kernel of convolutions", UnsupportedError),
    ],
)
def test_what_is_refused(changes: dict[str, Any], message: str, kind: type[DopplerError]) -> None:
    with pytest.raises(kind, match=message):
        config_from_hf(config_json(NAME) | changes, "config.json")


def test_other_families_have_no_convolutions() -> None:
    types = {"layer_types": ["conv", "full_attention"]}
    with pytest.raises(UnsupportedError, match="layers of type conv"):
        config_from_hf(config_json("qwen3-like") | types | {"num_hidden_layers": 2}, "x")


def gguf(target: Path, drop: str = "", **keys: Any) -> Path:
    """The fixture as GGUF, with some keys of its metadata changed, or one left out."""
    metadata = metadata_of(config_json(NAME), "lfm2")
    metadata |= {f"lfm2.{key.replace('__', '.')}": value for key, value in keys.items()}
    metadata.pop(drop, None)
    tensors: Tensors = {"token_embd.weight": ("F32", (303, 60), bytes(4 * 303 * 60))}
    target.write_bytes(gguf_bytes(metadata, tensors))
    return target


@pytest.mark.parametrize(
    ("drop", "keys", "message"),
    [
        ("lfm2.shortconv.l_cache", {}, "shortconv.l_cache is missing"),
        ("lfm2.attention.head_count_kv", {}, "attention.head_count_kv is missing"),
        ("", {"attention__head_count_kv": [0, 2, 0]}, "is of 3 layers, the model of 4"),
        ("", {"attention__head_count_kv": [0, 2, 1, 0]}, "head_count_kv differs between layers"),
        (
            "",
            {"attention__head_count_kv": [("i32", n) for n in (0, -2, 0, 0)]},
            "head_count_kv is -2, and must be",
        ),
        ("", {"shortconv__l_cache": 100}, "short_conv has 100 taps"),
        ("", {}, "'blk.0.attn_norm.weight' of shape .60,. is missing"),
    ],
)
def test_a_gguf_that_is_wrong(
    tmp_path: Path, drop: str, keys: dict[str, Any], message: str
) -> None:
    with pytest.raises(DopplerError, match=message):
        converted(gguf(tmp_path / "x.gguf", drop, **keys), tmp_path / "model")


def test_a_gguf_whose_last_norm_is_named_twice(tmp_path: Path) -> None:
    """By the name that llama.cpp gives it, and by that of other families."""
    tensors: Tensors = {"token_embd.weight": ("F32", (303, 60), bytes(4 * 303 * 60))}
    for name in ("token_embd_norm", "output_norm"):
        tensors[f"{name}.weight"] = ("F32", (60,), bytes(240))
    metadata = metadata_of(config_json(NAME), "lfm2")
    (tmp_path / "x.gguf").write_bytes(gguf_bytes(metadata, tensors))
    with pytest.raises(FormatError, match=r"are both the model's output_norm\.weight"):
        converted(tmp_path / "x.gguf", tmp_path / "model")


@pytest.mark.parametrize("gpu", [large_gpu, least_gpu])
def test_a_token_takes_few_dispatches(gpu: Any) -> None:
    """Five a layer, and what embeds and samples; a convolution is one of them everywhere."""
    engine = paper_engine(synthetic("lfm2-1.2b"), gpu(), 4096)
    steps = engine.steps(128, 1)
    assert [step.kernel for step in steps].count("conv") == 10
    assert len(steps) <= (85 if gpu is large_gpu else 91)
    batch = engine.steps(0, 512)
    assert [step.kernel for step in batch].count("conv") == 10


def test_what_is_kept_beside_keys() -> None:
    """Two inputs a layer, seven times: the state, and its six copies."""
    gpu = large_gpu()
    engine = paper_engine(synthetic("lfm2-1.2b"), gpu, 4096)
    state = 10 * 2 * 2048 * 4
    assert gpu.memory()["kv"] == 6 * 2 * 8 * 64 * 2 * 4096 + 7 * state
    assert engine._cache.is_recurrent

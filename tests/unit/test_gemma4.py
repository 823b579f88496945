"""Gemma 4 from both kinds of files, on CPython: what is read, and that all of it matters."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app_page import convert_all
from doppler import references
from doppler.config.layer import Layer
from doppler.config.model import ModelConfig
from doppler.errors import FormatError, UnsupportedError
from expert_files import stacked
from fixture_sets import reference
from gguf_files import Tensors, gguf_bytes
from numpy_model import NumpyModel

FIXTURES = Path(__file__).parents[1] / "fixtures"
E2B, DENSE, MIXTURE = "gemma4-e2b-like", "gemma4-12b-like", "gemma4-26b-like"
ALL = (E2B, DENSE, MIXTURE)
MARGIN = 1e-3
MATTERS = 100 * MARGIN
STANDING = np.float32(1e30)

Weights = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, NumpyModel]:
    folder = tmp_path_factory.mktemp("gemma4")
    convert_all({name: FIXTURES / name for name in ALL}, folder)
    return {name: NumpyModel(folder / name) for name in ALL}


@pytest.mark.parametrize("name", ALL)
def test_logits_are_those_of_transformers(models: dict[str, NumpyModel], name: str) -> None:
    ids, wanted = reference(name)
    assert np.abs(models[name].logits(ids) - wanted).max() < MARGIN


def of_layers(change: Callable[[Layer], Layer]) -> Callable[[ModelConfig], ModelConfig]:
    return lambda config: replace(config, layers=tuple(map(change, config.layers)))


def other_source(layer: Layer) -> Layer:
    """Of sliding layers, the first one's keys instead of the last one's."""
    return replace(layer, shares=0) if layer.shares > 0 and layer.window else layer


def of_experts(**changes: Any) -> Callable[[ModelConfig], ModelConfig]:
    def changed(c: ModelConfig) -> ModelConfig:
        assert c.experts is not None
        return replace(c, experts=replace(c.experts, **changes))

    return changed


def ropes(**changes: Any) -> Callable[[ModelConfig], ModelConfig]:
    return lambda c: replace(c, ropes=(c.ropes[0], replace(c.ropes[1], **changes)))


OFF: dict[str, tuple[str, Callable[[ModelConfig], ModelConfig]]] = {
    "windows": (E2B, of_layers(lambda layer: replace(layer, window=0))),
    "whose keys are read": (E2B, of_layers(other_source)),
    "value norm": (DENSE, lambda c: replace(c, value_norm=False)),
    "layer scales": (E2B, lambda c: replace(c, layer_scales=False)),
    "embeddings of layers": (E2B, lambda c: replace(c, per_layer=0)),
    "logit cap": (E2B, lambda c: replace(c, logit_cap=0.0)),
    "scale of scores": (DENSE, lambda c: replace(c, query_scale=c.head_dim**-0.5)),
    "embedding scale": (DENSE, lambda c: replace(c, embedding_scale=1.0)),
    "query and key norms": (DENSE, lambda c: replace(c, qk_norm=False)),
    "post norms": (DENSE, lambda c: replace(c, post_norms=False, layer_scales=False)),
    "pairs that stand": (DENSE, ropes(scaling="none", factors=())),
    "base": (DENSE, ropes(base=10_000.0)),
    "shares of those used": (MIXTURE, of_experts(normed=False)),
    "scales of experts": (MIXTURE, of_experts(scaled=False)),
}


@pytest.mark.parametrize("feature", OFF)
def test_each_feature_matters(models: dict[str, NumpyModel], feature: str) -> None:
    name, change = OFF[feature]
    model, (ids, wanted) = models[name], reference(name)
    weights = model.weights
    if feature == "post norms":
        weights = {key: value for key, value in weights.items() if "post" not in key}
    found = references.forward(change(model.config), weights.__getitem__, ids)
    assert np.abs(found - wanted).max() > MATTERS


@pytest.mark.parametrize("part", ["per_layer_token_embd", "per_layer_model_proj", "attn_v"])
def test_each_tensor_matters(models: dict[str, NumpyModel], part: str) -> None:
    """Both halves of what layers have of their own; values that are keys where there are none."""
    model, (ids, wanted) = models[E2B], reference(E2B)
    zeroed = {name: value * (0 if part in name else 1) for name, value in model.weights.items()}
    found = references.forward(model.config, zeroed.__getitem__, ids)
    assert np.abs(found - wanted).max() > MATTERS


MIXTURE_NORMS = (
    *("ffn_norm", "ffn_gate_inp_norm", "pre_ffw_norm_2"),  # of what three parts read
    *("post_ffw_norm_1", "post_ffw_norm_2", "post_ffw_norm"),  # of branches, and of their sum
)


@pytest.mark.parametrize("part", MIXTURE_NORMS)
@pytest.mark.parametrize("whole", [True, False], ids=["norm", "weights"])
def test_each_norm_of_a_mixture_matters(
    models: dict[str, NumpyModel], monkeypatch: pytest.MonkeyPatch, part: str, whole: bool
) -> None:
    model, (ids, wanted), rms = models[MIXTURE], reference(MIXTURE), references.rms
    off = [value for name, value in model.weights.items() if name.split(".")[-2] == part]
    assert len(off) == len(model.config.layers)

    def without(x: np.ndarray, weight: np.ndarray | float, eps: float, offset: float) -> Any:
        if not any(weight is it for it in off):
            return rms(x, weight, eps, offset)
        return x * weight if whole else rms(x, 1.0, eps, offset)

    monkeypatch.setattr(references, "rms", without)
    found = references.forward(model.config, model.weights.__getitem__, ids)
    assert np.abs(found - wanted).max() > MATTERS


def test_each_part_of_a_mixture_matters(models: dict[str, NumpyModel]) -> None:
    """The dense FFN, the experts, and the factor of what the router reads."""
    model, (ids, wanted) = models[MIXTURE], reference(MIXTURE)
    for pattern, factor in (
        (r"blk\.\d\.ffn_down\.weight", 0.0),
        (r"blk\.\d\.ffn_down\.\d\.weight", 0.0),
        (r"blk\.\d\.ffn_gate_inp_norm\.weight", 1 / model.config.router_scale),
    ):
        changed = {
            name: value * np.float32(factor if re.fullmatch(pattern, name) else 1)
            for name, value in model.weights.items()
        }
        found = references.forward(model.config, changed.__getitem__, ids)
        assert np.abs(found - wanted).max() > MATTERS, pattern


def metadata(config: ModelConfig) -> dict[str, Any]:
    """As llama.cpp's converter writes it."""
    shapes, shared = config.shapes, sum(layer.shares >= 0 for layer in config.layers)
    ffn = [shape.dense for shape in shapes]
    full = next(s for s, layer in zip(shapes, config.layers, strict=True) if not layer.window)
    kv_heads = [shape.kv_heads for shape in shapes]
    own: dict[str, Any] = {
        "block_count": len(shapes),
        "context_length": config.context,
        "embedding_length": config.hidden,
        "feed_forward_length": ffn if len({*ffn}) > 1 else ffn[0],
        "attention.head_count": config.heads,
        "attention.head_count_kv": kv_heads if len({*kv_heads}) > 1 else kv_heads[0],
        "attention.key_length": full.head_dim,
        "attention.value_length": full.head_dim,
        "attention.key_length_swa": config.head_dim,
        "attention.value_length_swa": config.head_dim,
        "attention.layer_norm_rms_epsilon": config.norm_eps,
        "attention.sliding_window": config.layers[0].window,
        "attention.sliding_window_pattern": [layer.window > 0 for layer in config.layers],
        "attention.shared_kv_layers": shared,
        "rope.freq_base": config.ropes[1].base,
        "rope.freq_base_swa": config.ropes[0].base,
        "rope.dimension_count": full.head_dim,
        "rope.dimension_count_swa": config.head_dim,
        "embedding_length_per_layer_input": config.per_layer,
        "final_logit_softcapping": config.logit_cap,
    }
    if config.experts is not None:
        own |= {
            "expert_count": config.experts.count,
            "expert_used_count": config.experts.used,
            "expert_feed_forward_length": config.ffn,
        }
    named = {f"gemma4.{key}": value for key, value in own.items()}
    return {"general.architecture": "gemma4", "general.name": "Tiny"} | named


def merged(tensors: Tensors) -> Tensors:
    """Gates and ups of all experts of a layer in one: those of each expert one below another."""
    found = dict(tensors)
    for name, (kind, shape, data) in tensors.items():
        if "ffn_gate_exps" in name:
            count, rows, columns = shape
            _, _, ups = found.pop(name.replace("gate", "up"))
            del found[name]
            halves = [np.frombuffer(it, np.uint8).reshape(count, -1) for it in (data, ups)]
            both = np.concatenate(halves, axis=1).tobytes()
            found[name.replace("gate", "gate_up")] = (kind, (count, 2 * rows, columns), both)
    return found


def gguf_of(model: NumpyModel, path: Path, *, is_merged: bool = False, **extra: np.ndarray) -> Path:
    """The model as such a file, in float32; `extra` tensors by name, dots being two lines."""
    factors = np.array(model.config.ropes[1].factors, np.float32)
    arrays = model.weights | {"rope_freqs.weight": np.minimum(factors, STANDING)}
    arrays |= {name.replace("__", "."): value for name, value in extra.items()}
    tensors = {
        name: ("F32", value.shape, np.asarray(value, np.float32).tobytes())
        for name, value in arrays.items()
    }
    tensors = {
        name.replace("inp_norm.weight", "inp.scale").replace(
            "ffn_exps_scale.weight", "ffn_down_exps.scale"
        ): tensor
        for name, tensor in stacked(tensors).items()
    }
    tensors = merged(tensors) if is_merged else tensors
    path.write_bytes(gguf_bytes(metadata(model.config), tensors))
    return path


def converted(path: Path, folder: Path) -> NumpyModel:
    convert_all({"model": path}, folder)
    return NumpyModel(folder / "model")


@pytest.mark.parametrize(
    ("name", "is_merged"), [(E2B, False), (DENSE, False), (MIXTURE, False), (MIXTURE, True)]
)
def test_a_gguf_is_the_same_model(
    models: dict[str, NumpyModel], name: str, is_merged: bool, tmp_path: Path
) -> None:
    first, ids = models[name], reference(name)[0]
    path = gguf_of(first, tmp_path / "model.gguf", is_merged=is_merged)
    again = converted(path, tmp_path / "models")
    assert again.config.experts == first.config.experts
    assert again.config.layers == first.config.layers
    assert again.config.tensor_shapes() == first.config.tensor_shapes()
    assert np.array_equal(again.logits(ids), first.logits(ids))


def test_keys_that_no_layer_reads_are_left_out(
    models: dict[str, NumpyModel], tmp_path: Path
) -> None:
    """Published files have some, of layers that read the keys of others."""
    first, ids = models[E2B], reference(E2B)[0]
    layer = len(first.config.layers) - 1
    width = first.config.shape(layer).kv_width
    unread = {
        f"blk__{layer}__attn_k__weight": np.ones((width, first.config.hidden)),
        f"blk__{layer}__attn_v__weight": np.ones((width, first.config.hidden)),
        f"blk__{layer}__attn_k_norm__weight": np.ones(first.config.shape(layer).head_dim),
    }
    path = gguf_of(first, tmp_path / "model.gguf", **unread)
    again = converted(path, tmp_path / "models")
    assert again.weights.keys() == first.weights.keys()
    assert np.array_equal(again.logits(ids), first.logits(ids))


def test_a_gguf_without_its_divisors_is_incomplete(
    models: dict[str, NumpyModel], tmp_path: Path
) -> None:
    """All pairs would turn."""
    path = gguf_of(models[DENSE], tmp_path / "model.gguf")
    path.write_bytes(path.read_bytes().replace(b"rope_freqs.weight", b"rope_gone0.weight"))
    with pytest.raises(FormatError, match=r"rope_freqs.weight is missing"):
        converted(path, tmp_path / "models")


def with_config(name: str, folder: Path, **text: Any) -> Path:
    """A fixture with other fields in its config (None: without them)."""
    shutil.copytree(FIXTURES / name, folder)
    data = json.loads((folder / "config.json").read_text())
    fields = data.get("text_config", data)
    for key, value in text.items():
        fields.pop(key, None)
        fields |= {} if value is None else {key: value}
    (folder / "config.json").write_text(json.dumps(data))
    return folder


def test_a_config_as_it_was_published(models: dict[str, NumpyModel], tmp_path: Path) -> None:
    """Widths of layers that see all keys under names of their own, not layer by layer."""
    old: dict[str, Any] = {
        "global_head_dim": 40,
        "num_global_key_value_heads": 1,
        "per_layer_config": None,
    }
    old["use_bidirectional_attention"] = "vision"  # of which text has nothing
    path = with_config(DENSE, tmp_path / "published", **old)
    assert converted(path, tmp_path / "models").config == models[DENSE].config


WIDE = {"moe_intermediate_size": 8}  # beside FFNs of which some are twice as wide


def test_ropes_as_they_are_and_as_people_stretch_them(
    models: dict[str, NumpyModel], tmp_path: Path
) -> None:
    """What a config may leave out; and a factor, by which all frequencies are divided."""
    path = with_config(DENSE, tmp_path / "plain", rope_parameters=None)
    first = models[DENSE].config.ropes
    assert converted(path, tmp_path / "models").config.ropes == first
    full = {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1e6}
    given = {"full_attention": full | {"factor": 8.0}, "sliding_attention": {"rope_theta": 1e4}}
    path = with_config(DENSE, tmp_path / "long", rope_parameters=given)
    ropes = converted(path, tmp_path / "long models").config.ropes
    turned = np.array(first[1].inverse_frequencies(40)[:5])
    assert np.allclose(ropes[1].inverse_frequencies(40)[:5], turned / 8)


@pytest.mark.parametrize(
    ("fields", "kind", "told"),
    [
        ({"enable_moe_block": True}, FormatError, "moe_intermediate_size is missing"),
        (
            {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2, **WIDE},
            UnsupportedError,
            "experts of different widths",
        ),
        ({"num_kv_shared_layers": 8}, FormatError, "no layer has the keys"),
        ({"num_kv_shared_layers": 9}, FormatError, "from 0 to 8"),
        ({"per_layer_config": {"2": {"rope_theta": 1}}}, UnsupportedError, "2.rope_theta"),
        ({"use_bidirectional_attention": "all"}, UnsupportedError, "use_bidirectional_attention"),
        ({"hidden_size_per_layer_input": 18}, FormatError, "multiple of 4"),
        ({"layer_types": ["sliding_attention"] * 9}, UnsupportedError, "a layer that slides"),
        ({"head_dim": 2**31 - 4}, UnsupportedError, "multiples of 4 up to 512"),
        ({"per_layer_config": {"2": {"head_dim": 2**30}}}, UnsupportedError, "up to 512"),
    ],
)
def test_what_is_refused(
    fields: dict[str, Any], kind: type[Exception], told: str, tmp_path: Path
) -> None:
    path = with_config(E2B, tmp_path / "other", **fields)
    with pytest.raises(kind, match=told):
        convert_all({"model": path}, tmp_path / "models")

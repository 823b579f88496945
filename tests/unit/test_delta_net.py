"""Gated DeltaNet from both kinds of files, on CPython: what is read, and that all of it matters."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from delta_files import ARCHITECTURES, gguf_of, text_config
from doppler import recurrences, references
from doppler.config.mixers import DeltaNet
from doppler.config.model import ModelConfig
from doppler.convert.convert import convert_path
from doppler.errors import DopplerError, FormatError, UnsupportedError
from doppler.formats.content import Content
from doppler.formats.delta_net import parts_of
from doppler.formats.hf_config import config_from_hf
from doppler.formats.rows import with_own_rows
from doppler.inputs.buffers import MemoryBuffers
from doppler.inputs.source import FileSource
from doppler.quantization.block_types import block_type
from doppler.store.folder import FolderStorage
from expert_files import converted
from family_files import config_json
from fixture_sets import FIXTURES, reference
from gguf_files import random_tensor
from numpy_model import NumpyModel

DENSE, MOE, NEXT = ARCHITECTURES
MARGIN = 1e-3  # of logits in the page
MATTERS = 100 * MARGIN


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, NumpyModel]:
    folder = tmp_path_factory.mktemp("delta")
    for name in ARCHITECTURES:
        converted(FIXTURES / name, folder / name)
    return {name: NumpyModel(folder / name) for name in ARCHITECTURES}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_logits_are_those_of_transformers(models: dict[str, NumpyModel], name: str) -> None:
    """NumPy and torch add in another order: 3e-5 was measured."""
    ids, wanted = reference(name)
    np.testing.assert_allclose(models[name].logits(ids), wanted, atol=1e-4, rtol=0)


def net(**changes: Any) -> Callable[[ModelConfig], ModelConfig]:
    def changed(config: ModelConfig) -> ModelConfig:
        assert config.delta_net is not None
        return replace(config, delta_net=replace(config.delta_net, **changes))

    return changed


def unnormed(config: ModelConfig) -> ModelConfig:
    assert config.experts is not None
    return replace(config, experts=replace(config.experts, normed=False))


OFF: dict[str, tuple[str, Callable[[ModelConfig], ModelConfig]]] = {
    "which keys value heads have": (DENSE, net(tiled=True)),
    "gates of attention": (DENSE, lambda c: replace(c, output_gate=False)),
    "norms around one": (DENSE, lambda c: replace(c, norm_offset=0.0)),
    "norms of queries and keys": (DENSE, lambda c: replace(c, qk_norm=False)),
    "dimensions that turn": (DENSE, lambda c: replace(c, ropes=(replace(c.ropes[0], width=0),))),
    "eps": (DENSE, lambda c: replace(c, norm_eps=1.0)),
    "shares of those used": (NEXT, unnormed),
}


@pytest.mark.parametrize("feature", OFF)
def test_each_feature_matters(models: dict[str, NumpyModel], feature: str) -> None:
    name, change = OFF[feature]
    model, (ids, wanted) = models[name], reference(name)
    found = references.forward(change(model.config), model.weights.__getitem__, ids)
    assert np.abs(found - wanted).max() > MATTERS


ZEROED: list[tuple[str, str]] = [
    *((DENSE, part) for part in ("ssm_a", "ssm_dt", "ssm_beta", "ssm_alpha", "ssm_out")),
    (NEXT, "ffn_gate_inp_shexp"),
    (NEXT, "ffn_down"),
    (MOE, "ffn_down"),
]


@pytest.mark.parametrize(("name", "part"), ZEROED)
def test_each_tensor_matters(models: dict[str, NumpyModel], name: str, part: str) -> None:
    """Without a: nothing fades. Without beta: half of what is missing is taken, always."""
    model, (ids, wanted) = models[name], reference(name)
    zeroed = {key: value * (f".{part}.w" not in key) for key, value in model.weights.items()}
    found = references.forward(model.config, zeroed.__getitem__, ids)
    assert np.abs(found - wanted).max() > MATTERS


def test_each_tap_of_the_convolution_matters(models: dict[str, NumpyModel]) -> None:
    model, (ids, wanted) = models[DENSE], reference(DENSE)
    for tap in range(4):
        kept = np.arange(4) != tap
        weights = {k: v * kept if "conv1d" in k else v for k, v in model.weights.items()}
        found = references.forward(model.config, weights.__getitem__, ids)
        assert np.abs(found - wanted).max() > MATTERS, tap


def added(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, d: np.ndarray, r: np.ndarray, memory: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Linear attention without the delta: what memory holds for a key is not looked at."""
    out = np.empty_like(v)
    for t in range(len(q)):
        memory = (
            memory * d[t, :, None, None] + r[t, :, None, None] * v[t, :, :, None] * k[t, :, None]
        )
        out[t] = np.einsum("hvk,hk->hv", memory, q[t])
    return out, memory


def scaled(x: np.ndarray, gates: np.ndarray, weight: np.ndarray | None, eps: float) -> Any:
    """Heads through gates that are not normed first."""
    return x * (1 if weight is None else weight * gates) * recurrences.sigmoid(gates)


PARTS: dict[str, tuple[ModuleType, Callable[..., Any]]] = {
    "unit": (recurrences, lambda x: x),  # keys and queries are as long as they are
    "gated_delta": (recurrences, added),
    "head_gate": (references, scaled),
    "silu": (references, lambda x: x),
}


@pytest.mark.parametrize("part", PARTS)
def test_each_part_of_the_mixer_matters(
    models: dict[str, NumpyModel], monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    model, (ids, wanted) = models[DENSE], reference(DENSE)
    module, other = PARTS[part]
    monkeypatch.setattr(module, part, other)
    with np.errstate(all="ignore"):  # memories may grow
        found = model.logits(ids)
    assert not np.abs(found - wanted).max() < MATTERS


@pytest.mark.parametrize(
    ("name", "how"),
    [
        *((name, {}) for name in ARCHITECTURES),
        (NEXT, {"legacy": True}),
        (DENSE, {"drafting": 1}),
        (DENSE, {"full_attention_interval": None}),
        (DENSE, {"attention.recurrent_layers": [True, True, True, False]}),
        (NEXT, {"drafting": 1}),
        (MOE, {"drafting": 2, "attention.recurrent_layers": [True, False, False, False]}),
    ],
)
def test_a_gguf_is_the_same_model(
    models: dict[str, NumpyModel], name: str, how: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "x.gguf").write_bytes(gguf_of(name, **how))
    manifest = converted(tmp_path / "x.gguf", tmp_path / "model")
    first, again = models[name].config, manifest.config
    assert (first.layers, first.ropes, first.tied) == (again.layers, again.ropes, again.tied)
    assert first.tensor_shapes() == again.tensor_shapes()
    ids, _ = reference(name)
    found = NumpyModel(tmp_path / "model").logits(ids)
    np.testing.assert_allclose(found, models[name].logits(ids), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("name", "how", "kind", "message"),
    [
        (DENSE, {"ssm.inner_size": 70}, FormatError, "inner_size is 70, and must be a multiple of"),
        (DENSE, {"ssm.time_step_rank": 0}, FormatError, "whole number from 1"),
        (DENSE, {"ssm.group_count": None}, FormatError, "ssm.group_count is missing"),
        (DENSE, {"ssm.group_count": 4}, FormatError, "a multiple of its 4 key heads"),
        (DENSE, {"ssm.state_size": 512}, UnsupportedError, "multiples of 4 up to 256"),
        (DENSE, {"ssm.conv_kernel": 90}, UnsupportedError, "has 90 taps"),
        (DENSE, {"ssm.state_size": 24}, FormatError, "'blk.0.attn_qkv.weight' has shape"),
        (DENSE, {"full_attention_interval": 0}, FormatError, "interval is 0, and must"),
        (DENSE, {"full_attention_interval": 3}, FormatError, "'blk.2.attn_qkv.weight' has shape"),
        (DENSE, {"attention.recurrent_layers": [True]}, FormatError, "is of 1 layers, the model"),
        (DENSE, {"nextn_predict_layers": 4}, FormatError, "from 0 to 3"),
        (NEXT, {"rope.dimension_sections": [1, 2]}, UnsupportedError, "sections differs between"),
        (NEXT, {"legacy": True, "ssm.group_count": 1}, FormatError, "has shape"),
    ],
)
def test_a_gguf_that_is_refused(
    name: str, how: dict[str, Any], kind: type[DopplerError], message: str, tmp_path: Path
) -> None:
    (tmp_path / "x.gguf").write_bytes(gguf_of(name, **how))
    with pytest.raises(kind, match=message):
        converted(tmp_path / "x.gguf", tmp_path / "model")


def test_a_layer_that_drafts_is_none_of_the_others(tmp_path: Path) -> None:
    """Where no key says that there are some."""
    data = gguf_of(DENSE, drafting=1).replace(b"nextn_predict", b"nextn_unknown")
    (tmp_path / "x.gguf").write_bytes(data)
    with pytest.raises(FormatError, match=r"'blk.4.attn_qkv.weight' of shape .* is missing"):
        converted(tmp_path / "x.gguf", tmp_path / "model")


def with_config(name: str, folder: Path, **text: Any) -> Path:
    """A fixture with other fields in its config (None: without them)."""
    shutil.copytree(FIXTURES / name, folder)
    data = config_json(name)
    fields = data.get("text_config", data)
    for key, value in text.items():
        fields.pop(key, None)
        fields |= {} if value is None else {key: value}
    (folder / "config.json").write_text(json.dumps(data))
    return folder


def test_a_config_as_it_is_published(models: dict[str, NumpyModel], tmp_path: Path) -> None:
    """With the interval instead of each layer's type, and what is always so."""
    old = {"layer_types": None, "full_attention_interval": 4, "attn_output_gate": True}
    old |= {"mamba_ssm_dtype": "float32", "mtp_num_hidden_layers": 1, "output_gate_type": "swish"}
    path = with_config(DENSE, tmp_path / "published", **old)
    assert converted(path, tmp_path / "model").config == models[DENSE].config


@pytest.mark.parametrize(
    ("name", "fields", "kind", "message"),
    [
        (DENSE, {"attn_output_gate": False}, UnsupportedError, "attn_output_gate is False, which"),
        (
            DENSE,
            {"output_gate_type": "tanh"},
            UnsupportedError,
            "output_gate_type is 'tanh', which",
        ),
        (DENSE, {"attention_bias": True}, UnsupportedError, "attention_bias is True, which"),
        (DENSE, {"linear_num_value_heads": 4}, FormatError, "a multiple of its 3 key heads"),
        (DENSE, {"linear_key_head_dim": 10}, UnsupportedError, "key_dim 10; the kernels take"),
        (DENSE, {"linear_key_head_dim": 2**31 - 4}, UnsupportedError, "up to 256"),
        (DENSE, {"linear_conv_kernel_dim": 1}, UnsupportedError, "has 1 taps"),
        (DENSE, {"layer_types": ["mamba"] * 4}, UnsupportedError, "layers of type mamba"),
        (DENSE, {"layer_types": ["linear_attention"]}, FormatError, "must name 4 layers"),
        (DENSE, {"head_dim": 64}, FormatError, "queries with gates in it, the config asks for"),
        (NEXT, {"linear_value_head_dim": 12}, FormatError, "queries to gates in it, the config"),
        (NEXT, {"mlp_only_layers": [1]}, UnsupportedError, "mlp_only_layers is"),
        (NEXT, {"decoder_sparse_step": 2}, UnsupportedError, "decoder_sparse_step is 2, which"),
    ],
)
def test_a_checkpoint_that_is_refused(
    name: str, fields: dict[str, Any], kind: type[DopplerError], message: str, tmp_path: Path
) -> None:
    path = with_config(name, tmp_path / "other", **fields)
    with pytest.raises(kind, match=message):
        converted(path, tmp_path / "model")


def test_linear_attention_of_others_is_refused() -> None:
    data = config_json("qwen3-like") | {"layer_types": ["linear_attention"] * 4}
    with pytest.raises(UnsupportedError, match="layers of type linear_attention"):
        config_from_hf(data, "config.json")


def test_a_model_of_which_all_layers_attend() -> None:
    types = ["full_attention"] * 4
    _, config = config_from_hf(text_config(DENSE) | {"layer_types": types}, "config.json")
    assert config.delta_net is None
    assert config.output_gate


def content(path: Path, kind: str, shape: tuple[int, ...], seed: int) -> tuple[Content, np.ndarray]:
    """A tensor of random blocks, and its rows as bytes."""
    data = random_tensor(kind, shape, seed)
    path.write_bytes(data)
    rows = np.frombuffer(data, np.uint8).reshape(shape[0], -1)
    return Content("x", block_type(kind), shape, FileSource(path), 0), rows


def bytes_of(content: Content) -> np.ndarray:
    data = asyncio.run(content.source.read(content.offset, content.bytes))
    return np.frombuffer(MemoryBuffers().to_bytes(data), np.uint8).reshape(content.shape[0], -1)


def test_rows_of_blocks(models: dict[str, NumpyModel], tmp_path: Path) -> None:
    """Queries have gates between them; of the queries' dimensions, the first 8 of 32 turn."""
    config = models[DENSE].config
    given, rows = content(tmp_path / "x", "Q8_0", (256, 64), 1)
    found = with_own_rows(config, {"blk.3.attn_q.weight": given}, MemoryBuffers())
    heads = rows.reshape(4, 2, 32, -1)
    order = [*range(4), *range(8, 20), *range(4, 8), *range(20, 32)]
    queries, gates = (bytes_of(found[f"blk.3.{it}.weight"]) for it in ("attn_q", "attn_gate"))
    np.testing.assert_array_equal(queries, heads[:, 0, order].reshape(queries.shape))
    np.testing.assert_array_equal(gates, heads[:, 1].reshape(gates.shape))


def test_what_no_layer_has_is_left_as_it_is(models: dict[str, NumpyModel], tmp_path: Path) -> None:
    """To be refused by its name, whatever its shape."""
    tensors = {
        name: content(tmp_path / "x", "F32", (3,), 1)[0] for name in ("blk.9.ssm_in.weight", "x")
    }
    assert parts_of(models[DENSE].config, tensors, MemoryBuffers()) == tensors


def test_tensors_that_are_there_twice(models: dict[str, NumpyModel], tmp_path: Path) -> None:
    """One within another."""
    tensors = {
        "blk.3.attn_gate.weight": content(tmp_path / "x", "F32", (128, 64), 1)[0],
        "blk.3.attn_q.weight": content(tmp_path / "y", "F32", (256, 64), 1)[0],
    }
    with pytest.raises(FormatError, match=r"are both the model's blk\.3\.attn_gate\.weight"):
        parts_of(models[DENSE].config, tensors, MemoryBuffers())


def test_numbers_that_cannot_be_moved(models: dict[str, NumpyModel], tmp_path: Path) -> None:
    """Of a norm in blocks; and one of none is refused by its shape."""
    for kind, shape in (("Q8_0", (32,)), ("F32", (0,)), ("F32", ())):
        (tmp_path / "x").write_bytes(bytes(64))
        given = Content("x", block_type(kind), shape, FileSource(tmp_path / "x"), 0)
        tensors = {"blk.3.attn_q_norm.weight": given}
        if kind == "F32":
            assert with_own_rows(models[DENSE].config, tensors, MemoryBuffers()) == tensors
            continue
        with pytest.raises(UnsupportedError, match="norm in blocks of type Q8_0, which Doppler"):
            with_own_rows(models[DENSE].config, tensors, MemoryBuffers())


VALUES = [0, -1, 5, 0.5, 1e300, True, "x", [], [[]], {}, None]
FIELDS = ("linear_num_key_heads", "linear_num_value_heads", "linear_key_head_dim")
FIELDS += ("linear_value_head_dim", "linear_conv_kernel_dim", "full_attention_interval")
FIELDS += ("layer_types", "attn_output_gate", "output_gate_type", "partial_rotary_factor")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_values_of_the_wrong_kind_are_no_surprise(name: str) -> None:
    """Whatever stands in a field, it is read, or refused in one line."""
    for key, value in itertools.product(FIELDS, VALUES):
        for rest in ({}, {"layer_types": None}):
            with contextlib.suppress(DopplerError):
                config_from_hf(text_config(name) | rest | {key: value}, "config.json")


KEYS = ("ssm.conv_kernel", "ssm.state_size", "ssm.group_count", "ssm.time_step_rank")
KEYS += ("ssm.inner_size", "full_attention_interval", "attention.recurrent_layers")
KEYS += ("nextn_predict_layers", "rope.dimension_count")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_values_of_the_wrong_kind_in_a_gguf(tmp_path: Path, name: str) -> None:
    for number, (key, value) in enumerate(
        itertools.product(KEYS, [0, 5, 0.5, "x", True, [1, 2], ("f64", 1e300)])
    ):
        (tmp_path / "x.gguf").write_bytes(gguf_of(name, **{key: value}))
        with contextlib.suppress(DopplerError):
            converted(tmp_path / "x.gguf", tmp_path / str(number))


def test_rates_are_quantised_finely(tmp_path: Path) -> None:
    """What is wrong there adds up from token to token; taps and heads' numbers stay as they are."""
    storage, buffers = FolderStorage(tmp_path), MemoryBuffers()
    path = FIXTURES / DENSE
    manifest = asyncio.run(convert_path(path, storage, buffers, name="model", quant="q4_0"))
    types = {it.name.removeprefix("blk.0."): it.type for it in manifest.tensors}
    assert types["attn_qkv.weight"] == types["attn_gate.weight"] == "Q4_0"
    assert types["ssm_alpha.weight"] == types["ssm_beta.weight"] == "Q8_0"
    assert types["ssm_conv1d.weight"] == types["ssm_dt.weight"] == "BF16"
    assert types["ssm_a.weight"] == "F32"


def test_published_nets_are_taken() -> None:
    """As the kernels take them: 16 key heads of 128 and up to 64 value heads."""
    assert DeltaNet(16, 64, 128, 128, 4).rates == (12288 + 8192, 12288 + 8192 + 64)

"""Layers that have a state in place of keys: what a config says of them, and plans make of it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from doppler.config.layer import Layer
from doppler.config.mixers import DeltaNet, ShortConv
from doppler.config.model import ModelConfig
from doppler.config.rope import Rope
from doppler.errors import DopplerError, FormatError, UnsupportedError
from doppler.inputs.fields import Fields
from doppler.plan.bindings import MemoryLayout
from doppler.store.config_fields import config_of, data_of

CONV, DELTA, PLAIN = Layer(mixer="conv"), Layer(mixer="delta"), Layer()
NET = DeltaNet(key_heads=2, value_heads=6, key_dim=8, value_dim=12, taps=4)
HYBRID = ModelConfig(
    architecture="hybrid",
    hidden=32,
    heads=4,
    kv_heads=2,
    head_dim=12,
    ffn=48,
    vocab=64,
    context=128,
    norm_eps=1e-6,
    query_scale=0.25,
    activation="silu",
    ropes=(Rope(1e4),),
    layers=(CONV, DELTA, PLAIN, Layer(ffn=56, mixer="conv")),
    qk_norm=True,
    short_conv=ShortConv(3),
    delta_net=NET,
)


def stored(config: ModelConfig) -> dict[str, Any]:
    """A config as a manifest has it."""
    data: dict[str, Any] = json.loads(json.dumps(data_of(config)))
    return data


def test_what_layers_have() -> None:
    shapes = HYBRID.tensor_shapes()
    of = [
        {k.removeprefix(f"blk.{i}.").removesuffix(".weight"): v for k, v in shapes.items()
         if k.startswith(f"blk.{i}.")}
        for i in range(4)
    ]  # fmt: skip
    ffn = {"ffn_norm": (32,), "ffn_gate": (48, 32), "ffn_up": (48, 32), "ffn_down": (32, 48)}
    conv = {
        "shortconv.in_proj": (96, 32),
        "shortconv.conv": (32, 3),
        "shortconv.out_proj": (32, 32),
    }
    assert of[0] == {"attn_norm": (32,), **conv, **ffn}
    assert of[1] == ffn | {
        "attn_norm": (32,),
        "attn_qkv": (104, 32),
        "attn_gate": (72, 32),
        "ssm_beta": (6, 32),
        "ssm_alpha": (6, 32),
        "ssm_conv1d": (104, 4),
        "ssm_dt": (6,),
        "ssm_a": (6,),
        "ssm_norm": (12,),
        "ssm_out": (32, 72),
    }
    assert of[2].keys() == {f"attn_{x}" for x in ("norm", "q", "k", "v", "output")} | ffn.keys() | {
        "attn_q_norm",
        "attn_k_norm",
    }
    assert of[3]["ffn_up"] == (56, 32)


def test_widths_and_states() -> None:
    conv, delta, plain, _ = HYBRID.shapes
    assert (conv.heads, conv.kv_width, conv.projected, conv.mixed) == (0, 0, 96, 32)
    assert (conv.recent, conv.matrices) == (2 * 32, 0)
    assert (delta.projected, delta.mixed) == (104 + 72 + 2 * 8, 72)
    assert (delta.recent, delta.matrices) == (3 * 104, 6 * 8 * 12)
    assert (plain.projected, plain.mixed) == ((4 + 2 + 2) * 12, 48)
    assert (plain.recent, plain.matrices) == (0, 0)
    assert HYBRID.own_layers == 4
    layout = MemoryLayout(HYBRID, 100, 32, kv="f32", most_bound=1 << 20)
    assert layout.capacities == (0, 0, 100, 0)
    assert layout.cache.keys() == {"keys 2", "values 2"}
    assert (layout.widths.qkv, layout.widths.attended) == (192, 72)


def test_a_manifest_keeps_them() -> None:
    data = stored(HYBRID)
    assert data["short_conv"] == {"taps": 3}
    assert [layer.get("mixer") for layer in data["layers"]] == ["conv", "delta", None, "conv"]
    assert config_of(Fields(data, "it")) == HYBRID
    plain = replace(HYBRID, layers=(PLAIN,), short_conv=None, delta_net=None)
    assert stored(plain).keys() == data.keys() - {"short_conv", "delta_net"}
    assert config_of(Fields(stored(plain), "it")) == plain


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"short_conv": {"taps": True}}, "short_conv.taps is True, and must be a whole"),
        ({"short_conv": {"taps": 3, "bias": 1}}, "short_conv.bias is a field that no config has"),
        ({"short_conv": {"taps": 9}}, "short_conv has 9 taps; the kernel takes 2 to 8"),
        ({"delta_net": {"taps": 4}}, "delta_net.key_heads is missing"),
        ({"layers": [{"window": 0, "rope": 0, "mixer": "scan"}]}, "mixer 'scan' is none of att"),
        ({"layers": [{"window": 0, "rope": 0, "mixer": 3}]}, "mixer is 3, and must be a text"),
    ],
)
def test_a_manifest_that_lies(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DopplerError, match=message):
        config_of(Fields(stored(HYBRID) | changes, "it"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"short_conv": None}, "the mixer conv is of layers, and not described"),
        ({"layers": (PLAIN,), "delta_net": None}, "mixer conv is described, and no layer has it"),
        ({"layers": (CONV, PLAIN)}, "mixer delta is described, and no layer has it"),
        ({"layers": (*HYBRID.layers, Layer(4, mixer="conv"))}, "layer 4 attends to nothing, and"),
        ({"layers": (*HYBRID.layers, Layer(head_dim=8, mixer="delta"))}, "4 attends to nothing"),
        ({"layers": (*HYBRID.layers, Layer(shares=0))}, "shares the keys of layer 0, which has no"),
        ({"layers": (*HYBRID.layers, Layer(ffn=7, mixer="conv"))}, "layer 4: its FFN is 7 wide"),
        ({"layers": (*HYBRID.layers, Layer(ffn=-4, mixer="conv"))}, "layer 4 has widths below 0"),
        ({"layers": (*HYBRID.layers, Layer(dense=True, mixer="delta"))}, "layer 4 is without exp"),
        ({"biases": ("attn_sinks",)}, "biases are of"),
        ({"hidden": 30}, "hidden is 30; the kernel of convolutions takes multiples of 4"),
    ],
)
def test_what_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DopplerError, match=message):
        replace(HYBRID, **changes)


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("key_heads", 0, FormatError),
        ("key_heads", 4, FormatError),
        ("value_heads", 2048, FormatError),
        ("key_dim", 10, UnsupportedError),
        ("value_dim", 260, UnsupportedError),
        ("taps", 1, UnsupportedError),
        ("taps", 1 << 40, UnsupportedError),
    ],
)
def test_nets_that_kernels_do_not_take(name: str, value: int, kind: type[DopplerError]) -> None:
    with pytest.raises(kind, match=r"config: delta_net has "):
        replace(NET, **{name: value})


def test_biases_of_layers_that_come_later() -> None:
    config = replace(HYBRID, biases=("attn_q", "ffn_down"))
    biases = [name for name in config.tensor_shapes() if name.endswith(".bias")]
    assert biases == [
        *("blk.0.ffn_down.bias", "blk.1.ffn_down.bias"),
        *("blk.2.attn_q.bias", "blk.2.ffn_down.bias", "blk.3.ffn_down.bias"),
    ]

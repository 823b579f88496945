"""What config.json leaves out, or says twice, means what transformers takes it for."""

from __future__ import annotations

from typing import Any

import pytest

from doppler.config.model import ModelConfig
from doppler.config.rope import Rope
from doppler.errors import UnsupportedError
from doppler.formats.hf_config import config_from_hf, ties_differ
from family_files import config_json

ROPES = ("rope_parameters", "rope_scaling", "rope_theta")
YARN = {"rope_type": "yarn", "factor": 4.0}


def read(name: str, **changes: Any) -> ModelConfig:
    """A fixture's config with some keys changed; None takes one away."""
    data = config_json(name) | changes
    kept = {key: value for key, value in data.items() if value is not None}
    return config_from_hf(kept, "config.json")[1]


def rope(name: str, **changes: Any) -> Rope:
    """Its first rope, of a file that says nothing else of ropes."""
    return read(name, **dict.fromkeys(ROPES), **changes).ropes[0]


@pytest.mark.parametrize("inside", [{}, {"original_max_position_embeddings": 64}])
def test_the_original_context_beside_a_rope_counts(inside: dict[str, int]) -> None:
    said = {"rope_parameters": {**YARN, "rope_theta": 1e4, **inside}}
    data = dict.fromkeys(ROPES) | said | {"original_max_position_embeddings": 32}
    assert read("llama32-like", **data).ropes[0].original_context == 32
    alone = read("llama32-like", **(dict.fromkeys(ROPES) | said)).ropes[0]
    assert alone.original_context == inside.get("original_max_position_embeddings", 1024)


def test_ropes_that_families_have_by_default() -> None:
    assert (rope("gpt-oss-like").scaling, rope("gpt-oss-like").factor) == ("yarn", 32.0)
    assert rope("gpt-oss-like").original_context == 4096
    ministral = rope("ministral3-like")
    assert (ministral.scaling, ministral.base, ministral.factor) == ("yarn", 1e6, 16.0)
    assert rope("apertus-like").base == 12e6


def test_a_scaling_of_their_own_takes_their_place() -> None:
    data = dict.fromkeys(ROPES) | {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}
    assert read("apertus-like", **data, **{}).ropes == (Rope(12e6, "linear", 2.0),)
    assert read("apertus-like", **(data | {"rope_theta": 1e4})).ropes == (Rope(1e4, "linear", 2.0),)


def test_windows_of_qwen2_moe() -> None:
    """Every other layer before max_window_layers; Qwen2's are those from there on."""
    slides = {"use_sliding_window": True, "sliding_window": 8, "layer_types": None}
    count = len(read("qwen2moe-like").layers)
    layers = read("qwen2moe-like", **slides, max_window_layers=count).layers
    assert [layer.window for layer in layers] == [8 * (i % 2 == 0) for i in range(count)]
    assert not any(it.window for it in read("qwen2moe-like", **slides, max_window_layers=0).layers)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("gpt-oss-like", {"swiglu_alpha": 1.0}, "swiglu_alpha is 1.0, which Doppler cannot do"),
        ("ernie45moe-like", {"moe_norm_min": 0.5}, "moe_norm_min is 0.5, which Doppler cannot do"),
        ("qwen3next-like", {"hidden_act": "gelu_pytorch_tanh"}, "hidden_act is 'gelu_pytorch_ta"),
    ],
)
def test_what_changes_the_arithmetic_is_refused(
    name: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UnsupportedError, match=message):
        read(name, **changes)


def test_a_head_that_is_tied_in_one_place() -> None:
    """Then the checkpoint tells: it has a head, or it has none (convert/outline.py)."""
    for outer, inner in ((True, False), (False, True)):
        assert ties_differ(
            {"tie_word_embeddings": outer, "text_config": {"tie_word_embeddings": inner}}
        )
    assert not ties_differ({"tie_word_embeddings": True, "text_config": {}})
    assert not ties_differ({"tie_word_embeddings": [True], "text_config": {}})

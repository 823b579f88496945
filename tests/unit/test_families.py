"""Families of the table, each with what it alone has: read, computed, and found in GGUF too."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from doppler import references
from doppler.config.layer import Experts
from doppler.config.rope import Rope, yarn_magnitude
from doppler.engine.memory import rope_table
from doppler.errors import DopplerError, FormatError, UnsupportedError
from doppler.formats.gguf import read_gguf
from doppler.formats.gguf_config import config_from_gguf
from doppler.formats.hf_config import config_from_hf
from doppler.formats.tensor_names import gguf_names
from doppler.inputs.buffers import MemoryBuffers
from doppler.inputs.source import FileSource
from doppler.quantization.dequantize import dequantize
from expert_files import converted, load_file, save_file
from family_files import changed, config_json, gguf_of, metadata_of
from fixture_sets import FIXTURES, reference
from gguf_files import Tensors, gguf_bytes, random_tensor
from numpy_model import NumpyModel

GGUF = {  # general.architecture
    "gemma2-like": "gemma2",
    "granite-like": "granite",
    "granite4-like": "granite",
    "apertus-like": "apertus",
    "glm4-like": "glm4",
    "glm4moe-like": "glm4moe",
    "ernie45moe-like": "ernie4_5-moe",
    "olmo2-like": "olmo2",
    "olmo3-like": "olmo2",
    "smollm3-like": "smollm3",
    "mistral-like": "llama",
    "phi3-like": "phi3",
    "ernie45-like": "ernie4_5",
    "hunyuan-like": "hunyuan-dense",
    "ministral3-like": "mistral3",
    "lfm2-like": "lfm2",
    "lfm2moe-like": "lfm2moe",
}
MARGIN = 1e-3  # of logits in the page

WHOLE = {f"{kind}_factor": [1.0] * 12 for kind in ("short", "long")}  # of all pairs of a head


def with_rope(name: str, **changes: Any) -> dict[str, Any]:
    """The rope_parameters of a fixture with some changed, as a field of config.json."""
    return {"rope_parameters": config_json(name)["rope_parameters"] | changes}


KINDS = ("full_attention", "sliding_attention")  # of OLMo 3's layers; the first have YaRN
YARN = config_json("olmo3-like")["rope_parameters"][KINDS[0]]

# What makes a family another than Llama, switched off.
FEATURES: list[tuple[str, dict[str, Any]]] = [
    ("gemma2-like", {"attn_logit_softcapping": None}),
    ("gemma2-like", {"final_logit_softcapping": None}),
    ("gemma2-like", {"query_pre_attn_scalar": 96}),
    ("gemma2-like", {"layer_types": ["full_attention"] * 4}),
    ("gemma2-like", {"layer_types": None, "sliding_window_pattern": 3}),
    ("granite-like", {"embedding_multiplier": 1.0}),
    ("granite-like", {"attention_multiplier": 12**-0.5}),
    ("granite-like", {"residual_multiplier": 1.0}),
    ("granite-like", {"logits_scaling": 1.0}),
    ("granite4-like", {"position_embedding_type": "nope"}),
    ("smollm3-like", {"no_rope_layers": [1] * 5}),
    ("mistral-like", {"sliding_window": None}),
    ("apertus-like", with_rope("apertus-like", rope_type="default")),
    ("glm4-like", with_rope("glm4-like", partial_rotary_factor=1.0)),
    ("glm4moe-like", with_rope("glm4moe-like", partial_rotary_factor=1.0)),
    ("glm4moe-like", {"routed_scaling_factor": 1.0}),
    ("glm4moe-like", {"norm_topk_prob": False}),
    ("lfm2moe-like", {"routed_scaling_factor": 1.0}),
    ("lfm2moe-like", {"norm_topk_prob": False}),
    ("olmo3-like", {"layer_types": ["full_attention"] * 4}),
    ("olmo3-like", {"rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0}}),
    ("olmo3-like", {"rope_parameters": dict.fromkeys(KINDS, YARN)}),
    ("olmo3-like", {"rope_parameters": {KINDS[0]: YARN | {"attention_factor": 1.0}}}),
    ("phi3-like", {"sliding_window": None}),
    ("phi3-like", with_rope("phi3-like", long_factor=[1.0] * 9)),
    ("phi3-like", with_rope("phi3-like", attention_factor=1.0)),
    ("phi3-like", with_rope("phi3-like", partial_rotary_factor=1.0, **WHOLE)),
    ("ernie45-like", {"model_type": "llama"}),  # whose pairs are half a head apart
    ("hunyuan-like", with_rope("hunyuan-like", alpha=1.0)),
    ("ministral3-like", with_rope("ministral3-like", llama_4_scaling_beta=0.0)),
    ("ministral3-like", with_rope("ministral3-like", mscale_all_dim=1.0)),
]
SWITCHES: list[tuple[str, dict[str, Any]]] = [  # of what config.json does not say
    ("gemma2-like", {"embedding_scale": 1.0}),
    ("gemma2-like", {"norm_offset": 0.0}),
    ("gemma2-like", {"post_norms": False}),
    ("apertus-like", {"qk_norm": False}),
    ("glm4-like", {"rope_pairs": "half"}),
    ("glm4-like", {"biases": ()}),
    ("glm4-like", {"biases": ("attn_q", "attn_v")}),
    ("glm4-like", {"post_norms": False}),
    ("hunyuan-like", {"norm_after_rope": False}),
    ("lfm2moe-like", {"qk_norm": False}),
    ("olmo2-like", {"qk_norm": False, "norm_over_heads": False}),
    ("lfm2-like", {"qk_norm": False}),
]


def name_of(item: str | dict[str, Any]) -> str:
    """Of a test's case."""
    return item if isinstance(item, str) else " and ".join(item)


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


@pytest.mark.parametrize("part", ["post_attention_norm", "post_ffw_norm"])
def test_norms_after_branches_alone_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    converted(FIXTURES / "olmo2-like", tmp_path)
    model, rms = NumpyModel(tmp_path), references.rms
    off = [value for name, value in model.weights.items() if name.split(".")[-2] == part]
    assert len(off) == len(model.config.layers)

    def without(x: Any, weight: Any, eps: float, offset: float) -> Any:
        is_off = any(weight is it for it in off)
        return x * weight if is_off else rms(x, weight, eps, offset)

    monkeypatch.setattr(references, "rms", without)
    ids, expected = reference("olmo2-like")
    assert np.abs(model.logits(ids) - expected).max() > 100 * MARGIN


def test_that_heads_are_normed_together_matters(tmp_path: Path) -> None:
    """With the same weights, but each head by itself."""
    converted(FIXTURES / "olmo2-like", tmp_path)
    model = NumpyModel(tmp_path)
    for name, weights in model.weights.items():
        if name.endswith(("q_norm.weight", "k_norm.weight")):
            model.weights[name] = weights.reshape(-1, model.config.head_dim)
    model.config = replace(model.config, norm_over_heads=False)
    ids, expected = reference("olmo2-like")
    assert np.abs(model.logits(ids) - expected).max() > 100 * MARGIN


def test_glm_4_without_biases_and_as_transformers_4_wrote_it(tmp_path: Path) -> None:
    """As it is published."""
    data = config_json("glm4-like")
    _, config = config_from_hf(data, "x")
    del data["rope_parameters"]
    assert config_from_hf(data, "x")[1] == config  # half of a head turns, if nothing is said
    path = changed("glm4-like", tmp_path / "plain", attention_bias=False)
    tensors = load_file(path / "model.safetensors")
    kept = {name: value for name, value in tensors.items() if not name.endswith(".bias")}
    save_file(kept, path / "model.safetensors")
    assert converted(path, tmp_path / "checkpoint").config == replace(config, biases=())
    (tmp_path / "x.gguf").write_bytes(gguf_of(str(path), "glm4"))
    assert converted(tmp_path / "x.gguf", tmp_path / "gguf").config == replace(config, biases=())


def test_configs_of_olmo_as_transformers_4_wrote_them() -> None:
    """Base and scaling outside, which are of layers without a window; and what it may leave out."""
    data = config_json("olmo3-like")
    _, wanted = config_from_hf(data, "x")
    older = dict(data) | {"rope_theta": YARN["rope_theta"], "rope_scaling": YARN}
    for key in ("rope_parameters", "layer_types"):
        del older[key]
    assert config_from_hf(older, "x")[1] == wanted
    assert [rope.scaling for rope in wanted.ropes] == ["yarn", "none"]
    _, plain = config_from_hf(config_json("olmo2-like"), "x")
    assert (len(plain.ropes), {layer.window for layer in plain.layers}) == (1, {0})


def test_a_magnitude_that_a_gguf_of_olmo_does_not_give(tmp_path: Path) -> None:
    """Given, it is all of it; else it is the usual one."""
    for given, wanted in ((1.5, 1.5), (None, yarn_magnitude(8.0))):
        rope = config_json("olmo3-like")["rope_parameters"]
        rope[KINDS[0]]["attention_factor"] = given
        (tmp_path / "x.gguf").write_bytes(gguf_of("olmo3-like", "olmo2", rope_parameters=rope))
        config = converted(tmp_path / "x.gguf", tmp_path / f"{given}").config
        assert config.ropes[0].magnitude == wanted


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
        ("gemma2-like", {"attn_logit_softcapping": -1.0}, "softcapping is -1.0, and must"),
        ("gemma2-like", {"use_bidirectional_attention": True}, "is True, which Doppler"),
        ("llama32-like", {"attn_logit_softcapping": 50.0}, "is 50.0, which Doppler"),
        ("granite-like", {"attention_bias": True}, "attention_bias is True, which Doppler"),
        ("granite-like", {"mlp_bias": True}, "mlp_bias is True, which Doppler"),
        ("granite-like", {"residual_multiplier": 0.0}, "residual_multiplier is 0.0, and must"),
        ("granite-like", {"residual_multiplier": 1e-30}, "norm_eps is .*must be positive and fin"),
        ("granite4-like", {"num_local_experts": 4}, "num_local_experts is 4, which Doppler"),
        ("granite4-like", {"layer_types": ["mamba", "attention"]}, "layers of type mamba"),
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
        ("glm4-like", {"mlp_bias": True}, "mlp_bias is True, which Doppler"),
        ("hunyuan-like", {"use_cla": True}, "use_cla is True, which Doppler"),
        (
            "hunyuan-like",
            with_rope("hunyuan-like", alpha=None),
            "rope type 'dynamic' is not one th",
        ),
        ("hunyuan-like", with_rope("hunyuan-like", rope_type="yarn"), "is 'yarn'; Doppler knows d"),
        ("hunyuan-like", with_rope("hunyuan-like", alpha=-1.0), "alpha is -1.0, and must"),
        (
            "ministral3-like",
            with_rope("ministral3-like", llama_4_scaling_beta=-0.5),
            "queries grow by -0.5 for each 20 positions",
        ),
        (
            "ministral3-like",
            with_rope("ministral3-like", rope_type="linear"),
            "llama_4_scaling_beta is 0.5, which Doppler",
        ),
        ("llama32-like", with_rope("ministral3-like"), "beta is 0.5, which Doppler"),
    ],
)
def test_what_is_refused(name: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DopplerError, match=message) as error:
        config_from_hf(config_json(name) | changes, "config.json")
    told = str(error.value)
    has_a_limit = any(part in told for part in ("which Doppler", "knows", "does not know"))
    assert has_a_limit == isinstance(error.value, UnsupportedError)


def test_what_files_of_gemma_2_leave_out(tmp_path: Path) -> None:
    """The first GGUF files have no caps and no window; none has the scale of the 27B's scores."""
    keys = metadata_of(config_json("gemma2-like"), "gemma2")
    for key in ("attn_logit_softcapping", "final_logit_softcapping", "attention.sliding_window"):
        del keys[f"gemma2.{key}"]
    large = keys | {"gemma2.block_count": 46}
    shape = (303, 60)
    embedding: Tensors = {"token_embd.weight": ("F32", shape, bytes(4 * math.prod(shape)))}
    for metadata, scalar in ((keys, 24), (large, 144)):
        (tmp_path / "x.gguf").write_bytes(gguf_bytes(metadata, embedding))
        header = asyncio.run(read_gguf(FileSource(tmp_path / "x.gguf"), MemoryBuffers()))
        _, config = config_from_gguf(header, ())
        assert (config.score_cap, config.logit_cap) == (50.0, 30.0)
        assert [layer.window for layer in config.layers[:4]] == [4096, 0, 4096, 0]
        assert config.query_scale == scalar**-0.5
    data = config_json("gemma2-like")
    for key in ("attn_logit_softcapping", "layer_types", "sliding_window"):
        del data[key]
    _, config = config_from_hf(data, "config.json")
    assert config.score_cap == 50.0
    assert [layer.window for layer in config.layers] == [4096, 0, 4096, 0]


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


def test_the_text_model_of_one_that_sees() -> None:
    """Ministral 3 is published within Mistral3ForConditionalGeneration."""
    text = config_json("ministral3-like")
    whole = {"model_type": "mistral3", "text_config": text, "vision_config": {}}
    architecture, config = config_from_hf(whole, "config.json")
    assert (architecture.name, config) == ("mistral3", config_from_hf(text, "x")[1])
    names = {
        "language_model.model.layers.0.self_attn.q_proj.weight": "blk.0.attn_q.weight",
        "model.language_model.norm.weight": "output_norm.weight",
        "language_model.lm_head.weight": "output.weight",
    }
    others = ["vision_tower.ln_pre.weight", "multi_modal_projector.norm.weight"]
    others += ["model.vision_tower.patch_conv.weight", "model.multi_modal_projector.norm.weight"]
    assert gguf_names(architecture, [*names, *others], "x") == names


def test_one_share_of_the_growth_alone_counts_for_nothing() -> None:
    """As in transformers, where both must be there."""
    _, both = config_from_hf(config_json("ministral3-like"), "x")
    alone = config_json("ministral3-like") | with_rope("ministral3-like", mscale=0.0)
    _, usual = config_from_hf(alone, "x")
    assert both.ropes[0].magnitude != usual.ropes[0].magnitude
    assert usual.ropes[0].magnitude == yarn_magnitude(usual.ropes[0].factor)


@pytest.mark.parametrize(
    "changes", [{"post_norms": False}, {"qk_norm": False}, {"experts": Experts(4, 2)}]
)
def test_branches_that_must_read_what_is_normed(changes: dict[str, Any]) -> None:
    _, config = config_from_hf(config_json("olmo2-like"), "x")
    with pytest.raises(UnsupportedError, match=r"must read what is normed|come before rope"):
        replace(config, **changes)


def test_heads_that_are_normed_after_rope_have_no_magnitude() -> None:
    """It would be lost in the norm."""
    _, config = config_from_hf(config_json("hunyuan-like"), "x")
    yarn = Rope(1e4, "yarn", 4.0, original_context=64, magnitude=1.1)
    with pytest.raises(UnsupportedError, match="normed after rope cannot be made larger by it"):
        replace(config, ropes=(yarn,))


def test_granite_4_as_it_was_published_first() -> None:
    """With another name for layers that attend; where nothing is said of them, none does."""
    data = config_json("granite4-like")
    older = config_from_hf(data | {"layer_types": ["attention"] * 2}, "x")[1]
    assert older == config_from_hf(data, "x")[1]
    del data["layer_types"]
    with pytest.raises(UnsupportedError, match="layers of type mamba"):
        config_from_hf(data, "x")


def test_a_gguf_without_rope(tmp_path: Path) -> None:
    """Granite's key for it, whose name says something else."""
    data = gguf_of("granite4-like", "granite", position_embedding_type="nope")
    (tmp_path / "x.gguf").write_bytes(data)
    config = converted(tmp_path / "x.gguf", tmp_path / "model").config
    frequencies = [config.ropes[layer.rope].inverse_frequencies(16) for layer in config.layers]
    assert max(map(max, frequencies)) < 1e-20


def test_rows_of_blocks(tmp_path: Path) -> None:
    """Of fused matrices, and those of heads that turn in part: 12 dimensions of 16."""
    config = config_json("phi3-like") | {"hidden_size": 64, "num_attention_heads": 4}
    config |= {"num_key_value_heads": 2, "intermediate_size": 96, "num_hidden_layers": 1}
    config |= {"max_position_embeddings": 64}  # the original: nothing is longer
    shapes = {"token_embd": (40, 64), "output_norm": (64,), "blk.0.attn_norm": (64,)}
    shapes |= {"blk.0.ffn_norm": (64,), "blk.0.attn_output": (64, 64), "blk.0.ffn_down": (64, 96)}
    shapes |= {"blk.0.attn_qkv": (128, 64), "blk.0.ffn_up": (192, 64)}
    tensors: Tensors = {}
    for seed, (name, shape) in enumerate(shapes.items()):
        kind = "F32" if len(shape) == 1 else "Q8_0"
        tensors[f"{name}.weight"] = (kind, shape, random_tensor(kind, shape, seed))
    (tmp_path / "x.gguf").write_bytes(gguf_bytes(metadata_of(config, "phi3"), tensors))
    manifest = converted(tmp_path / "x.gguf", tmp_path / "model")
    assert manifest.config.ropes[0].width == 12
    found = NumpyModel(tmp_path / "model").weights
    qkv = dequantize(*(tensors["blk.0.attn_qkv.weight"][i] for i in (0, 2, 1)))
    both = dequantize(*(tensors["blk.0.ffn_up.weight"][i] for i in (0, 2, 1)))
    heads = qkv.reshape(8, 16, 64)
    order = [0, 1, 2, 3, 4, 5, 12, 13, 6, 7, 8, 9, 10, 11, 14, 15]
    for name, wanted in {
        "attn_q": heads[:4, order],
        "attn_k": heads[4:6, order],
        "attn_v": heads[6:],
        "ffn_gate": both[:96],
        "ffn_up": both[96:],
    }.items():
        weights = found[f"blk.0.{name}.weight"]
        np.testing.assert_array_equal(weights, wanted.reshape(weights.shape))


def test_divisors_of_a_gguf_go_together(tmp_path: Path) -> None:
    """Those for long contexts with those for short ones, and never with the same for all."""
    divisors: Tensors = {
        f"rope_{kind}.weight": ("F32", (9,), np.ones(9, np.float32).tobytes())
        for kind in ("factors_short", "factors_long", "freqs")
    }
    metadata = metadata_of(config_json("phi3-like"), "phi3")
    for names in (["factors_short"], ["factors_long"], ["factors_short", "factors_long", "freqs"]):
        chosen = {key: divisors[key] for key in (f"rope_{kind}.weight" for kind in names)}
        (tmp_path / "x.gguf").write_bytes(gguf_bytes(metadata, chosen))
        with pytest.raises(FormatError, match=r"must have rope_freqs\.weight, or both rope_fac"):
            converted(tmp_path / "x.gguf", tmp_path / "model")


@pytest.mark.parametrize("name", ["phi3-like", "hunyuan-like"])
def test_ropes_of_configs_of_transformers_4(name: str) -> None:
    """Which have some of it outside, and an older name for it."""
    data = config_json(name)
    rope = dict(data["rope_parameters"])
    outer = ("rope_theta", "partial_rotary_factor", "original_max_position_embeddings")
    older = data | {key: rope.pop(key) for key in outer if key in rope} | {"rope_parameters": None}
    kind = rope.pop("rope_type")
    for named in {"longrope": ("longrope", "su", "yarn")}.get(kind, (kind,)):
        again = config_from_hf(older | {"rope_scaling": rope | {"type": named}}, "x")[1]
        assert again == config_from_hf(data, "x")[1]


VALUES = [0, -1, 5, 0.5, 1e300, 1e-300, math.inf, math.nan, True, "x", [], [0.5], [[]], {}, None]
ROPE_KEYS = ("alpha", "mscale", "mscale_all_dim", "llama_4_scaling_beta", "partial_rotary_factor")
ROPE_KEYS += ("short_factor", "long_factor", "attention_factor", "rope_type", "rope_theta")
FIELDS = ("embedding_multiplier", "attention_multiplier", "residual_multiplier", "logits_scaling")
FIELDS += ("no_rope_layers", "no_rope_layer_interval", "position_embedding_type", "layer_types")
FIELDS += ("partial_rotary_factor", "original_max_position_embeddings", "head_dim")
KEYS = ("embedding_scale", "attention.scale", "residual_scale", "logit_scale")
KEYS += ("attention.temperature_scale", "rope.dimension_count", "rope.scaling.attn_factor")
KEYS += ("rope.scaling.finetuned", "rope.scaling.yarn_log_multiplier")
GGUF_VALUES = [0, 5, 0.5, -1.0, "x", True, [1, 2], ("f64", 1e300), ("f64", 1e-300)]


@pytest.mark.parametrize("name", GGUF)
def test_values_of_the_wrong_kind_are_no_surprise(name: str) -> None:
    """Whatever stands in a field, it is read, or refused in one line."""
    data = config_json(name)
    cases = [data | {key: item} for key in FIELDS for item in VALUES]
    cases += [data | with_rope(name, **{key: item}) for key in ROPE_KEYS for item in VALUES]
    for case in cases:
        with contextlib.suppress(DopplerError):
            config_from_hf(case, "config.json")


@pytest.mark.parametrize("name", GGUF)
def test_values_of_the_wrong_kind_in_a_gguf(tmp_path: Path, name: str) -> None:
    architecture = GGUF[name]
    metadata = metadata_of(config_json(name), architecture)
    embedding: Tensors = {"token_embd.weight": ("F32", (3, 4), bytes(48))}
    for key, item in itertools.product(KEYS, GGUF_VALUES):
        changes = {f"{architecture}.{key}": item}
        (tmp_path / "x.gguf").write_bytes(gguf_bytes(metadata | changes, embedding))
        with pytest.raises(DopplerError) as error:  # for what is wrong, or for tensors
            converted(tmp_path / "x.gguf", tmp_path / "model")
        assert str(error.value).isprintable()

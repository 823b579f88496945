"""How a model's own files say that it is sampled: read, kept, and used where nobody asks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoint_files import write_checkpoint
from doppler.api.request import Request
from doppler.convert.convert import outline_path
from doppler.convert.outline import Outline
from doppler.errors import FormatError, RequestError
from doppler.formats.sampling_defaults import sampling_from_gguf, sampling_from_hf
from doppler.inputs.buffers import MemoryBuffers
from doppler.inputs.fields import Fields
from doppler.sampling import ModelSampling, Sampling
from doppler.store.manifest import Manifest
from gguf_files import gguf_bytes, llama_metadata, llama_tensors
from storable import storable

GEMMA = {"temperature": 1.0, "top_p": 0.95, "top_k": 64}
OWN = ModelSampling(temperature=1.0, top_p=0.95, top_k=64)


def of_hf(**config: Any) -> tuple[ModelSampling, tuple[str, ...]]:
    return sampling_from_hf(Fields(config, "generation_config.json"))


def of_gguf(**values: Any) -> tuple[ModelSampling, tuple[str, ...]]:
    metadata = {f"general.sampling.{key}": value for key, value in values.items()}
    return sampling_from_gguf({"general.name": "a", **metadata}, "a.gguf")


def test_generation_config() -> None:
    assert of_hf(**GEMMA) == (OWN, ())
    assert of_hf() == of_hf(eos_token_id=[1], do_sample=None) == (ModelSampling(), ())
    assert of_hf(do_sample=True, **GEMMA) == (replace(OWN, greedy=False), ())
    greedy = ModelSampling(temperature=0.6, greedy=True)
    assert of_hf(do_sample=False, temperature=0.6) == (greedy, ())
    more = {"min_p": 0.05, "repetition_penalty": 1.05}
    assert of_hf(**more)[0].to_json() == more
    assert of_hf(top_k=-1) == (ModelSampling(top_k=0), ())


@pytest.mark.parametrize(
    "wrong", [{"temperature": 1e39}, {"repetition_penalty": 1e39}, {"repetition_penalty": 1e-44}]
)
def test_requests_keep_to_what_kernels_hold(wrong: dict[str, float]) -> None:
    with pytest.raises(RequestError, match="f32 holds"):
        Sampling.from_json(wrong)


def test_a_temperature_that_a_gpu_takes_for_none_is_none() -> None:
    assert Sampling(temperature=1e-44).is_greedy
    assert not Sampling(temperature=1e-30).is_greedy


def test_gguf() -> None:
    """Numbers are float32 there, and are told as they were meant."""
    near = float(np.float32(0.95))
    assert near != 0.95
    assert of_gguf(temp=1.0, top_p=near, top_k=64) == (OWN, ())
    assert of_gguf(penalty_repeat=float(np.float32(1.05)), min_p=0.0)[0].to_json() == {
        "repetition_penalty": 1.05,
        "min_p": 0.0,
    }
    assert of_gguf(top_k=-1)[0] == ModelSampling(top_k=0)
    assert of_gguf(mirostat=2, sequence="kfypmt") == (ModelSampling(), ())


def outlined(path: Path) -> Outline:
    return asyncio.run(outline_path(path, MemoryBuffers()))


def test_a_gguf_file_is_outlined_with_them(tmp_path: Path) -> None:
    keys = {"general.sampling.temp": 0.7, "general.sampling.top_k": ("i32", 20)}
    wrong = {"general.sampling.top_p": 3.0}
    path = tmp_path / "a.gguf"
    path.write_bytes(gguf_bytes({**llama_metadata(), **keys, **wrong}, llama_tensors()))
    outline = outlined(path)
    assert outline.manifest.sampling.to_json() == {"temperature": 0.7, "top_k": 20}
    assert "general.sampling.top_p is 3.0" in outline.warnings[-1]


@pytest.mark.parametrize(
    ("read", "key", "value"),
    [
        (of_hf, "temperature", -0.1),
        (of_hf, "temperature", "hot"),
        (of_hf, "temperature", True),
        (of_hf, "temperature", float("nan")),
        (of_hf, "temperature", 10**400),
        (of_hf, "top_k", -2),
        (of_hf, "top_k", 2.5),
        (of_hf, "top_p", 0),
        (of_hf, "top_p", 1.5),
        (of_hf, "min_p", 1.5),
        (of_hf, "repetition_penalty", 0),
        (of_hf, "do_sample", "yes"),
        (of_gguf, "temp", float("inf")),
        (of_gguf, "temp", 1e300),
        (of_gguf, "top_k", 1 << 40),
        (of_gguf, "penalty_repeat", -1.0),
        (of_gguf, "top_p", [0.5]),
    ],
)
def test_what_makes_no_sense_is_left_out_and_told(
    read: Callable[..., tuple[ModelSampling, tuple[str, ...]]], key: str, value: Any
) -> None:
    good = {"temperature": 0.5} if key != "temperature" else {"top_k": 5}
    good = good if read is of_hf else {"min_p": 0.5}
    found, (told,) = read(**{key: value, **good})
    assert found.to_json() == good
    assert key in told
    assert told.endswith("it is left out, and answers are sampled without it")


def test_a_checkpoint_is_outlined_with_them(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", 64)
    plain = outlined(folder)
    (folder / "generation_config.json").write_text(json.dumps({**GEMMA, "min_p": 7}))
    outline = outlined(folder)
    assert (plain.manifest.sampling, outline.manifest.sampling) == (ModelSampling(), OWN)
    *same, told = outline.warnings
    assert tuple(same) == plain.warnings
    assert told.startswith("generation_config.json: min_p is 7")


def test_a_manifest_keeps_them_and_is_what_it_was_without() -> None:
    plain = storable().manifest
    assert "sampling" not in json.loads(plain.to_json())["description"]
    kept = replace(plain, sampling=replace(OWN, greedy=False))
    assert kept.identity != plain.identity
    assert Manifest.from_json(kept.to_json(), "a") == kept
    assert Manifest.from_json(plain.to_json(), "a").sampling == ModelSampling()
    data = json.loads(kept.to_json())
    data["description"]["sampling"]["top_p"] = 2
    with pytest.raises(FormatError, match=r"sampling\.top_p is 2, and must be a number from"):
        Manifest.from_json(json.dumps(data), "a")


def asked(model: ModelSampling, **sampling: Any) -> Sampling:
    return Request.from_json({"sampling": sampling}, model).sampling  # type: ignore[typeddict-item]


def test_a_request_overrides_them_one_by_one() -> None:
    assert asked(OWN) == Sampling(temperature=1.0, top_p=0.95, top_k=64)
    assert asked(OWN, top_k=5, seed=3) == Sampling(temperature=1.0, top_p=0.95, top_k=5, seed=3)
    assert asked(OWN, top_k=0, top_p=1) == Sampling()
    assert asked(ModelSampling(), min_p=0.1) == Sampling(min_p=0.1)
    assert Request.from_json({}, OWN).sampling.top_k == 64
    with pytest.raises(RequestError, match="top_p"):
        asked(OWN, top_p=2)


def test_a_greedy_model_draws_for_who_asks_for_a_draw() -> None:
    greedy = ModelSampling(temperature=0.6, repetition_penalty=1.1, greedy=True)
    assert asked(greedy).is_greedy
    assert asked(greedy, seed=5, repetition_penalty=1.0).is_greedy
    assert asked(greedy, greedy=False) == Sampling(temperature=0.6, repetition_penalty=1.1)
    assert not asked(greedy, top_p=0.9).is_greedy
    assert asked(greedy, top_p=0.9).temperature == 0.6
    assert asked(OWN, greedy=True).is_greedy
    assert asked(ModelSampling(temperature=0.0)).is_greedy

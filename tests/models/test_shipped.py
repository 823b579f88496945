"""Whole models in the real page against float32: the two that are shipped.

Margins. For these quantised models the issue allows 0.02 rms and 0.15 at most; page and reference
both compute in float32 on the same dequantised weights, and differ by the order of sums alone, so
the tests hold them to a tenth of that, with keys and values in float32; in f16, which has 11 bits,
the issue allows 0.05 rms and 0.4 at most. Greedy ids must agree wherever the reference's best logit
leads by more than 0.05.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from in_page import greedy, load, logits
from tokenizers import Tokenizer

from doppler.command.client import Client
from numpy_model import NumpyModel

REFERENCES = Path(__file__).parents[1] / "references"
SHIPPED = ("gemma-3-270m", "smollm2-135m-instruct")
RMS_MARGIN, MAX_MARGIN = 0.002, 0.015
HALF_RMS_MARGIN, HALF_MAX_MARGIN = 0.05, 0.4
LEAD = 0.05
DECODED = 4  # tokens of a shipped model's answers: each takes seconds of a CPU
FOLLOWED = 13  # of transformers' ids, those whose logits are compared: a row is that of a megabyte
NUMERALS = "٣٤ Ⅷ ½ ² 12"
SLICED = [2, 236743, 200000, 262143, 818]  # rows of both slices of Gemma's embedding


@dataclass(frozen=True)
class Answered:
    """What a shipped model gave, loaded once, of each prompt of its reference.

    rows: logits [tokens, vocabulary] of the prompt and what transformers continues it with, but for
    the last id, in one batch. answers: of "complete", greedy, token by token.
    """

    name: str
    memory: dict[str, Any]
    rows: list[np.ndarray]
    answers: list[dict[str, Any]]
    numerals: list[int]


def reference_of(name: str) -> list[dict[str, Any]]:
    prompts: list[dict[str, Any]] = json.loads((REFERENCES / f"{name}.json").read_text())["prompts"]
    return prompts


def text_of(prompt: dict[str, Any]) -> list[int]:
    ids: list[int] = [*prompt["prompt_ids"], *prompt["generated_ids"][: FOLLOWED - 1]]
    return ids


@pytest.fixture(scope="module")
def answered(
    shipped: Client, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Answered:
    name: str = request.param
    target = tmp_path_factory.mktemp("rows") / "rows.npy"
    loaded, prompts = load(shipped, name, context=512), reference_of(name)
    assert loaded["kv"] == "f32"
    asked = {"max_tokens": DECODED, "ignore_eos": True, "sampling": {"greedy": True}}
    answers = [shipped.call("complete", {**asked, "prompt": each["text"]}) for each in prompts]
    rows = [logits(shipped, target, prompt_ids=text_of(each))[1] for each in prompts]
    numerals = shipped.call("tokenize", {"prompt": NUMERALS})["ids"]
    return Answered(name, loaded["memory"], rows, answers, numerals)


@cache
def oracle_rows(folder: Path) -> list[np.ndarray]:
    """The logits of the same texts by NumPy, and of Gemma those of SLICED, too."""
    oracle = NumpyModel(folder)
    texts = [text_of(prompt) for prompt in reference_of(folder.name)]
    more = [SLICED] if folder.name == SHIPPED[0] else []
    return [oracle.logits(ids) for ids in texts + more]


@pytest.mark.parametrize("answered", SHIPPED, indirect=True)
def test_shipped_model_matches_float32(answered: Answered, models: Path) -> None:
    for found, wanted in zip(answered.rows, oracle_rows(models / answered.name), strict=False):
        assert found.shape == wanted.shape
        assert np.sqrt(np.mean((found - wanted) ** 2)) < RMS_MARGIN
        assert np.abs(found - wanted).max() < MAX_MARGIN


@pytest.mark.parametrize("answered", SHIPPED, indirect=True)
def test_shipped_model_continues_as_transformers_does(answered: Answered) -> None:
    """By the logits after each of transformers' own ids, and by the first ids of an answer."""
    for prompt, rows, answer in zip(
        reference_of(answered.name), answered.rows, answered.answers, strict=True
    ):
        assert answer["prompt_ids"] == prompt["prompt_ids"]
        assert len(answer["generated_ids"]) == DECODED
        assert_continues(answer["generated_ids"], prompt)
        after = rows[len(prompt["prompt_ids"]) - 1 :]
        for row, expected, top in zip(
            after,
            prompt["generated_ids"][:FOLLOWED],
            prompt["per_step_top5"][:FOLLOWED],
            strict=True,
        ):
            assert row.argmax() == expected or is_tie(top)
            for token, value in top:
                assert abs(row[token] - value) < MAX_MARGIN


@pytest.mark.parametrize("answered", SHIPPED, indirect=True)
def test_numeric_characters_are_split_in_the_page_as_elsewhere(
    answered: Answered, models: Path
) -> None:
    """The library's own step for digits knows ASCII ones only when it runs on JavaScript."""
    tokenizer = Tokenizer.from_file(str(models / answered.name / "tokenizer.json"))
    assert answered.numerals == tokenizer.encode(NUMERALS).ids


@pytest.mark.shipped_matrix
@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_model_goes_on_as_transformers_does(shipped: Client, name: str) -> None:
    """To the last id, token by token."""
    load(shipped, name, context=512)
    for prompt in reference_of(name):
        count = len(prompt["generated_ids"])
        generated = greedy(shipped, prompt["prompt_ids"], count)
        assert len(generated) == count
        assert_continues(generated, prompt)


@pytest.mark.parametrize("answered", SHIPPED[:1], indirect=True)
def test_half_cache_takes_half_and_stays_close(
    answered: Answered, shipped: Client, models: Path, tmp_path: Path
) -> None:
    half = load(shipped, answered.name, context=512, kv="f16")
    assert half["kv"] == "f16"
    assert answered.memory["kv"] == 2 * half["memory"]["kv"]
    ids = reference_of(answered.name)[0]["prompt_ids"]
    wanted = oracle_rows(models / answered.name)[0][: len(ids)]
    for batch in (len(ids), 1):
        _, found = logits(shipped, tmp_path / f"{batch}.npy", prompt_ids=ids, batch=batch)
        assert np.sqrt(np.mean((found - wanted) ** 2)) < HALF_RMS_MARGIN
        assert np.abs(found - wanted).max() < HALF_MAX_MARGIN


def test_embedding_above_the_binding_limit_is_bound_in_slices(
    shipped: Client, models: Path, tmp_path: Path
) -> None:
    """Gemma's embedding takes 178 MB; WebGPU promises 128 MiB a binding, as many devices have."""
    limits = {"maxStorageBufferBindingSize": 128 << 20}
    load(shipped, SHIPPED[0], context=512, limits=limits)
    _, found = logits(shipped, tmp_path / "sliced.npy", prompt_ids=SLICED)
    assert np.abs(found - oracle_rows(models / SHIPPED[0])[-1]).max() < MAX_MARGIN


def assert_continues(generated: list[int], prompt: dict[str, Any]) -> None:
    """The ids are those of transformers, up to a tie that fell the other way."""
    for found, expected, top in zip(
        generated, prompt["generated_ids"], prompt["per_step_top5"], strict=False
    ):
        if found != expected:
            assert is_tie(top), f"{found} instead of {expected}: {top}"
            break  # the texts differ from here on


def is_tie(top: list[tuple[int, float]]) -> bool:
    """Whether the best logit leads by so little that rounding may decide."""
    return top[0][1] - top[1][1] <= LEAD

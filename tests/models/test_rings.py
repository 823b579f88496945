"""Tiny models whose windows are shorter than the prompt: rings wrap, prefixes are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from in_page import (
    GPU,
    OWN_EMBEDDINGS,
    TINY_MARGIN,
    assert_follows,
    greedy,
    load,
    logits,
    reuse,
)

from doppler.command.client import Client
from fixture_sets import LONG, reference
from numpy_model import NumpyModel


def test_long_prompt_gives_the_same_logits_however_it_is_prefilled(
    tiny: Client, tmp_path: Path
) -> None:
    ids, wanted = reference(LONG)
    assert len(ids) == 700
    load(tiny, LONG, batch=700)
    ends = []
    for batch in (700, 61):  # and one by one: test_rings_wrap_and_change_nothing
        _, found = logits(tiny, tmp_path / f"{batch}.npy", prompt_ids=ids, batch=batch)
        ends.append(found[-1])
    assert max(np.abs(end - ends[0]).max() for end in ends) < 1e-4
    assert np.abs(ends[0] - wanted[-1]).max() < TINY_MARGIN


@pytest.fixture(scope="module")
def long_logits(tiny_folder: Path) -> np.ndarray:
    """Of every position of the long prompt, by NumPy, which keeps all keys."""
    ids, wanted = reference(LONG)
    rows = NumpyModel(tiny_folder / LONG).logits(ids)
    assert np.abs(rows[-1] - wanted[-1]).max() < TINY_MARGIN
    return rows


def wrapping(client: Client, **args: Any) -> dict[str, Any]:
    """Loads the long model so that layers with a window of 64 keep 192 of 1,024 positions."""
    return load(client, LONG, batch=32, **args)


@pytest.mark.parametrize("adapter", [{}, GPU], ids=["cpu", "gpu"])
def test_rings_wrap_and_change_nothing(
    tiny: Client, long_logits: np.ndarray, adapter: dict[str, Any], tmp_path: Path
) -> None:
    loaded = wrapping(tiny, adapter=adapter)
    assert loaded["memory"]["kv"] == 2 * 4 * 2 * 16 * (6 * 192 + 1024)
    ids = reference(LONG)[0]
    decoded = 24 if adapter else 205  # answers wrap them with the kernels of GPUs, in the next test
    for batch, count in ((32, 700), (19, 300), (1, decoded)):
        target = tmp_path / f"{batch}.npy"
        _, found = logits(tiny, target, prompt_ids=ids[:count], batch=batch)
        assert np.abs(found - long_logits[:count]).max() < TINY_MARGIN, f"batch {batch}"


@pytest.mark.parametrize("adapter", [{}, GPU], ids=["cpu", "gpu"])
@pytest.mark.parametrize("speculate", ["off", "on"])
def test_answers_wrap_rings_too(
    tiny: Client, tiny_folder: Path, adapter: dict[str, Any], speculate: str
) -> None:
    """Tokens one by one, and drafts, most of which are wrong and leave their keys behind."""
    ids, count = reference(LONG)[0][:170], 40
    wrapping(tiny, adapter=adapter)
    args = {"max_tokens": count, "ignore_eos": True, "sampling": {"greedy": True}}
    answer = tiny.call("complete", {**args, "prompt_ids": ids, "speculate": speculate})
    assert bool(answer["drafts"]["batches"]) == (speculate == "on")
    generated = answer["generated_ids"]
    assert len(generated) == count
    rows = NumpyModel(tiny_folder / LONG).logits(ids + generated[:-1])
    assert_follows(generated, rows[len(ids) - 1 :], TINY_MARGIN)


@pytest.mark.parametrize("adapter", [{}, GPU], ids=["cpu", "gpu"])
def test_edits_reuse_what_rings_still_have(
    tiny: Client, tiny_folder: Path, adapter: dict[str, Any]
) -> None:
    """A prompt whose beginning is too far back is run anew, with the same answer."""
    ids = reference(LONG)[0]
    wrapping(tiny, adapter=adapter)
    reused = reuse(tiny, NumpyModel(tiny_folder / LONG))
    assert reused(ids[:400]) == 0
    assert reused(ids[:420]) == 400  # the answer was another
    assert reused([*ids[:380], *ids[500:510]]) == 380
    assert reused([*ids[:300], *ids[500:520]]) == 0  # what 300 sees ends with 237, of 431 - 192 on
    assert reused([*ids[:250], *ids[:30]]) == 250
    assert reused([*ids[:250], *ids[:20], 7]) == 270


def test_edits_where_layers_share_keys(tiny: Client, tiny_folder: Path) -> None:
    """Prompts longer than every window, of which layers without keys see the last token alone."""
    ids = np.random.default_rng(4).integers(1, 280, 400).tolist()
    loaded = load(tiny, OWN_EMBEDDINGS, context=512, batch=32)
    layers = loaded["config"]["layers"]
    assert any(layer.get("shares", -1) >= 0 for layer in layers)
    reused = reuse(tiny, NumpyModel(tiny_folder / OWN_EMBEDDINGS))
    assert reused(ids[:260]) == 0
    assert reused([*ids[:240], *ids[300:310]]) == 240
    assert reused([*ids[:20], *ids[300:310]]) == 0  # the rings have later keys there


@pytest.mark.parametrize("adapter", [{}, GPU], ids=["cpu", "gpu"])
def test_keys_that_are_bound_in_slices(
    tiny: Client, long_logits: np.ndarray, adapter: dict[str, Any], tmp_path: Path
) -> None:
    """Of two heads, one can be bound at once in the layers without a window."""
    limits = {"maxStorageBufferBindingSize": 96 << 10}
    wrapping(tiny, limits=limits, adapter=adapter)
    ids = reference(LONG)[0]
    for batch, count in ((32, 200), (1, 24 if adapter else 90)):
        target = tmp_path / f"{batch}.npy"
        _, found = logits(tiny, target, prompt_ids=ids[:count], batch=batch)
        assert np.abs(found - long_logits[:count]).max() < TINY_MARGIN, f"batch {batch}"
        planned = [step["label"] for step in tiny.call("plan", {"tokens": 8, "batch": batch})]
        assert planned.count("blk.0.attention") == 1
        assert planned.count("blk.5.attention") == 2


def test_cached_prefix_changes_nothing(tiny: Client) -> None:
    ids = reference(LONG)[0][:200]
    load(tiny, LONG, batch=256)
    fresh = greedy(tiny, ids, 12)
    edited = [*ids[:120], *ids[130:]]
    args = {"max_tokens": 12, "ignore_eos": True, "sampling": {"greedy": True}}
    after_edit = tiny.call("complete", {**args, "prompt_ids": edited})
    again = tiny.call("complete", {**args, "prompt_ids": ids + fresh})
    load(tiny, LONG, batch=256)
    assert after_edit["reused_tokens"] == 120
    assert after_edit["generated_ids"] == greedy(tiny, edited, 12)
    assert again["reused_tokens"] == 120
    load(tiny, LONG, batch=256)
    assert again["generated_ids"] == greedy(tiny, ids + fresh, 12)

"""Tiny models of every shape against transformers in float32, within 1e-3, in the page: with the
kernels of CPUs, some with those of GPUs, and of the least GPU that there may be.

A CPU takes half a second for each token that GPUs' kernels decode, so there they run on a few only,
more than the windows of 16 that some layers have. One page has them all: what is compiled stays,
until another device is opened, for tests with limits, which come last.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from in_page import (
    BROKEN,
    CONTEXT,
    GPU,
    MIXTRAL,
    OWN_EMBEDDINGS,
    PADDED,
    PIECE,
    TINY_MARGIN,
    assert_follows,
    assert_halts_change_nothing,
    greedy,
    load,
    logits,
)
from ruled import allows, ruled_answers

from doppler.command.client import Client
from doppler.errors import DopplerError, RequestError
from doppler.store.manifest import MANIFEST_FILE, Manifest
from fixture_sets import ALL, FAMILIES, HALTED, LONG, ON_GPUS, ON_LEAST, TINY, reference
from paper_engine import least_gpu

DECODED = 20  # tokens


def by_default(names: Sequence[str]) -> list[Any]:
    """All models, those of `names` by default."""
    return [pytest.param(it, marks=[] if it in names else pytest.mark.every_case) for it in ALL]


@pytest.mark.parametrize("name", [*TINY, *FAMILIES])
def test_tiny_model_matches_transformers(tiny: Client, name: str, tmp_path: Path) -> None:
    """In pieces, the last of which is shorter, and by the decode path."""
    ids, wanted = reference(name)
    load(tiny, name, context=CONTEXT)
    for batch in (PIECE, 1):
        _, found = logits(tiny, tmp_path / f"{batch}.npy", prompt_ids=ids, batch=batch)
        assert np.abs(found - wanted).max() < TINY_MARGIN, f"batch {batch}"
    if name in TINY:
        assert_halts_change_nothing(tiny, ids, one_of_a_kind=True)


@pytest.mark.parametrize("name", by_default(ON_GPUS))
def test_tiny_model_with_the_kernels_of_gpus(tiny: Client, name: str, tmp_path: Path) -> None:
    """Tiles, and attention and matvecs shared by subgroups, of whatever size they have here."""
    ids, wanted = reference(name)
    load(tiny, name, context=CONTEXT, batch=32, adapter=GPU)
    for batch, count in ((32, len(ids)), (1, DECODED)):
        target = tmp_path / f"{batch}.npy"
        _, found = logits(tiny, target, prompt_ids=ids[:count], batch=batch)
        assert np.abs(found - wanted[:count]).max() < TINY_MARGIN, f"batch {batch}"
    if name in HALTED:
        assert_halts_change_nothing(tiny, ids, one_of_a_kind=True)


@pytest.mark.parametrize("adapter", [{}, GPU], ids=["cpu", "gpu"])
def test_embeddings_of_layers_from_the_host(
    tiny: Client, adapter: dict[str, Any], tmp_path: Path
) -> None:
    """Their rows are brought token by token, and the table's memory is not taken."""
    ids = reference(OWN_EMBEDDINGS)[0][:40]
    found, room = {}, {"context": CONTEXT, "batch": 16, "adapter": adapter}
    for place in ("gpu", "host"):
        loaded = load(tiny, OWN_EMBEDDINGS, ple=place, **room)
        assert loaded["ple"] == place
        asked = ({"prompt_ids": ids, "batch": 16}, {"prompt_ids": ids[:8], "batch": 1})
        rows = [logits(tiny, tmp_path / "l.npy", **each)[1] for each in asked]
        found[place] = (rows, greedy(tiny, ids, 4), loaded["memory"]["weights"])
    for one, other in zip(found["gpu"][0], found["host"][0], strict=True):
        assert np.array_equal(one, other)
    assert found["gpu"][1] == found["host"][1]
    config = loaded["config"]
    table = config["vocab"] * len(config["layers"]) * config["per_layer"]
    assert found["gpu"][2] - found["host"][2] > 0.8 * 2 * table


def test_a_model_that_reads_its_files_is_deleted_while_it_answers(tiny: Client) -> None:
    """The answer ends first: it would open them again."""
    loaded = load(tiny, OWN_EMBEDDINGS, context=512, ple="host")
    reason = tiny.page.evaluate(
        """async (id) => {
          const asked = { prompt_ids: [1, 2, 3], max_tokens: 400, ignore_eos: true };
          const began = new Promise((resolve) => {
            window.answer = doppler.call("complete", asked, resolve);
          });
          await began;
          await doppler.call("delete", { id });
          return (await window.answer).finish_reason;
        }""",
        loaded["id"],
    )
    assert reason == "cancelled"
    assert loaded["id"] not in [model["id"] for model in tiny.call("models", {})]


def test_weights_that_are_no_numbers_end_an_answer(tiny: Client) -> None:
    load(tiny, BROKEN)
    for speculate in ("off", "on"):
        asked = {"prompt_ids": [1, 2, 1, 2], "max_tokens": 4, "speculate": speculate}
        with pytest.raises(
            DopplerError, match="token 1 of the answer has logits that are infinite"
        ):
            tiny.call("complete", asked)


def test_ids_without_a_token_have_no_text(tiny: Client, tiny_folder: Path) -> None:
    """Embeddings are often padded to a round number of rows."""
    manifest = Manifest.from_json((tiny_folder / PADDED / MANIFEST_FILE).read_text(), PADDED)
    assert load(tiny, PADDED)["tokenizer"]
    last = manifest.config.vocab - 1
    answer = tiny.call("complete", {"prompt_ids": [last - 29, last], "max_tokens": 2})
    assert answer["prompt_ids"] == [last - 29, last]


@pytest.mark.parametrize("name", ["gemma3-1b-like", "gemma4-e2b-like", "gpt-oss-mxfp4-like"])
def test_tiny_model_continues_as_its_logits_say(tiny: Client, name: str, tmp_path: Path) -> None:
    ids = reference(name)[0][:40]
    load(tiny, name)
    generated = greedy(tiny, ids, 24)
    _, rows = logits(tiny, tmp_path / "all.npy", prompt_ids=ids + generated[:-1])
    assert_follows(generated, rows[len(ids) - 1 :], TINY_MARGIN)


@pytest.mark.parametrize("adapter", [{}, GPU], ids=["cpu", "gpu"])
def test_a_rule_says_what_may_come_next(
    tiny: Client, adapter: dict[str, Any], tmp_path: Path
) -> None:
    """The best of what it allows at each place; and afterwards answers are as they were."""
    ids, count = reference(OWN_EMBEDDINGS)[0][:16], 12
    load(tiny, OWN_EMBEDDINGS, context=CONTEXT, batch=16, ple="gpu", adapter=adapter)
    free = greedy(tiny, ids, count)
    best, drawn = ruled_answers(tiny.page, ids, count)
    for answer in (best, drawn):
        assert len(answer) == count
        assert all(allows(n, token) for n, token in enumerate(answer))
    _, rows = logits(tiny, tmp_path / "all.npy", prompt_ids=ids + best[:-1])
    rows = rows[len(ids) - 1 :]
    for n, row in enumerate(rows):
        row[[token for token in range(len(row)) if not allows(n, token)]] = -np.inf
    assert_follows(best, rows, TINY_MARGIN)
    assert greedy(tiny, ids, count) == free != best


def test_a_mixture_gives_the_same_tokens_from_every_file(tiny: Client) -> None:
    """A checkpoint, and GGUF files in both layouts and with gates and ups of different types."""
    ids = reference(MIXTRAL)[0][:40]
    answers = []
    for name in (MIXTRAL, "mixtral-apart", "mixtral-stacked", "mixtral-mixed"):
        load(tiny, name, batch=32, context=128)
        answers.append(greedy(tiny, ids, 12))
    assert answers == [answers[0]] * 4


def test_sampling_with_a_seed_repeats_itself(tiny: Client) -> None:
    load(tiny, TINY[0])
    args = {"prompt_ids": [1, 2, 3], "max_tokens": 20, "ignore_eos": True}

    def sample(seed: int) -> list[int]:
        sampling = {"temperature": 1.2, "top_k": 50, "top_p": 0.95, "seed": seed}
        ids: list[int] = tiny.call("complete", {**args, "sampling": sampling})["generated_ids"]
        return ids

    first = sample(7)
    assert first == sample(7)
    assert first != sample(8)


def test_refused_load_keeps_the_loaded_model(tiny: Client) -> None:
    load(tiny, TINY[0])
    with pytest.raises(RequestError, match="context is -5"):
        load(tiny, LONG, context=-5)
    assert len(greedy(tiny, [1, 2, 3], 2)) == 2


def test_context_that_is_full_ends_the_answer_and_says_so(tiny: Client) -> None:
    load(tiny, TINY[0], context=48)
    args = {"prompt_ids": list(range(1, 41)), "max_tokens": 100, "ignore_eos": True}
    answer = tiny.call("complete", {**args, "sampling": {"greedy": True}})
    assert answer["finish_reason"] == "context"
    assert len(answer["generated_ids"]) == 8


@pytest.mark.parametrize("name", by_default(ON_LEAST))
def test_tiny_model_on_the_least_gpu(tiny: Client, name: str, tmp_path: Path) -> None:
    """One with the standard's default limits, which has neither subgroups nor f16."""
    ids, wanted = reference(name)
    adapter = {"is_cpu": False, "subgroup_size": 0}
    limits = least_gpu().limits
    load(tiny, name, context=CONTEXT, batch=32, limits=limits, adapter=adapter)
    for batch, count in ((32, len(ids)), (1, DECODED)):
        target = tmp_path / f"{batch}.npy"
        _, found = logits(tiny, target, prompt_ids=ids[:count], batch=batch)
        assert np.abs(found - wanted[:count]).max() < TINY_MARGIN, f"batch {batch}"
        planned = {step["kernel"] for step in tiny.call("plan", {"tokens": 8, "batch": batch})}
        products = {kernel for kernel in planned if kernel.startswith("mat")}
        assert products == {"matvec_workgroup"} | ({"matmul_tile"} if batch > 1 else set())
        assert "attention_decode" not in planned


MIXED = "mixtral-mixed"  # whose gates and ups are apart


@pytest.mark.parametrize(
    ("name", "adapter"),
    [
        (MIXTRAL, GPU),
        (MIXED, {}),
        pytest.param(MIXTRAL, {}, marks=pytest.mark.every_case),
        pytest.param(MIXED, GPU, marks=pytest.mark.every_case),
    ],
)
def test_experts_that_are_bound_in_slices(
    tiny: Client, name: str, adapter: dict[str, Any], tmp_path: Path
) -> None:
    """Of six experts, three can be bound at once."""
    ids, wanted = reference(MIXTRAL)
    limits = {"maxStorageBufferBindingSize": 48 << 10}
    load(tiny, name, batch=32, context=CONTEXT, limits=limits, adapter=adapter)
    for batch, count in ((32, len(ids)), (8, DECODED), (1, DECODED)):
        target = tmp_path / f"{batch}.npy"
        _, found = logits(tiny, target, prompt_ids=ids[:count], batch=batch)
        assert np.abs(found - wanted[:count]).max() < TINY_MARGIN, f"batch {batch}"

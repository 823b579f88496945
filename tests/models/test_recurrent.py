"""Tiny models with a recurrent state: against transformers, halted, and what prompts go on from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from in_page import (
    CONTEXT,
    PIECE,
    TINY_MARGIN,
    assert_follows,
    assert_halts_change_nothing,
    greedy,
    load,
    logits,
)

from doppler.command.client import Client
from doppler.engine.checkpoints import TAIL
from fixture_sets import RECURRENT, reference
from numpy_model import NumpyModel


@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent_model_matches_transformers(tiny: Client, name: str, tmp_path: Path) -> None:
    """In pieces that are longer than a convolution, and shorter; and whatever was run before."""
    ids, wanted = reference(name)
    load(tiny, name, context=CONTEXT)
    for batch, count in ((PIECE, len(ids)), (1, len(ids)), (2, 21)):
        asked = {"prompt_ids": ids[:count], "batch": batch}
        _, found = logits(tiny, tmp_path / f"{batch}.npy", **asked)
        assert np.abs(found - wanted[:count]).max() < TINY_MARGIN, f"batch {batch}"
    assert_halts_change_nothing(tiny, ids, one_of_a_kind=True)


@pytest.mark.parametrize("name", RECURRENT)
def test_what_prompts_go_on_from(tiny: Client, tiny_folder: Path, name: str) -> None:
    """Answers are those of a model that runs everything anew, and no drafts are wrong for it."""
    ids, _ = reference(name)
    oracle = NumpyModel(tiny_folder / name)
    load(tiny, name, batch=32)

    def answer(prompt: list[int], count: int = 16) -> tuple[int, list[int]]:
        asked: dict[str, Any] = {"max_tokens": count, "prompt_ids": prompt, "ignore_eos": True}
        asked |= {"sampling": {"greedy": True}, "speculate": "on"}
        found = tiny.call("complete", asked)
        generated: list[int] = found["generated_ids"]
        rows = oracle.logits(prompt + generated[:-1])
        assert_follows(generated, rows[len(prompt) - 1 :], TINY_MARGIN)
        assert found["drafts"]["batches"] == 0
        return found["reused_tokens"], generated

    first = ids[:60]
    reused, said = answer(first)
    assert reused == 0
    assert answer(first) == (60 - TAIL, said)  # asked again
    second = [*first, *said, *ids[60:90]]  # a turn more
    assert answer(second)[0] == 60 - TAIL
    edited = [*first, *said, *ids[65:96]]  # its message is edited
    assert answer(edited)[0] == 60 - TAIL
    assert answer([*first[:50], 7, *ids[60:80]])[0] == 0  # far back
    assert answer([*first[:50], 7, *ids[60:80], 9])[0] == 71 - TAIL
    _, said = answer(first, 150)
    reused, _ = answer([*first, *said, 5])
    assert 60 < reused < 60 + 150  # within the answer
    load(tiny, name, batch=32)
    assert greedy(tiny, second, 16) == answer(second)[1]

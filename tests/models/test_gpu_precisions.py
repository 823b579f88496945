"""Tiny models on a GPU as it is, in both precisions: only where there is one with f16."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from in_page import CONTEXT, TINY_MARGIN, load, logits

from doppler.command.client import Client
from doppler.errors import RequestError
from fixture_sets import FAMILIES, RECURRENT, TINY, reference

MARGINS = {"f32": TINY_MARGIN, "f16": 2e-2}  # f16: for a deviation of 1


@pytest.fixture(scope="module")
def halves(tiny: Client) -> Client:
    """The page, where it has f16."""
    try:
        load(tiny, TINY[0], context=CONTEXT, precision="f16")
    except RequestError as error:
        pytest.skip(str(error))
    return tiny


@pytest.mark.parametrize("name", [*TINY, *FAMILIES, *RECURRENT])
@pytest.mark.parametrize("precision", MARGINS)
def test_tiny_model_on_this_gpu(halves: Client, name: str, precision: str, tmp_path: Path) -> None:
    """At once, in pieces and token by token; the likeliest token is that of float32."""
    ids, wanted = reference(name)
    margin = MARGINS[precision] * (max(wanted.std(), 1.0) if precision == "f16" else 1.0)
    load(halves, name, context=CONTEXT, batch=CONTEXT, precision=precision, kv=precision)
    first, second = np.sort(wanted, axis=1)[:, :-3:-1].T
    is_plain = first - second > 2 * margin
    for batch in (len(ids), 32, 1):
        _, found = logits(halves, tmp_path / f"{batch}.npy", prompt_ids=ids, batch=batch)
        difference = float(np.abs(found - wanted).max())
        print(f"{name} {precision} {batch}: {difference:.1e}")
        assert difference < margin, f"batch {batch}"
        assert np.array_equal(found.argmax(1)[is_plain], wanted.argmax(1)[is_plain])

"""Tiny models whose keys and values are kept in 8 bits, beside NumPy that rounds them likewise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from in_page import GPU, OWN_EMBEDDINGS, TINY_MARGIN, load, logits, reuse

from doppler import references
from doppler.command.client import Client
from fixture_sets import LONG, reference
from numpy_model import NumpyModel

SHARED_KEYS, KEYS_ARE_VALUES = OWN_EMBEDDINGS, "gemma4-26b-like"
MATTERS, COST = 5 * TINY_MARGIN, 0.05  # of logits: at least, and relative to theirs, at most
exact_attention = references.attention


def rounded(x: np.ndarray) -> np.ndarray:
    """Keys or values [..., d] as they are read again."""
    codes, scales = references.q8_codes(x)
    return references.q8_numbers(np.rint(codes), scales).astype(x.dtype)


def q8_attention(q: np.ndarray, keys: np.ndarray, values: np.ndarray, *how: Any) -> np.ndarray:
    return exact_attention(q, rounded(keys), rounded(values), *how)


@pytest.mark.parametrize(
    ("name", "adapter"),
    [(LONG, {}), (LONG, GPU), (SHARED_KEYS, {}), (SHARED_KEYS, GPU), (KEYS_ARE_VALUES, {})],
)
def test_logits(
    tiny: Client,
    tiny_folder: Path,
    name: str,
    adapter: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those of what is kept, where rings wrap, too. A number between two codes may become either.

    Heads of 16 and 32 numbers, of random weights: the bound on what the bits cost is theirs alone.
    """
    oracle, ids = NumpyModel(tiny_folder / name), reference(name)[0][:230]
    exact = oracle.logits(ids)
    monkeypatch.setattr(references, "attention", q8_attention)
    wanted = oracle.logits(ids)
    assert MATTERS < rms(wanted - exact) < COST * rms(exact)
    loaded = load(tiny, name, kv="q8", batch=32, context=512, adapter=adapter)
    assert loaded["kv"] == "q8"
    for batch, count in ((32, len(ids)), (1, 24 if adapter else len(ids))):
        _, found = logits(tiny, tmp_path / "l.npy", prompt_ids=ids[:count], batch=batch)
        assert rms(found - wanted[:count]) < TINY_MARGIN, f"batch {batch}"


def test_edits_reuse_what_rings_still_have(
    tiny: Client, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers are those of a prompt run anew; what is kept takes 24 bytes for 16 numbers."""
    ids = reference(LONG)[0]
    monkeypatch.setattr(references, "attention", q8_attention)
    loaded = load(tiny, LONG, kv="q8", batch=32)
    assert loaded["memory"]["kv"] == 24 * 2 * 2 * (6 * 192 + 1024)
    reused = reuse(tiny, NumpyModel(tiny_folder / LONG))
    assert reused(ids[:300]) == 0
    assert reused([*ids[:280], *ids[500:510]]) == 280


def rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(x))))

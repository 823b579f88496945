"""Tiny models with the kernels of GPUs, and of the least GPU that there may be.

A CPU takes half a second for each token that these decode, so there they run on a few only, more
than the windows of 16 that some layers have.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from in_page import (
    CONTEXT,
    GPU,
    MIXTRAL,
    TINY_MARGIN,
    assert_halts_change_nothing,
    load,
    logits,
)

from doppler.command.client import Client
from fixture_sets import ON_GPUS, ON_LEAST, reference
from paper_engine import least_gpu

DECODED = 24  # tokens


@pytest.mark.parametrize("name", ON_GPUS)
def test_tiny_model_with_the_kernels_of_gpus(tiny: Client, name: str, tmp_path: Path) -> None:
    """Tiles, and attention and matvecs shared by subgroups, of whatever size they have here."""
    ids, wanted = reference(name)
    load(tiny, name, context=CONTEXT, adapter=GPU)
    for batch, count in ((32, len(ids)), (1, DECODED)):
        target = tmp_path / f"{batch}.npy"
        _, found = logits(tiny, target, prompt_ids=ids[:count], batch=batch)
        assert np.abs(found - wanted[:count]).max() < TINY_MARGIN, f"batch {batch}"
    assert_halts_change_nothing(tiny, ids, one_of_a_kind=True)


@pytest.mark.parametrize("name", ON_LEAST)
def test_tiny_model_on_the_least_gpu(tiny: Client, name: str, tmp_path: Path) -> None:
    """One with the standard's default limits, which has neither subgroups nor f16."""
    ids, wanted = reference(name)
    adapter = {"is_cpu": False, "subgroup_size": 0}
    limits = least_gpu().limits
    load(tiny, name, context=CONTEXT, limits=limits, adapter=adapter, precision="f32")
    for batch, count in ((32, len(ids)), (1, DECODED)):
        target = tmp_path / f"{batch}.npy"
        _, found = logits(tiny, target, prompt_ids=ids[:count], batch=batch)
        assert np.abs(found - wanted[:count]).max() < TINY_MARGIN, f"batch {batch}"
        planned = {step["kernel"] for step in tiny.call("plan", {"tokens": 8, "batch": batch})}
        products = {kernel for kernel in planned if kernel.startswith("mat")}
        assert products == {"matvec_workgroup"} | ({"matmul_tile"} if batch > 1 else set())
        assert "attention_decode" not in planned


@pytest.mark.parametrize("adapter", [{}, GPU], ids=["cpu", "gpu"])
def test_experts_that_are_bound_in_slices(
    tiny: Client, adapter: dict[str, Any], tmp_path: Path
) -> None:
    """Of six experts, three can be bound at once; also where gate and up are apart."""
    ids, wanted = reference(MIXTRAL)
    limits = {"maxStorageBufferBindingSize": 48 << 10}
    for name in (MIXTRAL, "mixtral-mixed"):
        load(tiny, name, batch=32, context=128, limits=limits, adapter=adapter)
        for batch, count in ((32, len(ids)), (8, len(ids)), (1, DECODED)):
            target = tmp_path / f"{batch}.npy"
            _, found = logits(tiny, target, prompt_ids=ids[:count], batch=batch)
            assert np.abs(found - wanted[:count]).max() < TINY_MARGIN, f"batch {batch}"

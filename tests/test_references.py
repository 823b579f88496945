"""The NumPy forward pass against transformers, on tiny checkpoints of every shape."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from doppler import references
from doppler.buffers import MemoryBuffers
from doppler.convert import convert_path
from doppler.storage.folder import FolderStorage
from numpy_model import NumpyModel

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.mark.parametrize("name", ["gemma3-1b-like", "gemma3-4b-like", "llama32-like"])
def test_forward(name: str, tmp_path: Path) -> None:
    """Within float32 rounding (logits are of size 1 to 10); a wrong formula moves them by 1e-3."""
    asyncio.run(convert_path(FIXTURES / name, FolderStorage(tmp_path), MemoryBuffers(), name=name))
    model = NumpyModel(tmp_path)
    wanted = np.load(FIXTURES / name / "reference.npz")
    logits = references.forward(model.config, model.weights.__getitem__, wanted["ids"].tolist())
    assert np.abs(logits - wanted["logits"]).max() < 1e-4

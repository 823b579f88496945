"""The oracle for whole models: a converted folder, dequantised, through the NumPy forward pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from doppler import references
from doppler.quantization.dequantize import dequantize
from doppler.store.manifest import Manifest


class NumpyModel:
    """All weights in memory, as float32 arrays of the manifest's shapes, by GGUF name."""

    def __init__(self, folder: Path) -> None:
        text = (folder / "manifest.json").read_text(encoding="utf-8")
        self.manifest = Manifest.from_json(text, str(folder))
        self.config = self.manifest.config
        space = b"".join((folder / shard.name).read_bytes() for shard in self.manifest.shards)
        self.weights = {
            t.name: dequantize(t.type, space[t.offset : t.offset + t.bytes], t.shape)
            for t in self.manifest.tensors
        }

    def logits(self, ids: list[int]) -> npt.NDArray[np.float32]:
        """float32 [tokens, vocab]."""
        return references.forward(self.config, self.weights.__getitem__, ids)

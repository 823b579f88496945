"""A model of 12.3 MiB in four shards whose weights are noise: for moving bytes, not for running."""

from __future__ import annotations

import hashlib
import math
import random
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from doppler.config.layer import Layer
from doppler.config.model import ModelConfig
from doppler.config.rope import Rope
from doppler.store.manifest import BLOCK_SIZE, MANIFEST_FILE, Manifest, Tensor
from doppler.store.sharded import ALIGNMENT, Shard

SHARD = 4 * BLOCK_SIZE
CONFIG = ModelConfig(
    architecture="llama",
    hidden=256,
    heads=4,
    kv_heads=4,
    head_dim=64,
    ffn=1024,
    vocab=4400,
    context=128,
    norm_eps=1e-5,
    query_scale=0.125,
    activation="silu",
    ropes=(Rope(10000.0),),
    layers=(Layer(), Layer()),
)


@dataclass(frozen=True)
class Storable:
    """A manifest and the bytes that it describes."""

    manifest: Manifest
    data: bytes

    def shard(self, index: int) -> bytes:
        """The bytes of a shard's file."""
        shard = self.manifest.shards[index]
        return self.data[shard.offset : shard.offset + shard.bytes]

    def block(self, index: int) -> bytes:
        """The bytes of a block."""
        return self.data[index * BLOCK_SIZE : (index + 1) * BLOCK_SIZE]

    def save(self, folder: Path) -> None:
        """Writes what a server would have."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MANIFEST_FILE).write_text(self.manifest.to_json())
        for index, shard in enumerate(self.manifest.shards):
            (folder / shard.name).write_bytes(self.shard(index))


def storable(seed: int = 0) -> Storable:
    """The model of this seed."""
    tensors, end = [], 0
    for name, shape in CONFIG.tensor_shapes().items():
        length = 4 * math.prod(shape)
        tensors.append(Tensor(name, "F32", shape, end, length))
        end += -(-length // ALIGNMENT) * ALIGNMENT
    data = random.Random(seed).randbytes(end)
    shards = []
    for index, offset in enumerate(range(0, end, SHARD)):
        part = data[offset : offset + SHARD]
        name, digest = f"shard-{index:05}.bin", hashlib.sha256(part).hexdigest()
        shards.append(Shard(name, offset, len(part), blake3(part).hexdigest(), digest))
    parts = [data[at : at + BLOCK_SIZE] for at in range(0, end, BLOCK_SIZE)]
    blocks = tuple(blake3(part).hexdigest() for part in parts)
    manifest = Manifest(
        name=f"noise-{seed}",
        title=f"Noise {seed}",
        license=None,
        config=CONFIG,
        tokenizer=None,
        tensors=tuple(tensors),
        bytes=end,
        block_size=BLOCK_SIZE,
        blocks=blocks,
        shards=tuple(shards),
    )
    return Storable(manifest, data)

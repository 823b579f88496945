"""`doppler synth`: models of true shapes with random weights, for measuring speed and memory.

Every tensor repeats a run of random blocks of its type, so a model is written as fast as the disk
takes it; the run's length is prime, so that rows differ. Weights have the deviation
1/sqrt(columns), which keeps activations finite through any number of layers. There is no
tokenizer: such a model takes and gives token ids.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from doppler.buffers import Buffer, Buffers, MemoryBuffers
from doppler.command.terminal import Terminal
from doppler.config import Layer, ModelConfig, Rope
from doppler.convert import convert_tensors
from doppler.errors import RequestError
from doppler.formats.blocks import BLOCK_TYPES, BlockType
from doppler.formats.quants import dequantize
from doppler.manifest import Manifest
from doppler.source import Progress, Source
from doppler.storage import Storage
from doppler.storage.folder import FolderStorage

RUN_BLOCKS = 65521  # the largest prime below 2^16
NARROW = 1024  # columns
SAMPLE_BLOCKS = 512  # of which the deviation is taken
# Where a block's f16 scales are, and its integer ones: with small integers the f16 scales stay
# normal numbers.
SCALES: Mapping[str, tuple[int, ...]] = {
    "Q4_0": (0,),
    "Q5_0": (0,),
    "Q8_0": (0,),
    "Q4_K": (0, 2),
    "Q6_K": (208,),
}
SMALL_SCALES: Mapping[str, slice] = {"Q4_K": slice(4, 16), "Q6_K": slice(192, 208)}


def _gemma(
    hidden: int, heads: int, kv_heads: int, ffn: int, vocab: int, **more: int
) -> ModelConfig:
    """Gemma 3: five layers with a window, then one without. GGUF stores 1 + w of the norms."""
    scaling = Rope(1e6, "linear", 8.0) if more["factor"] > 1 else Rope(1e6)
    return ModelConfig(
        architecture="gemma3",
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=256,
        ffn=ffn,
        vocab=vocab,
        context=more["context"],
        norm_eps=1e-6,
        query_scale=256**-0.5,
        activation="gelu_tanh",
        ropes=(Rope(1e4), scaling),
        layers=tuple(
            Layer(0, 1) if i % 6 == 5 else Layer(more["window"], 0) for i in range(more["layers"])
        ),
        embedding_scale=hidden**0.5,
        qk_norm=True,
        post_norms=True,
    )


def _llama(hidden: int, heads: int, head_dim: int, layers: int) -> ModelConfig:
    """Llama 3.2, as GGUF has it: q and k permuted for interleaved pairs."""
    return ModelConfig(
        architecture="llama",
        hidden=hidden,
        heads=heads,
        kv_heads=8,
        head_dim=head_dim,
        ffn=8192,
        vocab=128256,
        context=131072,
        norm_eps=1e-5,
        query_scale=head_dim**-0.5,
        activation="silu",
        ropes=(Rope(5e5, "llama3", 32.0, 1.0, 4.0, 8192),),
        layers=(Layer(),) * layers,
        rope_pairs="interleaved",
    )


SHAPES: Mapping[str, ModelConfig] = {
    "gemma-3-270m": _gemma(640, 4, 1, 2048, 262144, layers=18, window=512, context=32768, factor=1),
    "gemma-3-1b": _gemma(1152, 4, 1, 6912, 262144, layers=26, window=512, context=32768, factor=1),
    "gemma-3-4b": _gemma(
        2560, 8, 4, 10240, 262208, layers=34, window=1024, context=131072, factor=8
    ),
    "llama-3.2-1b": _llama(2048, 32, 64, 16),
    "llama-3.2-3b": _llama(3072, 24, 128, 28),
}


def write(shape: str, folder: Path, terminal: Terminal, *, layers: int | None = None) -> Manifest:
    """The model of that shape in a folder, whose name it takes."""
    name, storage = folder.resolve().name, FolderStorage(folder)
    with terminal.bar(f"synth {shape}") as report:
        return asyncio.run(
            synth(shape, storage, MemoryBuffers(), name=name, layers=layers, progress=report)
        )


async def synth(
    shape: str,
    storage: Storage,
    buffers: Buffers,
    *,
    name: str,
    layers: int | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """Writes a model of that shape with the first `layers` of its layers.

    Raises RequestError for a shape that is not known or a number of layers that it does not have.
    """
    if shape not in SHAPES:
        raise RequestError(f"shape {shape!r} is not one of {', '.join(SHAPES)}")
    config = SHAPES[shape]
    if layers is not None:
        if not 1 <= layers <= len(config.layers):
            raise RequestError(f"{shape} has 1 to {len(config.layers)} layers, not {layers}")
        config = replace(config, layers=config.layers[:layers])
    places: dict[str, tuple[Source, int, BlockType]] = {}
    for number, (key, extents) in enumerate(config.tensor_shapes().items()):
        block = BLOCK_TYPES[type_of(key, extents, len(config.layers))]
        source = _Repeated(key, _run(block, extents[-1], np.random.default_rng(number)))
        places[key] = (source, 0, block)
    title = f"{shape}, random weights"
    return await convert_tensors(
        config, places, storage, buffers, name=name, title=title, progress=progress
    )


def type_of(name: str, extents: tuple[int, ...], layers: int) -> str:
    """The block type that a file like Q4_K_M has: more bits for values and down in outer layers,
    and for a model so narrow that errors would show (Gemma 3 270M as it is published).
    """
    if len(extents) == 1:
        return "F32"
    wide, small = extents[-1] % 256 == 0, extents[-1] < NARROW
    if name.startswith("blk."):
        index, outer = int(name.split(".")[1]), max(layers // 8, 1)
        if ("attn_v" in name or "ffn_down" in name) and not outer <= index < layers - outer:
            return "Q6_K" if wide else "Q8_0" if small else "Q5_0"
    elif small:
        return "Q8_0"
    return "Q4_K" if wide else "Q5_0" if small else "Q4_0"


class _Repeated:
    """A source without end: a run of bytes, again and again."""

    def __init__(self, name: str, run: bytes) -> None:
        self.name, self._run = name, run

    async def size(self) -> int:
        return len(self._run)

    async def read(self, offset: int, length: int) -> Buffer:
        start = offset % len(self._run)
        copies = -(-(start + length) // len(self._run))
        return memoryview(self._run * copies)[start : start + length]


def _run(block: BlockType, columns: int, rng: np.random.Generator) -> bytes:
    """Random blocks of one type whose weights have the deviation 1/sqrt(columns)."""
    if block.name == "F32":  # a norm's weights
        return (1 + 0.1 * rng.standard_normal(columns)).astype("<f4").tobytes()
    raw = rng.integers(0, 256, (RUN_BLOCKS, block.bytes), dtype=np.uint8)
    if block.name in SMALL_SCALES:
        raw[:, SMALL_SCALES[block.name]] &= 0x0F
    _set_scales(raw, block.name, 1.0, 1.0)
    sample = raw[:SAMPLE_BLOCKS]
    if block.name == "Q4_K":  # w = d · scale · q - dmin · least: dmin such that the mean is 0
        _set_scales(sample, block.name, 1.0, 0.0)
        mean = _weights(block, sample).mean()
        _set_scales(sample, block.name, 0.0, 1.0)
        ratio = float(-mean / _weights(block, sample).mean())
    else:
        ratio = 1.0
    _set_scales(sample, block.name, 1.0, ratio)
    scale = float(1 / (_weights(block, sample).std() * columns**0.5))
    _set_scales(raw, block.name, scale, scale * ratio)
    return raw.tobytes()


def _set_scales(
    raw: np.ndarray[tuple[int, int], np.dtype[np.uint8]], kind: str, *to: float
) -> None:
    for place, value in zip(SCALES[kind], to, strict=False):
        raw[:, place : place + 2] = np.frombuffer(np.float16(value).tobytes(), np.uint8)


def _weights(
    block: BlockType, raw: np.ndarray[tuple[int, int], np.dtype[np.uint8]]
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return dequantize(block.name, raw.tobytes(), (len(raw), block.elements))

"""`doppler synth`: models of true shapes with random weights, for measuring speed and memory.

Every tensor repeats a run of random blocks of its type, so a model is written as fast as the disk
takes it; the run's length is prime, so that rows differ. Weights have the deviation
1/sqrt(columns), which keeps activations finite through any number of layers. There is no
tokenizer: such a model takes and gives token ids.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from doppler.command.output import write_model
from doppler.command.shapes import SHAPES
from doppler.command.terminal import Terminal
from doppler.config.mixers import is_filter
from doppler.config.model import ModelConfig
from doppler.convert.outline import Outline
from doppler.errors import RequestError
from doppler.inputs.buffers import Buffer
from doppler.quantization.block_types import BLOCK_TYPES, BlockType
from doppler.quantization.dequantize import dequantize
from doppler.store.byte_layout import Place, lay_out
from doppler.store.manifest import SHARD_SIZE, Manifest

RUN_BLOCKS = 65521  # the largest prime below 2^16
NARROW = 1024  # columns
SHIFT_BLOCKS = 4099  # between the beginnings of two tensors in their run
SAMPLE_BLOCKS = 512  # of which the deviation is taken
# Where a block's f16 scales are, and its integer ones: with small integers the f16 scales stay
# normal numbers.
SCALES: Mapping[str, tuple[int, ...]] = {
    "Q4_0": (0,),
    "Q5_0": (0,),
    "Q8_0": (0,),
    "Q4_K": (0, 2),
    "Q6_K": (208,),
    "MXFP4": (),  # an exponent of all blocks
}
EXPONENTS = (120, 123)  # of MXFP4 blocks, before they are scaled: from .. to
SMALL_SCALES: Mapping[str, slice] = {"Q4_K": slice(4, 16), "Q6_K": slice(192, 208)}


def write(shape: str, folder: Path, terminal: Terminal, *, layers: int | None = None) -> Manifest:
    """The model of that shape in a folder, whose name it takes."""
    with terminal.bar(f"synth {shape}") as progress:
        outline = outline_of(shape, Path(os.path.realpath(folder)).name, layers)
        return write_model(outline, folder, SHARD_SIZE, progress)


def outline_of(shape: str, name: str, layers: int | None = None) -> Outline:
    """A model of that shape with the first `layers` of its layers.

    Raises RequestError for a shape that is not known or a number of layers that it does not have.
    """
    if shape not in SHAPES:
        raise RequestError(f"shape {shape!r} is not one of {', '.join(SHAPES)}")
    config = SHAPES[shape]
    if layers is not None:
        if not 1 <= layers <= len(config.layers):
            raise RequestError(f"{shape} has 1 to {len(config.layers)} layers, not {layers}")
        config = _first(config, layers)
    manifest, pieces = lay_out(config, _places(config), name, f"{shape}, random weights")
    return Outline(manifest, pieces, vocabulary=None)


def _first(config: ModelConfig, count: int) -> ModelConfig:
    """That many layers of a model, with the ropes that they use."""
    layers = config.layers[:count]
    used = sorted({layer.rope for layer in layers})
    return replace(
        config,
        ropes=tuple(config.ropes[number] for number in used),
        layers=tuple(replace(layer, rope=used.index(layer.rope)) for layer in layers),
    )


def _places(config: ModelConfig) -> dict[str, Place]:
    """Each tensor's run, which those of the same kind share: others begin at other blocks of it."""
    runs: dict[tuple[str, int, int], _Repeated] = {}
    places: dict[str, Place] = {}
    for number, (key, extents) in enumerate(config.tensor_shapes().items()):
        block = BLOCK_TYPES[type_of(config, key, extents)]
        mean = int("norm" in key or "scale" in key) - int(key.endswith(".ssm_a.weight"))
        kind = block.name, extents[-1], mean
        if kind not in runs:
            runs[kind] = _Repeated(str(kind), _run(block, *kind[1:], np.random.default_rng(number)))
        places[key] = (runs[kind], number * SHIFT_BLOCKS * block.bytes, block)
    return places


def type_of(config: ModelConfig, name: str, extents: tuple[int, ...]) -> str:
    """The block type that a file like Q4_K_M has: more bits for values and down in outer layers,
    and for a model so narrow that errors would show (Gemma 3 270M as it is published). A model
    with sinks, which is trained with experts in MXFP4, has everything else in Q8_0 (GPT-OSS).
    """
    layers = len(config.layers)
    if len(extents) == 1 or "ffn_gate_inp" in name or is_filter(name):
        return "F32"
    if config.sinks:
        return "MXFP4" if "ffn_" in name else "Q8_0"
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


def _run(block: BlockType, columns: int, mean: int, rng: np.random.Generator) -> bytes:
    """Random blocks of one type whose weights have the deviation 1/sqrt(columns)."""
    if block.name == "F32":  # norms and scales are about 1; the router, biases and sinks about 0;
        spread = 0.1 if mean else columns**-0.5  # what says how memories fade, about -1
        return (mean + spread * rng.standard_normal(RUN_BLOCKS)).astype("<f4").tobytes()
    raw = rng.integers(0, 256, (RUN_BLOCKS, block.bytes), dtype=np.uint8)
    if block.name in SMALL_SCALES:
        raw[:, SMALL_SCALES[block.name]] &= 0x0F
    _set_scales(raw, block.name, 1.0, 1.0)
    sample = raw[:SAMPLE_BLOCKS]
    if block.name == "MXFP4":
        raw[:, 0] = rng.integers(*EXPONENTS, RUN_BLOCKS)
        raw[:, 0] -= round(float(np.log2(_weights(block, sample).std() * columns**0.5)))
        return raw.tobytes()
    if block.name == "Q4_K":  # w = d · scale · q - dmin · least: dmin such that the mean is 0
        _set_scales(sample, block.name, 1.0, 0.0)
        plain = _weights(block, sample).mean()
        _set_scales(sample, block.name, 0.0, 1.0)
        ratio = float(-plain / _weights(block, sample).mean())
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

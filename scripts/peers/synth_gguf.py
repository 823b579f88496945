"""A GGUF file of random weights in a shape of Gemma 3, in Q4_0, with another file's tokenizer.

What `doppler synth` writes has no tokenizer, without which wllama loads nothing. Matrices repeat a
run, one for each width, so that such a file is packed to a few MB where it must travel.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter

from doppler.config.model import ModelConfig

RUN_BLOCKS = 65521  # of 32 weights in 18 bytes; the largest prime below 2^16: rows differ
DEVIATION = 4.61  # of quants that are 0 to 15 with the same chance
Matrix = np.ndarray[tuple[int, int], np.dtype[np.uint8]]


def write(config: ModelConfig, vocabulary: Path, target: Path) -> None:
    """Takes the tokenizer from the file `vocabulary`, which must have as many tokens."""
    partial = target.with_suffix(".partial")
    writer = GGUFWriter(partial, config.architecture)
    writer.add_name(target.stem)
    for name, value in keys(config).items():
        kind = GGUFValueType.FLOAT32 if isinstance(value, float) else GGUFValueType.UINT32
        writer.add_key_value(f"{config.architecture}.{name}", value, kind)
    for field in GGUFReader(vocabulary).fields.values():
        if field.name.startswith("tokenizer."):
            kind, *parts = field.types
            part = parts[-1] if kind == GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), kind, sub_type=part)
    for name, extents in config.tensor_shapes().items():
        if len(extents) == 1:
            writer.add_tensor(name, np.ones(extents, np.float32))
        else:
            raw = blocks(*extents)
            writer.add_tensor(name, raw, raw_dtype=GGMLQuantizationType.Q4_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.replace(target)


def keys(config: ModelConfig) -> dict[str, int | float]:
    """GGUF's keys of a Gemma 3 model, without the architecture before them."""
    return {
        "context_length": config.context,
        "embedding_length": config.hidden,
        "block_count": len(config.layers),
        "feed_forward_length": config.ffn,
        "attention.head_count": config.heads,
        "attention.head_count_kv": config.kv_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": config.norm_eps,
        "attention.sliding_window": config.layers[0].window,
        "rope.freq_base": config.ropes[1].base,
    }


def blocks(rows: int, columns: int) -> Matrix:
    """Q4_0 [rows, bytes of a row] whose weights have the deviation 1/sqrt(columns)."""
    run = np.random.default_rng(columns).integers(0, 256, (RUN_BLOCKS, 18), dtype=np.uint8)
    scale = np.float16(1 / (DEVIATION * columns**0.5))
    run[:, :2] = np.frombuffer(scale.tobytes(), np.uint8)
    return np.resize(run, (rows, columns // 32 * 18))

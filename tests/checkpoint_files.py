"""Writes small safetensors checkpoints of arch llama, for tests."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt

from doppler.formats.vocabulary import vocabulary_from_gguf
from gguf_files import VOCABULARY

HEADS, FFN = 4, 80  # rows of 80 weights are no whole number of blocks


def stored(weights: npt.NDArray[np.float32], kind: str) -> bytes:
    """Weights as a file has them: F32, F16 or BF16, which is cut off."""
    if kind == "BF16":
        return (weights.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    return weights.astype({"F32": np.float32, "F16": np.float16}[kind]).tobytes()


def shapes_of(vocab: int, hidden: int) -> dict[str, tuple[int, ...]]:
    """One layer, tied; names as Hugging Face has them, without what they begin and end with."""
    shapes: dict[str, tuple[int, ...]] = {"embed_tokens": (vocab, hidden), "norm": (hidden,)}
    shapes |= {f"layers.0.self_attn.{key}_proj": (hidden, hidden) for key in "qkvo"}
    shapes |= {f"layers.0.mlp.{key}_proj": (FFN, hidden) for key in ("gate", "up")}
    shapes["layers.0.mlp.down_proj"] = (hidden, FFN)
    return shapes | {f"layers.0.{key}_layernorm": (hidden,) for key in ("input", "post_attention")}


def write_checkpoint(folder: Path, vocab: int, hidden: int = 96) -> Path:
    """A folder with config.json and random weights in BF16, without a tokenizer."""
    folder.mkdir()
    config = {
        "model_type": "llama",
        "vocab_size": vocab,
        "hidden_size": hidden,
        "intermediate_size": FFN,
        "num_hidden_layers": 1,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "tie_word_embeddings": True,
    }
    (folder / "config.json").write_text(json.dumps(config))
    rng, header, parts, end = np.random.default_rng(0), {}, [], 0
    for name, shape in shapes_of(vocab, hidden).items():
        parts.append(stored(rng.normal(size=shape).astype(np.float32), "BF16"))
        offsets = [end, end + len(parts[-1])]
        header[f"model.{name}.weight"] = {"dtype": "BF16", "shape": shape, "data_offsets": offsets}
        end = offsets[1]
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(
        struct.pack("<Q", len(text)) + text + b"".join(parts)
    )
    return folder


def write_tokenizer(folder: Path) -> Path:
    """Puts the small SentencePiece vocabulary of gguf_files.py, 266 tokens, into the folder."""
    metadata = dict(VOCABULARY)
    metadata["tokenizer.ggml.scores"] = np.array(VOCABULARY["tokenizer.ggml.scores"], np.float32)
    kinds = [kind for _, kind in VOCABULARY["tokenizer.ggml.token_type"]]
    metadata["tokenizer.ggml.token_type"] = np.array(kinds, np.int32)
    vocabulary = vocabulary_from_gguf(metadata, "x")
    assert vocabulary is not None
    (folder / "tokenizer.json").write_bytes(vocabulary.json)
    settings = {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder

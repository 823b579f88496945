"""Writes small safetensors checkpoints of arch llama, for tests."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt

from doppler.formats.architectures import of_gguf
from doppler.formats.vocabulary import vocabulary_from_gguf
from gguf_files import VOCABULARY
from numpy_model import NumpyModel

HEADS, FFN = 4, 80  # rows of 80 weights are no whole number of blocks


def stored(weights: npt.NDArray[np.float32], kind: str) -> bytes:
    """Weights as a file has them: F32, F16 or BF16, rounded to it."""
    if kind == "BF16":
        bits = np.ascontiguousarray(weights).view(np.uint32)
        return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16).tobytes()
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
    rng, weights = np.random.default_rng(0), {}
    for name, shape in shapes_of(vocab, hidden).items():
        weights[f"model.{name}.weight"] = rng.normal(size=shape).astype(np.float32)
    _write_weights(folder, weights)
    return folder


def _write_weights(folder: Path, weights: dict[str, npt.NDArray[np.float32]]) -> None:
    """model.safetensors, in BF16."""
    header, parts, end = {}, [], 0
    for name, values in weights.items():
        parts.append(stored(values, "BF16"))
        offsets = [end, end + len(parts[-1])]
        header[name] = {"dtype": "BF16", "shape": values.shape, "data_offsets": offsets}
        end = offsets[1]
    text = json.dumps(header).encode()
    data = struct.pack("<Q", len(text)) + text + b"".join(parts)
    (folder / "model.safetensors").write_bytes(data)


def write_as_checkpoint(model: Path, folder: Path) -> Path:
    """A converted model of arch llama as a BF16 checkpoint that it might have been made from."""
    folder.mkdir()
    source = NumpyModel(model)
    c, info = source.config, source.manifest.tokenizer
    assert (c.architecture, c.rope_pairs, c.tied) == ("llama", "interleaved", True)
    config = {
        "model_type": "llama",
        "vocab_size": c.vocab,
        "hidden_size": c.hidden,
        "intermediate_size": c.ffn,
        "num_hidden_layers": len(c.layers),
        "num_attention_heads": c.heads,
        "num_key_value_heads": c.kv_heads,
        "max_position_embeddings": c.context,
        "rms_norm_eps": c.norm_eps,
        "rope_theta": c.ropes[0].base,
        "tie_word_embeddings": True,
    }
    (folder / "config.json").write_text(json.dumps(config))
    names = {"token_embd": "embed_tokens", "output_norm": "norm"}
    modules = {gguf: hf for hf, gguf in of_gguf("llama", False, "x").hf_layer.items()}
    for layer in range(len(c.layers)):
        names |= {f"blk.{layer}.{g}": f"layers.{layer}.{hf}" for g, hf in modules.items()}
    weights = {}
    for name, values in source.weights.items():
        for projection, heads in ((".attn_q.", c.heads), (".attn_k.", c.kv_heads)):
            if projection in name:  # GGUF has the pairs of rope side by side
                pairs = values.reshape(heads, c.head_dim // 2, 2, c.hidden)
                values = pairs.swapaxes(1, 2).reshape(values.shape)
        weights[f"model.{names[name.removesuffix('.weight')]}.weight"] = values
    _write_weights(folder, weights)
    (folder / "tokenizer.json").write_bytes((model / "tokenizer.json").read_bytes())
    assert info is not None
    assert not info.add_bos
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

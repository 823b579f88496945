"""Writes small GGUF files, right or wrong in one place, for tests."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader, GGUFWriter

from doppler.config.model import ModelConfig
from doppler.quantization.block_types import BLOCK_TYPES

# where the f16 scales of a block lie, so that random bytes never make infinities there
HALVES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0]}
HALVES |= {"Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "F16": [0]}
HALVES |= {"IQ4_NL": [0], "Q2_K": [80, 82], "Q3_K": [108]}
EXPONENTS = {"MXFP4": 0}  # and where a block has a byte that is its scale's exponent plus 127
_NUMBERS = {
    "u32": (4, "<I"),
    "i32": (5, "<i"),
    "f32": (6, "<f"),
    "bool": (7, "<?"),
    "u64": (10, "<Q"),
    "f64": (12, "<d"),
}

Tensors = dict[str, tuple[str, tuple[int, ...], bytes]]


def random_tensor(name: str, shape: tuple[int, ...], seed: int) -> bytes:
    """A whole tensor of block type `name`: random codes, scales between 2^-6 and 2."""
    block = BLOCK_TYPES[name]
    rng = np.random.default_rng(seed)
    count = block.tensor_bytes(shape) // block.bytes
    if name in ("F32", "BF16"):
        values = rng.normal(size=count).astype(np.float32).view(np.uint32)
        return (values if name == "F32" else (values >> 16).astype(np.uint16)).tobytes()
    data = rng.integers(0, 256, (count, block.bytes), dtype=np.uint8)
    if name in EXPONENTS:
        data[:, EXPONENTS[name]] = rng.integers(121, 129, count)
    for at in HALVES.get(name, []):
        scales = np.exp2(rng.uniform(-6, 1, (count, 1))).astype(np.float16)
        data[:, at : at + 2] = scales.view(np.uint8)
    return data.tobytes()


def text(value: str) -> bytes:
    """A string as GGUF has it."""
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def value(item: Any) -> bytes:
    """Type and value: str, bool, int (u32), float (f32), lists of them, or (kind, number)."""
    if isinstance(item, list):
        first = value(item[0] if item else 0)[:4]
        return (
            struct.pack("<I", 9)
            + first
            + struct.pack("<Q", len(item))
            + b"".join(value(each)[4:] for each in item)
        )
    if isinstance(item, str):
        return struct.pack("<I", 8) + text(item)
    if isinstance(item, tuple):
        kind, number = item
    else:
        kind = {bool: "bool", int: "u32", float: "f32"}[type(item)]
        number = item
    code, form = _NUMBERS[kind]
    return struct.pack("<I", code) + struct.pack(form, number)


def gguf_bytes(metadata: dict[str, Any], tensors: Tensors, version: int = 3) -> bytes:
    """The file: tensors as name -> (block type or its number, shape with rows first, bytes)."""
    header = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata))
    header += b"".join(text(key) + value(item) for key, item in metadata.items())
    data = b""
    for name, (kind, shape, content) in tensors.items():
        number = BLOCK_TYPES[kind].ggml_id if kind in BLOCK_TYPES else int(kind)
        header += text(name) + struct.pack("<I", len(shape))
        header += struct.pack(f"<{len(shape)}Q", *reversed(shape)) + struct.pack("<I", number)
        header += struct.pack("<Q", len(data))
        data += content + bytes(-len(content) % 32)
    return header + bytes(-len(header) % 32) + data


VOCABULARY = {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": [
        *("<unk>", "<s>", "</s>"),
        *(f"<0x{i:02X}>" for i in range(256)),
        *("▁", "a", "b", "c", "ab", "▁ab", "abc"),
    ],
    "tokenizer.ggml.scores": [0.0] * 259 + [-9.0, -8.0, -7.0, -6.0, -1.0, -3.0, -2.0],
    "tokenizer.ggml.token_type": [("i32", kind) for kind in [2, 3, 3] + [6] * 256 + [1] * 7],
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.unknown_token_id": 0,
}


def config_keys(c: ModelConfig) -> dict[str, Any]:
    """A config as GGUF has it, by keys without the architecture's prefix."""
    keys: dict[str, Any] = {
        "block_count": len(c.layers),
        "embedding_length": c.hidden,
        "feed_forward_length": c.ffn,
        "context_length": c.context,
        "attention.head_count": c.heads,
        "attention.head_count_kv": c.kv_heads,
        "attention.key_length": c.head_dim,
        "attention.value_length": c.head_dim,
        "attention.layer_norm_rms_epsilon": c.norm_eps,
        "rope.freq_base": c.ropes[0].base,
    }
    if (rope := c.ropes[0]).scaling == "yarn":
        keys |= {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": rope.factor,
            "rope.scaling.original_context_length": rope.original_context,
        }
    return keys


def llama_metadata() -> dict[str, Any]:
    """A tiny model of arch llama, of two layers."""
    return {
        "general.architecture": "llama",
        "general.name": "Tiny",
        "general.license": "mit",
        "llama.block_count": 2,
        "llama.context_length": 64,
        "llama.embedding_length": 256,
        "llama.feed_forward_length": 512,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.freq_base": 10000.0,
        **VOCABULARY,
    }


def llama_tensors(matrix: str = "Q4_K") -> Tensors:
    """All tensors of `llama_metadata`'s model, in an order of their own."""
    shapes: dict[str, tuple[int, ...]] = {"output_norm.weight": (256,)}
    shapes["token_embd.weight"] = (len(VOCABULARY["tokenizer.ggml.tokens"]), 256)
    for layer in range(2):
        for name, shape in {
            "attn_k": (128, 256),
            "attn_norm": (256,),
            "attn_output": (256, 256),
            "attn_q": (256, 256),
            "attn_v": (128, 256),
            "ffn_down": (256, 512),
            "ffn_gate": (512, 256),
            "ffn_norm": (256,),
            "ffn_up": (512, 256),
        }.items():
            shapes[f"blk.{layer}.{name}.weight"] = shape
    tensors: Tensors = {}
    for seed, (name, shape) in enumerate(shapes.items()):
        kind = "F32" if len(shape) == 1 else matrix
        tensors[name] = (kind, shape, random_tensor(kind, shape, seed))
    return tensors


def write_llama(path: Path, matrix: str = "Q4_K") -> Path:
    """The tiny model as a file."""
    path.write_bytes(gguf_bytes(llama_metadata(), llama_tensors(matrix)))
    return path


def split_gguf(whole: Path, folder: Path, most: int, small_first: bool = True) -> list[Path]:
    """The parts of a file with at most so many tensors each, written by the gguf package."""
    folder.mkdir()
    reader = GGUFReader(whole)
    architecture = reader.fields["general.architecture"].contents()
    path = folder / whole.name
    writer = GGUFWriter(path, architecture, split_max_tensors=most, small_first_shard=small_first)
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            sub_type = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(key, field.contents(), field.types[0], sub_type)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return sorted(folder.glob("*.gguf"))

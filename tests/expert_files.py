"""Checkpoints and GGUF files of the tiny mixtures of experts, for tests."""

from __future__ import annotations

import asyncio
import json
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import deserialize

from doppler.convert.convert import convert_path
from doppler.inputs.buffers import MemoryBuffers
from doppler.store.folder import FolderStorage
from doppler.store.manifest import MANIFEST_FILE, Manifest
from gguf_files import Tensors, config_keys, gguf_bytes
from numpy_model import NumpyModel

GGUF_ARCHITECTURES = {"mixtral": "llama"}
_EXPERT = re.compile(r"blk\.(\d+)\.(ffn_\w+)\.(\d+)\.(weight|bias)")


def load_file(path: Path) -> dict[str, np.ndarray]:
    """Every tensor; of BF16, which NumPy does not have, the bits."""
    types = {"BF16": "<u2", "F32": "<f4", "U8": "u1"}
    return {
        name: np.frombuffer(item["data"], types[item["dtype"]]).reshape(item["shape"])
        for name, item in deserialize(path.read_bytes())
    }


def save_file(tensors: Mapping[str, np.ndarray], path: Path) -> None:
    """The same as a file."""
    types = {"uint16": "BF16", "float32": "F32", "uint8": "U8"}
    header: dict[str, Any] = {}
    data = b""
    for name, tensor in tensors.items():
        start = len(data)
        data += tensor.tobytes()
        header[name] = {"dtype": types[str(tensor.dtype)], "shape": tensor.shape}
        header[name]["data_offsets"] = [start, len(data)]
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def converted(source: Path, folder: Path) -> Manifest:
    return asyncio.run(convert_path(source, FolderStorage(folder), MemoryBuffers(), name="model"))


def raw_tensors(folder: Path) -> Tensors:
    """Block type, shape and bytes of all tensors of a converted folder."""
    manifest = Manifest.from_json((folder / MANIFEST_FILE).read_text(), str(folder))
    space = b"".join((folder / shard.name).read_bytes() for shard in manifest.shards)
    return {
        t.name: (t.type, t.shape, space[t.offset : t.offset + t.bytes]) for t in manifest.tensors
    }


def interleaved(data: bytes, shape: tuple[int, ...], heads: int) -> bytes:
    """Rows of q or k in the order that GGUF has them in for arch llama."""
    rows = np.frombuffer(data, np.uint8).reshape(heads, 2, shape[0] // heads // 2, -1)
    return rows.swapaxes(1, 2).tobytes()


def stacked(tensors: Tensors) -> Tensors:
    """Those of all experts as one: blk.0.ffn_gate_exps.weight."""
    found: Tensors = {}
    for name, (kind, shape, data) in tensors.items():
        match = _EXPERT.fullmatch(name)
        if match is None:
            found[name] = (kind, shape, data)
            continue
        layer, part, expert, suffix = match.groups()
        name = f"blk.{layer}.{part}_exps.{suffix}"
        before = found[name][2] if name in found else b""
        found[name] = (kind, (int(expert) + 1, *shape), before + data)
    return found


def widened(tensors: Tensors, part: str) -> Tensors:
    """The same with all of some BF16 matrices in F32."""
    found = dict(tensors)
    for name, (kind, shape, data) in tensors.items():
        if part in name and kind == "BF16":
            bits = np.frombuffer(data, "<u2").astype("<u4") << np.uint32(16)
            found[name] = ("F32", shape, bits.tobytes())
    return found


def shared(tensors: Tensors, gate_rank: int) -> Tensors:
    """The names that a dense FFN beside experts has in GGUF; its gate is a vector, or a matrix."""
    found: Tensors = {}
    for name, (kind, shape, data) in tensors.items():
        if "inp_shexp" in name and gate_rank == 1:
            shape = shape[1:]
        found[re.sub(r"(ffn_(gate|up|down))\.weight", r"\1_shexp.weight", name)] = (
            kind,
            shape,
            data,
        )
    return found


def gguf_of(
    folder: Path, *, stack: bool, wide: str = "none", gate_rank: int = 1, **changes: Any
) -> bytes:
    """A GGUF file of the model of a converted folder, whose q and k are in halves.

    wide: what matrices with that in their names are in F32. gate_rank: dimensions of the gate of a
    dense FFN beside experts. Keys whose value is None are left out.
    """
    model, tensors = NumpyModel(folder).manifest, widened(raw_tensors(folder), wide)
    c = model.config
    assert c.experts is not None
    name = GGUF_ARCHITECTURES.get(c.architecture, c.architecture)
    keys = config_keys(c) | {
        "attention.sliding_window": max(layer.window for layer in c.layers),
        "expert_count": c.experts.count,
        "expert_used_count": c.experts.used,
        "expert_weights_norm": c.experts.normed,
    }
    if name != "llama":
        keys |= {"feed_forward_length": 1, "expert_feed_forward_length": c.ffn}
    if c.experts.beside:
        keys["expert_shared_feed_forward_length"] = c.experts.beside
        tensors = shared(tensors, gate_rank)
    known = {key: value for key, value in (keys | changes).items() if value is not None}
    metadata = {f"{name}.{key}": value for key, value in known.items()}
    metadata["general.architecture"] = name
    for key, (kind, shape, data) in tensors.items():
        if name == "llama" and re.search("attn_[qk]", key):
            heads = c.heads if "attn_q" in key else c.kv_heads
            tensors[key] = (kind, shape, interleaved(data, shape, heads))
    if name == "gpt-oss":
        tensors = {k.replace("ffn_norm", "post_attention_norm"): t for k, t in tensors.items()}
    return gguf_bytes(metadata, stacked(tensors) if stack else tensors)

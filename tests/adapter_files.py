"""Writes tiny adapters as PEFT and llama.cpp do, for tests, and merges them into checkpoints."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import deserialize
from safetensors.numpy import save_file as save_numpy

from doppler.quantization.dequantize import dequantize
from expert_files import converted, raw_tensors, save_file
from fixture_sets import FIXTURES

Floats = np.ndarray
PREFIX = "base_model.model."


def floats_of(folder: Path) -> dict[str, Floats]:
    """Every tensor of a checkpoint, in float32."""
    items = (it for path in sorted(folder.glob("*.safetensors")) for it in _items(path))
    return {
        name: dequantize(item["dtype"], bytes(item["data"]), tuple(item["shape"]))
        for name, item in items
    }


def _items(path: Path) -> list[tuple[str, dict[str, Any]]]:
    return deserialize(path.read_bytes())


def wide(name: str, folder: Path, changes: Mapping[str, Floats] | None = None) -> Path:
    """A fixture as a checkpoint in F32, with some numbers added to its weights."""
    shutil.copytree(FIXTURES / name, folder)
    tensors = {
        key: (it + (changes or {}).get(key, np.float32(0))).astype("<f4")
        for key, it in floats_of(FIXTURES / name).items()
    }
    save_file(tensors, folder / "model.safetensors")
    return folder


def random_pair(shape: tuple[int, ...], rank: int, seed: int) -> tuple[Floats, Floats]:
    """A [rank, columns] and B [rows, rank] of a matrix [rows, columns]."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(rank, shape[1])), rng.normal(size=(shape[0], rank))
    return a.astype(np.float32), b.astype(np.float32)


def pairs_of(name: str, rank: int = 3) -> dict[str, tuple[Floats, Floats]]:
    """A and B of every linear module of a fixture but its head, by the module's name."""
    found = {}
    for seed, (key, weight) in enumerate(floats_of(FIXTURES / name).items()):
        module = key.removesuffix(".weight")
        is_linear = weight.ndim == 2 and "embed" not in key and "lm_head" not in key
        if is_linear and module != key:
            found[module] = random_pair(weight.shape, rank, seed)
    return found


def write_peft(folder: Path, pairs: Mapping[str, tuple[Floats, Floats]], **changes: Any) -> Path:
    """adapter_config.json and adapter_model.safetensors."""
    folder.mkdir()
    rank = next(iter(pairs.values()))[0].shape[0]
    config = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": 2 * rank,
        "lora_dropout": 0.1,
        "bias": "none",
        "task_type": "CAUSAL_LM",
        "target_modules": sorted({name.rsplit(".", 1)[-1] for name in pairs}),
        "fan_in_fan_out": False,
        "base_model_name_or_path": "tiny",
        "modules_to_save": None,
        "init_lora_weights": True,
        "use_dora": False,
        "rank_pattern": {},
        "alpha_pattern": {},
    }
    (folder / "adapter_config.json").write_text(json.dumps(config | changes))
    tensors = {}
    for module, (a, b) in pairs.items():
        tensors[f"{PREFIX}{module}.lora_A.weight"] = a
        tensors[f"{PREFIX}{module}.lora_B.weight"] = b
    save_numpy(tensors, folder / "adapter_model.safetensors")
    return folder


def weights_of(folder: Path) -> dict[str, Floats]:
    """All tensors of a converted model, in float32."""
    raw = raw_tensors(folder)
    return {name: dequantize(kind, data, shape) for name, (kind, shape, data) in raw.items()}


def base_of(name: str, folder: Path) -> Path:
    """A fixture converted in F32."""
    converted(wide(name, folder.with_name(f"{folder.name}-checkpoint")), folder)
    return folder

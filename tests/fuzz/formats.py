"""What is fuzzed: for each format how a case is made, and what reads it."""

from __future__ import annotations

import asyncio
import functools
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import gguf_case
import mutate
import numpy as np
from cases import Case, File, whole

from doppler.convert.outline import Outline, outline_gguf, outline_safetensors
from doppler.formats.hf_tokenizer import read_optional, vocabulary_from_files
from doppler.formats.parts import part_names
from doppler.formats.sampling_defaults import sampling_from_hf
from doppler.formats.vocabulary import vocabulary_from_gguf
from doppler.inputs.buffers import MemoryBuffers
from doppler.sampling import ModelSampling
from doppler.store.manifest import Manifest
from gguf_files import VOCABULARY
from storable import storable

FIXTURES = Path(__file__).parents[1] / "fixtures"
BUFFERS = MemoryBuffers()
PARTS = part_names("tiny-00001-of-00003.gguf")


@dataclass(frozen=True)
class Format:
    """`read` raises nothing but DopplerErrors for any case, whether `make` made it or not."""

    make: Callable[[Random], Case]
    read: Callable[[Case], None]


def _used(outline: Outline) -> None:
    """What is done with every model that is taken."""
    assert outline.bytes >= 0
    outline.manifest.to_json().encode()
    for warning in outline.warnings:
        assert len(warning) <= 600, warning
        assert warning.isprintable(), warning


def _read_gguf(case: Case) -> None:
    _used(asyncio.run(outline_gguf(list(case.values()), BUFFERS, "fuzzed")))


def _read_folder(case: Case) -> None:
    outlines = asyncio.run(outline_safetensors(case, BUFFERS, "fuzzed", ("none", "q8_0")))
    for outline in outlines.values():
        _used(outline)


def _read_tokenizer(case: Case) -> None:
    made = asyncio.run(vocabulary_from_files(case, BUFFERS))
    config = asyncio.run(read_optional(case, "generation_config.json", BUFFERS))
    assert all(warning.isprintable() for warning in sampling_from_hf(config)[1])
    if made is not None and made.chat_template is not None:
        made.chat_template.encode()


def _read_manifest(case: Case) -> None:
    text = case["manifest.json"].head.decode("utf-8", "replace")
    Manifest.from_json(text, "manifest.json").to_json().encode()


@functools.cache
def _folders() -> list[dict[str, bytes]]:
    """config.json and the headers of the weights of the small checkpoints, tails left out."""
    found = []
    for folder in sorted(FIXTURES.iterdir()):
        if (folder / "config.json").exists():
            files = {"config.json": (folder / "config.json").read_bytes()}
            for path in folder.glob("model*"):
                files[path.name] = path.read_bytes()
            found.append(files)
    return found


def _checkpoint(files: dict[str, bytes]) -> Case:
    return {name: whole(name, data) for name, data in files.items()}


def _config(rng: Random) -> Case:
    files = rng.choice(_folders())
    case = _checkpoint(files)
    changed = mutate.text_of(rng, json.loads(files["config.json"]))
    case["config.json"] = whole("config.json", changed)
    return case


def _weights(rng: Random) -> Case:
    files = rng.choice(_folders())
    case = _checkpoint(files)
    name = rng.choice([name for name in files if name != "config.json"])
    data = files[name]
    if name.endswith(".json"):
        case[name] = whole(name, mutate.text_of(rng, json.loads(data)))
        return case
    (size,) = struct.unpack("<Q", data[:8])
    header, tail = data[8 : 8 + size], len(data) - 8 - size
    header = mutate.text_of(rng, json.loads(header))
    told = len(header) if rng.randrange(8) else rng.choice(mutate.INTEGERS) % 2**64
    head = struct.pack("<Q", told) + header
    head = mutate.bytes_of(rng, head) if rng.randrange(8) == 0 else head
    case[name] = File(name, head, len(head) + rng.choice((tail, tail, tail, 0, tail + 1)))
    return case


@functools.cache
def _tokenizer_files() -> dict[str, Any]:
    metadata = {
        **VOCABULARY,
        "tokenizer.ggml.scores": np.array(VOCABULARY["tokenizer.ggml.scores"]),
        "tokenizer.ggml.token_type": np.array([2, 3, 3] + [6] * 256 + [1] * 7),
    }
    made = vocabulary_from_gguf(metadata, "x")
    assert made is not None
    return {
        "tokenizer.json": json.loads(made.json),
        "tokenizer_config.json": {
            "bos_token": {"content": "<s>", "special": True},
            "eos_token": "</s>",
            "add_bos_token": True,
            "chat_template": [{"name": "default", "template": "{{ messages }}"}],
        },
        "generation_config.json": {
            "eos_token_id": [2, 5],
            "bos_token_id": 1,
            "do_sample": True,
            "temperature": 0.7,
            "top_k": 20,
        },
        "config.json": {"eos_token_id": 2, "text_config": {"eos_token_id": [1, 2]}},
    }


def _tokenizer(rng: Random) -> Case:
    files = _tokenizer_files()
    changed = rng.choice([*files, "tokenizer.json", "chat_template.jinja"])
    case = {name: whole(name, json.dumps(data).encode()) for name, data in files.items()}
    if changed == "chat_template.jinja":
        template = mutate.bytes_of(
            rng, b"{% for m in messages %}{{ m.content }}{% endfor %}\xc3\xa9"
        )
        case[changed] = whole(changed, template)
    else:
        case[changed] = whole(changed, mutate.text_of(rng, files[changed]))
    return case


@functools.cache
def _manifests() -> list[Any]:
    plain = storable().manifest
    drawn = replace(plain, sampling=ModelSampling(temperature=0.7, top_k=20, greedy=False))
    return [json.loads(manifest.to_json()) for manifest in (plain, drawn)]


def _manifest(rng: Random) -> Case:
    text = mutate.text_of(rng, rng.choice(_manifests()))
    return {"manifest.json": whole("manifest.json", text)}


_SOUND = functools.cache(gguf_case.sound)
_SPLIT = functools.cache(gguf_case.split)

FORMATS = {
    "gguf": Format(
        lambda rng: gguf_case.case_of(rng, [rng.choice(_SOUND())], ["tiny.gguf"]),
        _read_gguf,
    ),
    "split": Format(lambda rng: gguf_case.case_of(rng, _SPLIT(3), PARTS), _read_gguf),
    "safetensors": Format(_weights, _read_folder),
    "config": Format(_config, _read_folder),
    "tokenizer": Format(_tokenizer, _read_tokenizer),
    "manifest": Format(_manifest, _read_manifest),
}

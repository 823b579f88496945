"""GGUF files from their parts, any of which may be wrong."""

from __future__ import annotations

import copy
import struct
from dataclasses import dataclass, field
from random import Random
from typing import Any

from cases import File
from mutate import INTEGERS, NUMBERS, TEXTS, bytes_of

from doppler.quantization.block_types import BLOCK_TYPES
from gguf_files import llama_metadata, llama_tensors, value
from tiny_models import byte_letters

_KINDS = {
    "u8": 0,
    "i8": 1,
    "u16": 2,
    "i16": 3,
    "u32": 4,
    "i32": 5,
    "f32": 6,
    "u64": 10,
    "i64": 11,
    "f64": 12,
}
_FORMS = {
    "u8": "B",
    "i8": "b",
    "u16": "H",
    "i16": "h",
    "u32": "I",
    "i32": "i",
    "f32": "f",
    "u64": "Q",
    "i64": "q",
    "f64": "d",
}


@dataclass
class Parts:
    """metadata: key and value, encoded with its type. tensors: name, extents, type, offset."""

    metadata: list[tuple[str, bytes]]
    tensors: list[tuple[str, list[int], int, int]]
    version: int = 3
    counts: list[int | None] = field(default_factory=lambda: [None, None])  # tensors, metadata
    data: int = 0  # bytes behind the header

    def file(self, name: str) -> File:
        """As bytes; those of the tensors are zeros."""
        real = (len(self.tensors), len(self.metadata))
        counts = [
            count if told is None else told for count, told in zip(real, self.counts, strict=True)
        ]
        head = b"GGUF" + struct.pack("<IQQ", self.version, *counts)
        head += b"".join(text_of(key) + item for key, item in self.metadata)
        for tensor, extents, kind, offset in self.tensors:
            head += text_of(tensor) + struct.pack("<I", len(extents))
            head += struct.pack(f"<{len(extents)}Q", *(extent % 2**64 for extent in extents))
            head += struct.pack("<IQ", kind % 2**32, offset % 2**64)
        head += bytes(-len(head) % 32)
        return File(name, head, len(head) + self.data)


def text_of(content: str) -> bytes:
    data = content.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(data)) + data


def parts(metadata: dict[str, Any], tensors: dict[str, Any]) -> Parts:
    """Of a sound file."""
    made = Parts([(key, value(item)) for key, item in metadata.items()], [])
    for name, (kind, shape, content) in tensors.items():
        made.tensors.append(
            (name, list(reversed(shape)), BLOCK_TYPES[kind].ggml_id or 0, made.data)
        )
        made.data += len(content) + -len(content) % 32
    return made


def sound() -> list[Parts]:
    """A tiny model with a vocabulary of each kind, of 266 tokens."""
    letters = {
        "tokens": [*byte_letters(), "ab", "Ġa", *(f"<|{n}|>" for n in range(7)), "<|im_end|>"],
        "merges": ["a b", "Ġ a"],
        "pre": "llama-bpe",
    }
    pieces = {"merges": ["a b", "▁ ab", "ab c"]}
    kinds = {"llama": {}, "gpt2": letters, "gemma4": pieces}
    made = []
    for model, changes in kinds.items():
        keys = {f"tokenizer.ggml.{key}": item for key, item in changes.items()}
        sampling = {"general.sampling.temp": 0.7, "general.sampling.top_k": ("i32", 20)}
        metadata = {**llama_metadata(), **sampling, **keys, "tokenizer.ggml.model": model}
        made.append(parts(metadata, llama_tensors()))
    return made


def split(count: int) -> list[Parts]:
    """The same in so many parts, the tensors dealt out in turn."""
    tensors = list(llama_tensors().items())
    made = []
    for number in range(count):
        keys = {
            "split.count": ("u16", count),
            "split.no": ("u16", number),
            "split.tensors.count": ("i32", len(tensors)),
        }
        own = parts(llama_metadata() if number == 0 else {}, dict(tensors[number::count]))
        for key, (kind, n) in keys.items():
            own.metadata.append((key, scalar(kind, n)))
        made.append(own)
    return made


def scalar(kind: str, number: Any) -> bytes:
    return struct.pack("<I", _KINDS[kind]) + packed(kind, number)


def packed(kind: str, number: Any) -> bytes:
    if kind[0] == "f":
        number = float(number)
        return struct.pack(
            "<" + _FORMS[kind], number if kind == "f64" or not abs(number) > 3e38 else float("inf")
        )
    size = struct.calcsize(_FORMS[kind])
    wrapped = int(number) % (1 << 8 * size)
    return wrapped.to_bytes(size, "little")


def any_value(rng: Random, depth: int = 0) -> bytes:
    """A metadata value of any type, often an extreme one, now and then of no type."""
    kind = rng.choice(["int", "int", "float", "bool", "text", "array", "texts", "lie"])
    if kind == "int":
        return scalar(rng.choice([k for k in _KINDS if k[0] != "f"]), rng.choice(INTEGERS))
    if kind == "float":
        return scalar(rng.choice(["f32", "f64"]), rng.choice(NUMBERS))
    if kind == "bool":
        return struct.pack("<IB", 7, rng.choice((0, 1, 2)))
    if kind == "text":
        return struct.pack("<I", 8) + text_of(rng.choice(TEXTS))
    if kind == "texts":
        chosen = [rng.choice(TEXTS) for _ in range(rng.choice((0, 1, 3, 266)))]
        return struct.pack("<IIQ", 9, 8, len(chosen)) + b"".join(map(text_of, chosen))
    if kind == "array" and depth < 5:
        own = rng.choice(list(_KINDS))
        count = rng.choice((0, 1, 2, 266))
        numbers = NUMBERS if own[0] == "f" else INTEGERS
        return struct.pack("<IIQ", 9, _KINDS[own], count) + b"".join(
            packed(own, rng.choice(numbers)) for _ in range(count)
        )
    return struct.pack("<IIQ", 9, rng.randrange(16), rng.choice(INTEGERS) % 2**64)


def mutated(rng: Random, made: Parts) -> Parts:
    """With some entries, tensors or counts changed."""
    made = copy.deepcopy(made)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        what = rng.randrange(10)
        at = rng.randrange(max(len(made.metadata), 1))
        if what < 5 and made.metadata:
            key, _ = made.metadata[at]
            if rng.randrange(6) == 0:
                key = rng.choice((key + "x", rng.choice(TEXTS), made.metadata[0][0]))
            made.metadata[at] = (key, any_value(rng))
        elif what == 5 and made.metadata:
            del made.metadata[at]
        elif what == 6:
            made.metadata.append((rng.choice(KEYS), any_value(rng)))
        elif what == 7 and made.tensors:
            _change_tensor(rng, made)
        elif what == 8:
            made.counts[rng.randrange(2)] = rng.choice(INTEGERS) % 2**64
        elif rng.randrange(4) == 0:
            made.version = rng.choice((0, 1, 2, 4, 2**24 * 3, 2**32 - 1))
        else:
            made.data = rng.choice((0, 1, made.data // 2, made.data + 1))
    return made


KEYS = [
    f"llama.{key}"
    for key in (
        "expert_count",
        "expert_used_count",
        "rope.scaling.type",
        "rope.scaling.factor",
        "rope.scaling.original_context_length",
        "logit_scale",
        "attention.key_length",
        "vocab_size",
        "rope.dimension_count",
        "attention.sliding_window",
        "expert_feed_forward_length",
        "attention.value_length",
    )
]
KEYS += [
    f"tokenizer.ggml.{key}"
    for key in (
        "pre",
        "merges",
        "eos_token_ids",
        "add_bos_token",
        "eot_token_id",
        "add_space_prefix",
        "fim_pad_token_id",
    )
]
KEYS += [
    "tokenizer.chat_template",
    "general.alignment",
    "split.count",
    "split.no",
    "general.license",
    "x",
]


def _change_tensor(rng: Random, made: Parts) -> None:
    at = rng.randrange(len(made.tensors))
    name, extents, kind, offset = made.tensors[at]
    match rng.randrange(6):
        case 0:
            name = rng.choice((*TEXTS, made.tensors[0][0], name.replace("0", "4294967295")))
        case 1:
            extents = [rng.choice(INTEGERS) for _ in range(rng.choice((0, 1, 2, 3, 4, 5)))]
        case 2:
            extents[rng.randrange(len(extents))] = rng.choice(INTEGERS)
        case 3:
            kind = rng.choice((*range(45), 2**31, -1))
        case 4:
            offset = rng.choice((*INTEGERS, offset + 32, offset - 32))
        case 5:
            del made.tensors[at]
            return
    made.tensors[at] = (name, extents, kind, offset)


def case_of(rng: Random, files: list[Parts], names: list[str]) -> dict[str, File]:
    """One of the files changed, in its parts or in its bytes."""
    which = rng.randrange(len(files))
    case = {}
    for at, (made, name) in enumerate(zip(files, names, strict=True)):
        changed = at == which
        file = mutated(rng, made).file(name) if changed and rng.randrange(4) else made.file(name)
        if changed and rng.randrange(4) == 0:
            head = bytes_of(rng, file.head)
            file = File(name, head, len(head) + rng.choice((file.length - len(file.head), 0)))
        case[name] = file
    return case

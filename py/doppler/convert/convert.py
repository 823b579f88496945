"""A GGUF model or a safetensors checkpoint -> shards, tokenizer.json and manifest.json.

The bytes of the tensors are taken over as they are. Memory holds one shard and one read at a time,
whatever the model's size. The manifest is written last, so that none ever describes shards that are
not there. The same code converts on the command line and in the page.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from doppler.convert.outline import Outline, outline_gguf, outline_safetensors
from doppler.errors import FormatError, RequestError
from doppler.formats.parts import models_among, part_names, whole_name
from doppler.formats.vocabulary import Vocabulary
from doppler.inputs.buffers import Buffers
from doppler.inputs.source import FileSource, Progress, Source, folder_sources
from doppler.quantization.block_types import Quant
from doppler.store.cut import cut_of
from doppler.store.manifest import (
    MANIFEST_FILE,
    SHARD_SIZE,
    TOKENIZER_FILE,
    Manifest,
    TokenizerInfo,
)
from doppler.store.shard_files import hash_pieces, replace_file, write_manifest, write_pieces
from doppler.store.storage import Storage


async def convert_gguf(
    sources: Sequence[Source],
    storage: Storage,
    buffers: Buffers,
    *,
    name: str,
    shard_size: int = SHARD_SIZE,
    progress: Progress | None = None,
) -> Manifest:
    """Writes a GGUF model: one file, or all parts. `progress` gets bytes of the byte space.

    Raises FormatError or UnsupportedError before anything is written where files cannot be used.
    """
    outline = await outline_gguf(sources, buffers, name)
    return await write_outline(outline, storage, buffers, shard_size, progress)


async def convert_safetensors(
    files: Mapping[str, Source],
    storage: Storage,
    buffers: Buffers,
    *,
    name: str,
    quant: Quant = "none",
    shard_size: int = SHARD_SIZE,
    progress: Progress | None = None,
) -> Manifest:
    """Writes the model of a Hugging Face folder, given as its files by name.

    `quant` is one of QUANTS: what matrices of floats become on the way.
    """
    outlines = await outline_safetensors(files, buffers, name, (quant,))
    return await write_outline(outlines[quant], storage, buffers, shard_size, progress)


async def convert_path(
    path: Path,
    storage: Storage,
    buffers: Buffers,
    *,
    name: str | None = None,
    quant: Quant = "none",
    shard_size: int = SHARD_SIZE,
    progress: Progress | None = None,
) -> Manifest:
    """Converts what lies at a path of this machine, as `outline_path` reads it."""
    outline = await outline_path(path, buffers, name=name, quant=quant)
    return await write_outline(outline, storage, buffers, shard_size, progress)


async def outline_path(
    path: Path, buffers: Buffers, *, name: str | None = None, quant: Quant = "none"
) -> Outline:
    """What lies at a path of this machine; the model is named for it.

    That is a .gguf, any part of a split one whose others lie beside it, a folder with one such
    model, or a folder of safetensors, which alone can be quantised (`quant`).
    """
    name = name or model_name(path.name)
    files = folder_sources(path) if path.is_dir() else {}
    parts = gguf_among(files, str(path)) if path.is_dir() else _parts_beside(path)
    if not parts and "config.json" not in files:
        if MANIFEST_FILE in files:
            raise RequestError(
                f"{path} holds a converted model: doppler recut writes it in other shards"
            )
        raise FormatError(
            f"{path} has no config.json: give a Hugging Face checkpoint's folder, or a .gguf file "
            "itself"
        )
    if not parts:
        return (await outline_safetensors(files, buffers, name, (quant,)))[quant]
    if quant != "none":
        raise RequestError(
            f"{path} is a GGUF model: a GGUF file is quantised already and taken as it is; "
            "convert it without --quant, or the safetensors checkpoint that it was made from"
        )
    return await outline_gguf(parts, buffers, name)


def _parts_beside(path: Path) -> list[Source]:
    """A file, and the other parts of its set that are there."""
    names = part_names(path.name)
    there = set(folder_sources(path.parent)) if len(names) > 1 else set()
    return [FileSource(path.with_name(n)) for n in names if n == path.name or n in there]


def gguf_among(files: Mapping[str, Source], folder: str) -> list[Source]:
    """The files of a folder's GGUF model; none where it is a folder of safetensors."""
    models = models_among(files)
    if not models or any(name.endswith(".safetensors") for name in files):
        return []
    if len(models) > 1:
        names = ", ".join(whole_name(model[0]) for model in models[:3])
        names += ", …" if len(models) > 3 else ""
        raise FormatError(
            f"{folder} holds {len(models)} GGUF models ({names}): give a file of the one that is "
            "meant"
        )
    return [files[name] for name in models[0]]


def model_name(file: str) -> str:
    """An id from a file's name: Gemma-3-270M.Q4_K_M.gguf -> gemma-3-270m.q4_k_m."""
    stem = whole_name(file.rsplit("/", 1)[-1])
    return re.sub(r"[^a-z0-9._-]+", "-", stem.lower()).strip("-.") or "model"


async def write_outline(
    outline: Outline,
    storage: Storage,
    buffers: Buffers,
    shard_size: int,
    progress: Progress | None,
) -> Manifest:
    """Reads the weights and writes the model. Raises SourceError and StorageError on the way."""
    manifest = outline.manifest
    cut = cut_of(manifest.bytes, manifest.block_size, shard_size)
    await storage.remove(MANIFEST_FILE)
    blocks, shards = await write_pieces(
        cut, manifest.block_size, outline.pieces, storage, buffers, progress
    )
    tokenizer = _tokenizer_info(outline.vocabulary, buffers)
    if outline.vocabulary is None:
        await storage.remove(TOKENIZER_FILE)
    else:
        data = buffers.from_bytes(outline.vocabulary.json)
        await replace_file(storage, TOKENIZER_FILE, data, len(outline.vocabulary.json))
    manifest = replace(manifest, tokenizer=tokenizer, blocks=blocks, shards=shards)
    await write_manifest(MANIFEST_FILE, manifest.to_json(), shards, storage, buffers)
    return manifest


async def read_identity(outline: Outline, buffers: Buffers, progress: Progress) -> str:
    """That of the model that it would become, of which all is read and nothing written."""
    manifest = outline.manifest
    blocks = await hash_pieces(
        manifest.bytes, manifest.block_size, outline.pieces, buffers, progress
    )
    tokenizer = _tokenizer_info(outline.vocabulary, buffers)
    return replace(manifest, tokenizer=tokenizer, blocks=blocks).identity


def _tokenizer_info(vocabulary: Vocabulary | None, buffers: Buffers) -> TokenizerInfo | None:
    if vocabulary is None:
        return None
    return TokenizerInfo(
        bytes=len(vocabulary.json),
        blake3=buffers.blake3(buffers.from_bytes(vocabulary.json)),
        bos=vocabulary.bos,
        eos=vocabulary.eos,
        add_bos=vocabulary.add_bos,
        chat_template=vocabulary.chat_template,
    )

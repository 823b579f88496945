"""A GGUF model or a safetensors checkpoint -> shards, tokenizer.json and manifest.json.

The bytes of the tensors are taken over as they are. Memory holds one shard and one read at a time,
whatever the model's size. The manifest is written last, so that none ever describes shards that are
not there. The same code converts on the command line and in the page.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from doppler.buffers import Buffer, Buffers
from doppler.config import ModelConfig
from doppler.errors import CorruptError, DopplerError, FormatError, RequestError, SourceError
from doppler.formats.content import Content
from doppler.formats.experts import split_experts
from doppler.formats.gguf import Gguf
from doppler.formats.gguf_config import ROPE_FACTORS, config_from_gguf
from doppler.formats.gguf_split import read_model
from doppler.formats.hf_config import config_from_hf
from doppler.formats.hf_tokenizer import vocabulary_from_files
from doppler.formats.parts import models_among, part_names, whole_name
from doppler.formats.quants import dequantize
from doppler.formats.safetensors import read_checkpoint, read_json
from doppler.formats.tensor_names import check_tensors, gguf_names, our_name
from doppler.formats.vocabulary import Vocabulary, vocabulary_from_gguf
from doppler.layout import Place, lay_out
from doppler.manifest import (
    MANIFEST_FILE,
    SHARD_SIZE,
    TOKENIZER_FILE,
    Manifest,
    Shard,
    TokenizerInfo,
)
from doppler.pieces import Piece, fill
from doppler.quantized import quantized
from doppler.source import FileSource, Progress, Source, folder_sources
from doppler.storage import Storage


@dataclass(frozen=True)
class Outline:
    """What is to be written, read from headers alone, before any byte of the weights."""

    manifest: Manifest  # without tokenizer, blocks and shards
    pieces: tuple[Piece, ...]
    vocabulary: Vocabulary | None

    @property
    def bytes(self) -> int:
        """What shards, tokenizer and manifest will take, the last about right."""
        tokenizer = 0 if self.vocabulary is None else len(self.vocabulary.json)
        digests = 80 * -(-self.manifest.bytes // self.manifest.block_size)
        return self.manifest.bytes + tokenizer + digests + 300 * len(self.manifest.tensors)


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


async def outline_gguf(sources: Sequence[Source], buffers: Buffers, name: str) -> Outline:
    """A GGUF model before it is written. Raises FormatError, UnsupportedError or SourceError."""
    gguf = await read_model(sources, buffers)
    factors = await _rope_factors(gguf, buffers)
    with _naming(gguf.name):
        architecture, config = config_from_gguf(gguf, factors)
    contents = {
        our_name(architecture, key): Content(key, t.type, t.shape, t.source, t.offset)
        for key, t in gguf.tensors.items()
        if key != ROPE_FACTORS
    }
    places = _places(config, contents, buffers, gguf.name)
    title = gguf.metadata.get("general.name")
    license_ = gguf.metadata.get("general.license")
    vocabulary = vocabulary_from_gguf(gguf.metadata, gguf.name)
    manifest, pieces = lay_out(config, places, name, title if isinstance(title, str) else name)
    manifest = replace(manifest, license=license_ if isinstance(license_, str) else None)
    return Outline(manifest, pieces, vocabulary)


async def convert_safetensors(
    files: Mapping[str, Source],
    storage: Storage,
    buffers: Buffers,
    *,
    name: str,
    quant: str = "none",
    shard_size: int = SHARD_SIZE,
    progress: Progress | None = None,
) -> Manifest:
    """Writes the model of a Hugging Face folder, given as its files by name.

    `quant` is one of QUANTS: what matrices of floats become on the way.
    """
    outlines = await outline_safetensors(files, buffers, name, (quant,))
    return await write_outline(outlines[quant], storage, buffers, shard_size, progress)


async def outline_safetensors(
    files: Mapping[str, Source], buffers: Buffers, name: str, quants: Sequence[str]
) -> dict[str, Outline]:
    """A Hugging Face folder's model before it is written, for each of `quants`.

    Raises what outline_gguf does, and RequestError for what is none of QUANTS.
    """
    config, floats = await read_places(files, buffers)
    vocabulary = await vocabulary_from_files(files, buffers)
    shapes, outlines = config.tensor_shapes(), {}
    for quant in quants:
        places = quantized(floats, shapes, quant, buffers)
        outlines[quant] = Outline(*lay_out(config, places, name, name), vocabulary)
    return outlines


async def read_places(
    files: Mapping[str, Source], buffers: Buffers
) -> tuple[ModelConfig, Mapping[str, Place]]:
    """The model of a Hugging Face folder: its config, and its tensors by GGUF name."""
    if "config.json" not in files:
        raise FormatError(
            "the folder has no config.json: give a Hugging Face checkpoint's folder, or a .gguf "
            "file itself"
        )
    data = await read_json(files["config.json"], buffers)
    with _naming("config.json"):
        architecture, config = config_from_hf(data, "config.json")
    checkpoint = await read_checkpoint(files, buffers)
    where = "the checkpoint"
    contents = {
        name: checkpoint[key].content
        for key, name in gguf_names(architecture, checkpoint, where).items()
    }
    if config.tied:
        contents.pop("output.weight", None)
    return config, _places(config, contents, buffers, where)


def _places(
    config: ModelConfig, contents: Mapping[str, Content], buffers: Buffers, where: str
) -> dict[str, Place]:
    """Where each of the model's tensors is. Raises FormatError where they are not the config's."""
    tensors = split_experts(config, contents, buffers)
    check_tensors(config, {key: t.shape for key, t in tensors.items()}, where)
    return {key: (t.source, t.offset, t.type) for key, t in tensors.items()}


async def convert_tensors(
    config: ModelConfig,
    places: Mapping[str, Place],
    storage: Storage,
    buffers: Buffers,
    *,
    name: str,
    title: str,
    shard_size: int = SHARD_SIZE,
    progress: Progress | None = None,
) -> Manifest:
    """Writes a model without a tokenizer: `places` has source, offset and type of each tensor."""
    manifest, pieces = lay_out(config, places, name, title)
    outline = Outline(manifest, pieces, None)
    return await write_outline(outline, storage, buffers, shard_size, progress)


async def convert_path(
    path: Path,
    storage: Storage,
    buffers: Buffers,
    *,
    name: str | None = None,
    quant: str = "none",
    shard_size: int = SHARD_SIZE,
    progress: Progress | None = None,
) -> Manifest:
    """Converts what lies at a path of this machine; the model is named for it.

    That is a .gguf, any part of a split one whose others lie beside it, a folder with one such
    model, or a folder of safetensors, which alone can be quantised (`quant`).
    """
    name = name or model_name(path.name)
    files = folder_sources(path) if path.is_dir() else {}
    parts = gguf_among(files, str(path)) if path.is_dir() else _parts_beside(path)
    if parts:
        if quant != "none":
            raise RequestError(
                f"{path} is a GGUF model: a GGUF file is quantised already and taken as it is; "
                "convert it without --quant, or the safetensors checkpoint that it was made from"
            )
        return await convert_gguf(
            parts, storage, buffers, name=name, shard_size=shard_size, progress=progress
        )
    return await convert_safetensors(
        files,
        storage,
        buffers,
        name=name,
        quant=quant,
        shard_size=shard_size,
        progress=progress,
    )


def _parts_beside(path: Path) -> list[Source]:
    """A file, and the other parts of its set that are there."""
    paths = [path.with_name(name) for name in part_names(path.name)]
    return [FileSource(part) for part in paths if part == path or part.exists()]


def gguf_among(files: Mapping[str, Source], folder: str) -> list[Source]:
    """The files of a folder's GGUF model; none where it is a folder of safetensors."""
    models = models_among(files)
    if not models or any(name.endswith(".safetensors") for name in files):
        return []
    if len(models) > 1:
        names = ", ".join(whole_name(model[0]) for model in models)
        raise FormatError(
            f"{folder} holds {len(models)} GGUF models ({names}): give a file of the one that is "
            "meant"
        )
    return [files[name] for name in models[0] if name in files]


def model_name(file: str) -> str:
    """An id from a file's name: Gemma-3-270M.Q4_K_M.gguf -> gemma-3-270m.q4_k_m."""
    stem = whole_name(file.rsplit("/", 1)[-1])
    return re.sub(r"[^a-z0-9._-]+", "-", stem.lower()).strip("-.") or "model"


async def verify(
    storage: Storage, manifest: Manifest, buffers: Buffers, progress: Progress | None = None
) -> None:
    """Hashes every stored byte. CorruptError names shard and block; SourceError a missing shard."""
    for shard in manifest.shards:
        size = await storage.size(shard.name)
        if size is None:
            raise SourceError(f"{manifest.name}: {shard.name} is missing; fetch the model again")
        if size != shard.bytes:
            raise CorruptError(
                f"{manifest.name}: {shard.name} has {size} bytes instead of {shard.bytes}; "
                "fetch the model again"
            )
        data = await storage.read(shard.name, 0, shard.bytes)
        _verify_blocks(manifest, shard, data, buffers)
        if await buffers.sha256(data) != shard.sha256 or buffers.blake3(data) != shard.blake3:
            raise CorruptError(
                f"{manifest.name}: the blocks of {shard.name} are right and its own hashes in the "
                "manifest are not; fetch the manifest again"
            )
        if progress:
            progress(shard.offset + shard.bytes, manifest.bytes)
    await _verify_tokenizer(storage, manifest, buffers)


def _verify_blocks(manifest: Manifest, shard: Shard, data: Buffer, buffers: Buffers) -> None:
    for start in range(0, shard.bytes, manifest.block_size):
        index = (shard.offset + start) // manifest.block_size
        end = min(start + manifest.block_size, shard.bytes)
        if buffers.blake3(buffers.part(data, start, end)) != manifest.blocks[index]:
            raise CorruptError(
                f"{manifest.name}: block {index} (bytes {start} to {end} of {shard.name}) is "
                "damaged: its BLAKE3 is not the manifest's; fetch the model again"
            )


async def _verify_tokenizer(storage: Storage, manifest: Manifest, buffers: Buffers) -> None:
    info = manifest.tokenizer
    if info is None:
        return
    size = await storage.size(TOKENIZER_FILE)
    if size is None:
        raise SourceError(f"{manifest.name}: {TOKENIZER_FILE} is missing; fetch the model again")
    data = await storage.read(TOKENIZER_FILE, 0, size)
    if buffers.blake3(data) != info.blake3:
        raise CorruptError(
            f"{manifest.name}: {TOKENIZER_FILE} is damaged: its BLAKE3 is not the manifest's; "
            "fetch the model again"
        )


@contextmanager
def _naming(where: str) -> Iterator[None]:
    """What is wrong with a config is told with the file that it was read from."""
    try:
        yield
    except DopplerError as error:
        if str(error).startswith("config: "):
            raise type(error)(f"{where}: {error}") from error
        raise


async def _rope_factors(gguf: Gguf, buffers: Buffers) -> tuple[float, ...]:
    tensor = gguf.tensors.get(ROPE_FACTORS)
    if tensor is None:
        return ()
    data = buffers.to_bytes(await tensor.source.read(tensor.offset, tensor.bytes))
    values = dequantize(tensor.type.name, data, tensor.shape).reshape(-1)
    if not (np.isfinite(values) & (values > 0)).all():
        raise FormatError(f"{gguf.name}: {ROPE_FACTORS} holds divisors that are not positive")
    return tuple(values.tolist())


async def write_outline(
    outline: Outline,
    storage: Storage,
    buffers: Buffers,
    shard_size: int,
    progress: Progress | None,
) -> Manifest:
    """Reads the weights and writes the model. Raises SourceError and StorageError on the way."""
    manifest = outline.manifest
    if shard_size <= 0 or shard_size % manifest.block_size:
        raise RequestError(
            f"a shard size of {shard_size} is no multiple of the block size {manifest.block_size}"
        )
    await storage.remove(MANIFEST_FILE)
    blocks: list[str] = []
    shards: list[Shard] = []
    for index, start in enumerate(range(0, manifest.bytes, shard_size)):
        length = min(shard_size, manifest.bytes - start)
        data = buffers.empty(length)
        await fill(data, start, start + length, outline.pieces, buffers)
        for at in range(0, length, manifest.block_size):
            end = min(at + manifest.block_size, length)
            blocks.append(buffers.blake3(buffers.part(data, at, end)))
        file = f"shard-{index:05d}.bin"
        await _replace_file(storage, file, data, length)
        hashes = buffers.blake3(data), await buffers.sha256(data)
        shards.append(Shard(file, start, length, *hashes))
        if progress:
            progress(start + length, manifest.bytes)
    tokenizer = await _write_tokenizer(outline.vocabulary, storage, buffers)
    manifest = replace(manifest, tokenizer=tokenizer, blocks=tuple(blocks), shards=tuple(shards))
    text = manifest.to_json().encode()
    await _replace_file(storage, MANIFEST_FILE, buffers.from_bytes(text), len(text))
    for name in set(await storage.names()) - _files(manifest):
        if name.startswith("shard-"):  # of an earlier cut
            await storage.remove(name)
    return manifest


def _files(manifest: Manifest) -> set[str]:
    return {shard.name for shard in manifest.shards}


async def _replace_file(storage: Storage, name: str, data: Buffer, length: int) -> None:
    await storage.write(name, 0, data)
    await storage.truncate(name, length)


async def _write_tokenizer(
    vocabulary: Vocabulary | None, storage: Storage, buffers: Buffers
) -> TokenizerInfo | None:
    if vocabulary is None:
        await storage.remove(TOKENIZER_FILE)
        return None
    data = buffers.from_bytes(vocabulary.json)
    length = len(vocabulary.json)
    await _replace_file(storage, TOKENIZER_FILE, data, length)
    return TokenizerInfo(
        bytes=length,
        blake3=buffers.blake3(data),
        bos=vocabulary.bos,
        eos=vocabulary.eos,
        add_bos=vocabulary.add_bos,
        chat_template=vocabulary.chat_template,
    )

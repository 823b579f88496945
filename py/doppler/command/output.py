"""Where commands write: into a folder of its own, and never over what somebody has."""

from __future__ import annotations

import asyncio
from pathlib import Path

from doppler.adapters.manifest import ADAPTER_FILE
from doppler.command.models import is_model
from doppler.command.served import manifest_in
from doppler.convert.convert import read_identity, write_outline
from doppler.convert.outline import Outline
from doppler.errors import CorruptError, DopplerError, RequestError, SourceError
from doppler.inputs.buffers import MemoryBuffers
from doppler.inputs.source import Progress
from doppler.store.cut import cut_of
from doppler.store.folder import FolderStorage
from doppler.store.manifest import MANIFEST_FILE, TOKENIZER_FILE, Manifest
from doppler.store.verify import verify

QUALITY_FILE = "quality.json"
ANOTHER = "give another folder, or remove that one first"


def check_output(folder: Path) -> None:
    """RequestError where a model, an adapter or a checkpoint lies there.

    A command that was interrupted leaves shards without a manifest, and perhaps the files beside:
    they may be written over.
    """
    is_begun = (folder / "shard-00000.bin").exists()
    others = () if is_begun else (TOKENIZER_FILE, QUALITY_FILE)
    for name in (MANIFEST_FILE, ADAPTER_FILE, *others):
        if (folder / name).exists():
            raise RequestError(f"{folder} has a {name} already: {ANOTHER}")


def model_there(folder: Path) -> Manifest | None:
    """The model of an output folder, if there is one. RequestError for one that cannot be read."""
    if not is_model(folder):
        return None
    try:
        return manifest_in(folder)
    except DopplerError as error:
        raise RequestError(f"{folder} is in use ({error}): {ANOTHER}") from error


def write_model(outline: Outline, folder: Path, shard_size: int, progress: Progress) -> Manifest:
    """Writes a model. Where this very one lies there already it is mended, if it is damaged.

    Raises RequestError, before anything is written, where another one does.
    """
    return asyncio.run(_written(outline, folder, shard_size, progress))


async def _written(outline: Outline, folder: Path, shard_size: int, progress: Progress) -> Manifest:
    storage, buffers, known = FolderStorage(folder), MemoryBuffers(), outline.manifest
    cut = cut_of(known.bytes, known.block_size, shard_size)
    there = model_there(folder)
    if there is None:
        check_output(folder)
        return await write_outline(outline, storage, buffers, shard_size, progress)
    is_same = there.tensors == known.tensors  # or else its bytes need not be read
    if not is_same or await read_identity(outline, buffers, progress) != there.identity:
        raise RequestError(f"{folder} holds another model ({there.title}): {ANOTHER}")
    if [(it.name, it.bytes) for it in cut] != [(it.name, it.bytes) for it in there.shards]:
        raise RequestError(f"{folder} holds this model in shards of another size: {ANOTHER}")
    try:
        await verify(storage, there, buffers, progress)
    except (CorruptError, SourceError):
        return await write_outline(outline, storage, buffers, shard_size, progress)
    return there

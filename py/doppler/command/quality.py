"""A converted model against the checkpoint that it was made from, over the tokens of a text."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from doppler import references
from doppler.command.encoding import PypiEncoding
from doppler.command.terminal import Report as Progress
from doppler.config.model import ModelConfig
from doppler.convert.outline import read_places
from doppler.convert.quality import Quality, compare, read_weights
from doppler.errors import FormatError, RequestError, SourceError
from doppler.inputs.buffers import Buffer, MemoryBuffers
from doppler.inputs.source import folder_sources
from doppler.quantization.block_types import block_type
from doppler.quantization.dequantize import Floats
from doppler.store.byte_layout import Place
from doppler.store.folder import FolderStorage
from doppler.store.manifest import TOKENIZER_FILE, Manifest
from doppler.store.shards import ShardStore
from doppler.text.tokenizer import Tokenizer

SEED = 0
MOST_TEXT = 16 << 20  # bytes


def read_text(path: Path) -> str:
    """A text of somebody's. SourceError where it cannot be read, RequestError where it is none."""
    try:
        with path.open("rb") as file:
            data = file.read(MOST_TEXT + 1)
        if len(data) > MOST_TEXT:
            raise SourceError(
                f"{path} has more than {MOST_TEXT >> 20} MiB: give a text of some hundred words"
            )
        text = data.decode()
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SourceError(f"{path} cannot be read as text in UTF-8: {error}") from error
    if len(text.split()) < 2:
        raise RequestError(f"{path} has less than two words: give a text of some hundred")
    return text


def token_ids(manifest: Manifest, folder: Path, text: str, most: int) -> list[int] | None:
    """The first ids of a text, with which `most` predictions can be made; None without tokenizer.

    Raises FormatError where tokenizer and model do not fit each other.
    """
    path, info = folder / TOKENIZER_FILE, manifest.tokenizer
    if info is None:
        return None
    try:
        encoding = PypiEncoding(path.read_bytes())
    except Exception as error:  # of no narrower type
        raise FormatError(f"{path} cannot be used: {error}; fetch the model again") from error
    ids = Tokenizer(encoding, info, None).encode(text)
    ids = ids[: min(most, manifest.config.context) + 1]
    if len(ids) < 2 or max(ids) >= manifest.config.vocab:
        raise FormatError(
            f"{path} gives {len(ids)} ids up to {max(ids, default=0)} for the text, and the model "
            f"has {manifest.config.vocab}: the tokenizer is another model's; fetch it again"
        )
    return ids


def random_ids(config: ModelConfig, most: int) -> list[int]:
    """Ids with which `most` predictions can be made, always the same ones."""
    count = min(most, config.context) + 1
    ids: list[int] = np.random.default_rng(SEED).integers(0, config.vocab, count).tolist()
    return ids


def measure(
    checkpoint: Path, manifest: Manifest, folder: Path, ids: Sequence[int], progress: Progress
) -> Quality:
    """Compares what both models predict after each of `ids` but the last.

    progress: called with bytes of weights that were read, and bytes in all. Raises CorruptError
    where the folder's bytes are damaged.
    """
    config, before = asyncio.run(read_places(folder_sources(checkpoint), MemoryBuffers()))
    space = _ByteSpace(manifest, folder)
    after = {t.name: (space, t.offset, block_type(t.type)) for t in manifest.tensors}
    shapes = config.tensor_shapes()
    total = sum(place[2].tensor_bytes(shapes[key]) for key, place in before.items())
    counted = _Counted(progress, total + manifest.bytes)
    models = (_Weights(places, shapes, counted) for places in (before, after))
    with np.errstate(over="ignore"):  # of exp(-x) in silu, which is then 0 as it should be
        logits = [references.forward(config, weights, ids[:-1]) for weights in models]
    return compare(logits[0], logits[1], ids[1:])


class _Counted:
    """Bytes read so far. A tied embedding is read twice, and counts once where that would show."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def add(self, count: int) -> None:
        self._done = min(self._done + count, self._total)
        self._progress(self._done, self._total)


class _Weights:
    """A model's tensors as float32, by GGUF name: each is read when it is asked for."""

    def __init__(
        self, places: Mapping[str, Place], shapes: Mapping[str, tuple[int, ...]], counted: _Counted
    ) -> None:
        self._places, self._shapes, self._counted = places, shapes, counted

    def __call__(self, name: str) -> Floats:
        place, shape = self._places[name], self._shapes[name]
        weights = np.empty(shape, np.float32)  # a task that returned it would keep it for a while
        asyncio.run(read_weights(weights, place, MemoryBuffers()))
        self._counted.add(place[2].tensor_bytes(shape))
        return weights


class _ByteSpace:
    """All shards of a stored model as one source, verified as they are read."""

    def __init__(self, manifest: Manifest, folder: Path) -> None:
        self._store = ShardStore(manifest, FolderStorage(folder), (), MemoryBuffers())
        self._manifest, self.name = manifest, manifest.name

    async def size(self) -> int:
        return self._manifest.bytes

    async def read(self, offset: int, length: int) -> Buffer:
        size = self._manifest.block_size
        blocks = range(offset // size, -(-(offset + length) // size))
        data = b"".join([await self._store.block(index) for index in blocks])
        start = offset - blocks.start * size
        return data[start : start + length]

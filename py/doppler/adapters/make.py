"""What was read of an adapter -> its folder: adapter.json and shards."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from doppler.adapters.gguf_adapter import read_gguf_adapter
from doppler.adapters.manifest import (
    ADAPTER_FILE,
    AdapterManifest,
    DeltaInfo,
    Stored,
    Terms,
    check_terms,
)
from doppler.adapters.matrix import Delta, Matrix, check_changes
from doppler.adapters.peft import ReadAdapter, read_peft
from doppler.adapters.signing import signed
from doppler.config.model import ModelConfig
from doppler.errors import FormatError, SourceError
from doppler.inputs.buffers import Buffer, Buffers
from doppler.inputs.source import FileSource, folder_sources
from doppler.store.byte_copies import Piece
from doppler.store.cut import cut_of
from doppler.store.manifest import BLOCK_SIZE, SHARD_SIZE
from doppler.store.shard_files import write_manifest, write_pieces
from doppler.store.sharded import ALIGNMENT
from doppler.store.storage import Storage


async def read_adapter(path: Path, base: ModelConfig, buffers: Buffers) -> ReadAdapter:
    """What lies at a path of this machine: a folder of PEFT's, or a .gguf adapter."""
    if not path.exists():
        raise SourceError(f"{path} is not there: give a folder that PEFT saved, or a .gguf adapter")
    if path.is_dir():
        files = {it: FileSource(path / it, str(path / it)) for it in folder_sources(path)}
        read = await read_peft(files, base, buffers, str(path))
    else:
        read = await read_gguf_adapter(FileSource(path, str(path)), base, buffers)
    check_changes(read.deltas, str(path))
    if (last := max(read.invocation_tokens or (0,))) >= base.vocab:
        raise FormatError(
            f"{path} is invoked by token {last}, and the base knows {base.vocab} tokens: the "
            "adapter is of another model"
        )
    return read


async def write_adapter(
    read: ReadAdapter,
    terms: Terms,
    base: str,
    storage: Storage,
    buffers: Buffers,
    key_file: Path | None = None,
) -> AdapterManifest:
    """Writes the folder; adapter.json comes last. `base` is the identity of the base.

    FormatError where the terms cannot be, before anything is written.
    """
    check_terms(terms)
    layout = _Layout(buffers)
    deltas = tuple(layout.add(delta) for delta in read.deltas)
    manifest = AdapterManifest(
        terms, base, read.invocation_tokens, deltas, layout.end, BLOCK_SIZE, (), ()
    )
    if key_file is not None:
        signed(manifest, key_file)  # a key that cannot be read is told before anything is written
    await storage.remove(ADAPTER_FILE)
    cut = cut_of(layout.end, BLOCK_SIZE, SHARD_SIZE)
    blocks, shards = await write_pieces(cut, BLOCK_SIZE, tuple(layout.pieces), storage, buffers)
    manifest = replace(manifest, blocks=blocks, shards=shards)
    if key_file is not None:
        manifest = signed(manifest, key_file)
    await write_manifest(ADAPTER_FILE, manifest.to_json(), shards, storage, buffers)
    return manifest


class _Bytes:
    """A matrix as a source."""

    def __init__(self, name: str, matrix: Matrix, buffers: Buffers) -> None:
        self.name = name
        self._matrix, self._buffers = matrix, buffers

    async def size(self) -> int:
        return self._matrix.bits.nbytes

    async def read(self, offset: int, length: int) -> Buffer:
        return self._buffers.from_bytes(self._matrix.data[offset : offset + length])


class _Layout:
    """The byte space as it grows."""

    def __init__(self, buffers: Buffers) -> None:
        self.pieces: list[Piece] = []
        self.end = 0
        self._buffers = buffers
        self._placed: dict[tuple[object, ...], Stored] = {}  # an A may be that of several

    def add(self, delta: Delta) -> DeltaInfo:
        rows, columns = delta.shape
        a, b = self._place(delta.name, delta.a), self._place(delta.name, delta.b)
        return DeltaInfo(delta.name, rows, columns, delta.rank, delta.scale, a, b)

    def _place(self, name: str, matrix: Matrix) -> Stored:
        key = matrix.type, matrix.shape, self._buffers.blake3(matrix.data)
        known = self._placed.get(key)
        if known is None:
            length = matrix.bits.nbytes
            known = Stored(matrix.type, self.end, length)
            source = _Bytes(name, matrix, self._buffers)
            self.pieces.append(Piece(source, 0, self.end, length))
            self.end += -(-length // ALIGNMENT) * ALIGNMENT
            self._placed[key] = known
        return known

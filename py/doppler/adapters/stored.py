"""An adapter's folder, read again: bytes are hashed, the signature and all numbers checked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from doppler.adapters.manifest import ADAPTER_FILE, AdapterManifest, Stored
from doppler.adapters.matrix import TYPES, Bits, Delta, Matrix, check_changes
from doppler.adapters.signing import check_signature
from doppler.errors import CorruptError, FormatError, SourceError
from doppler.inputs.buffers import Buffers
from doppler.inputs.small import read_small
from doppler.inputs.source import FileSource
from doppler.store.places import Places
from doppler.store.storage import Storage
from doppler.store.stored import guarded
from doppler.store.verify import verify_shards

_MEND = "get the adapter again"


async def manifest_of(folder: Path, buffers: Buffers) -> AdapterManifest:
    """The folder's adapter.json. Raises DopplerError, whatever lies there."""
    path = folder / ADAPTER_FILE
    if not path.is_file():
        raise SourceError(
            f"{folder} has no {ADAPTER_FILE}; give one that doppler adapter make made"
        )
    data = await read_small(FileSource(path), ADAPTER_FILE, buffers)

    def read() -> AdapterManifest:
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            raise FormatError(f"{path} is no adapter: it is no UTF-8 ({error})") from error
        return AdapterManifest.from_json(text, str(path))

    return guarded(read, f"{path} is no adapter")


async def verified_deltas(
    storage: Storage, manifest: AdapterManifest, buffers: Buffers, where: str
) -> tuple[Delta, ...]:
    """All of an adapter, in memory, after its signature and every block were checked. `where` is
    what messages call it.

    Raises CorruptError, which names what is damaged; SourceError for a missing shard; FormatError
    where a number is none, or the changes are too large or nothing.
    """
    check_signature(manifest, where)
    await verify_shards(storage, manifest, buffers, mend=_MEND, where=where)
    matrices: dict[Stored, Matrix] = {}
    for delta in manifest.deltas:
        for stored, shape in delta.shapes:
            if stored not in matrices:
                matrices[stored] = await _matrix(storage, manifest, stored, shape, buffers)
            if not matrices[stored].is_finite:
                raise FormatError(
                    f"{where}: {delta.name} is changed by infinities or what is no number; "
                    "do not use this adapter"
                )
    deltas = tuple(
        Delta(it.name, it.scale, matrices[it.a], matrices[it.b]) for it in manifest.deltas
    )
    check_changes(deltas, where)
    return deltas


async def _matrix(
    storage: Storage,
    manifest: AdapterManifest,
    stored: Stored,
    shape: tuple[int, int],
    buffers: Buffers,
) -> Matrix:
    pieces = Places(manifest).pieces(stored.offset, stored.offset + stored.bytes)
    data = buffers.to_bytes(await storage.gather(list(pieces)))
    if len(data) != stored.bytes:
        raise CorruptError(f"{manifest.name}: its shards changed while they were read; {_MEND}")
    bits: Bits = np.frombuffer(data, TYPES[stored.type]).reshape(shape)
    return Matrix(stored.type, bits)


def norms_by_layer(deltas: Sequence[Delta]) -> list[tuple[int | None, float]]:
    """‖change‖ (Frobenius) of all matrices of each layer together, in order; None: of no layer."""
    squares: dict[int | None, float] = {}
    for delta in deltas:
        parts = delta.name.split(".")
        layer = int(parts[1]) if parts[0] == "blk" else None
        squares[layer] = squares.get(layer, 0.0) + delta.norm**2
    return [(layer, math.sqrt(squares[layer])) for layer in sorted(squares, key=_place)]


def _place(layer: int | None) -> float:
    return math.inf if layer is None else layer

"""Storage in the page: the browser's origin private file system (OPFS).

doppler/models/<identity>/   manifest.json, tokenizer.json, shard-00000.bin, …, and have.map, which
                             says what is stored of these; slots.bin and slots.json have blocks of a
                             model that is larger than its budget
doppler/imports/<number>/    a model that is being made from a file; moved when it is whole
doppler/tmp/                 results that the page offers as downloads
doppler/kv/                  keys and values of conversations (kept.py)
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import doppler_runtime as runtime
from pyodide.ffi import JsException, to_js

from doppler.api.messages import StorageUse
from doppler.errors import DopplerError, FormatError, RequestError, SourceError, StorageError
from doppler.inputs.buffers import Buffer
from doppler.inputs.small import LIMITS, too_long
from doppler.store.folder import plain_name
from doppler.store.manifest import MANIFEST_FILE
from doppler.store.storage import Piece
from doppler.store.stored import damaged_title, read_manifest

KEPT = "kv"  # the folder of kept.py


class OpfsStorage:
    """One model's folder. Files stay open for as long as it is, and other tabs may read them."""

    openings = 1

    def __init__(self, folder: Any, path: str) -> None:
        self._folder = folder
        self._path = path

    async def size(self, name: str) -> int | None:
        with explained(name):
            size = await self._folder.size(plain_name(name))
        return None if size < 0 else int(size)

    async def read(self, name: str, offset: int, length: int) -> Buffer:
        with explained(name):
            data = await self._folder.read(plain_name(name), offset, length)
        if data.length != length:
            raise SourceError(
                f"{name} in the browser's storage is too short: {length} bytes were expected at "
                f"{offset}, {data.length} are there"
            )
        return data

    async def gather(self, pieces: Sequence[Piece]) -> Buffer:
        for name, _, _ in pieces:
            plain_name(name)
        with explained(self._path):
            data = await self._folder.gather(to_js(pieces))
        length = sum(length for _, _, length in pieces)
        if data.length != length:
            raise SourceError(
                f"files of {self._path} in the browser's storage are too short: {length} bytes of "
                f"{len(pieces)} pieces were expected, {data.length} are there"
            )
        return data

    async def write(self, name: str, offset: int, data: Buffer) -> None:
        try:
            with explained(name):
                await self._folder.write(plain_name(name), offset, data)
        except StorageError as error:
            if error.__cause__ is None or _kind(error.__cause__) != "QuotaExceededError":
                raise
            needed = int(data.length)
            free = int(await runtime.freeBytes(needed))
            raise await full(f"{name} cannot be written", needed, free) from error.__cause__

    async def truncate(self, name: str, size: int) -> None:
        with explained(name):
            await self._folder.truncate(plain_name(name), size)

    async def names(self) -> list[str]:
        with explained(self._path):
            return sorted(await self._folder.names())

    async def remove(self, name: str) -> None:
        with explained(name):
            await self._folder.remove(plain_name(name))

    async def flush(self, name: str) -> None:
        with explained(name):
            await self._folder.flush(plain_name(name))

    async def close(self) -> None:
        with explained(self._path):
            await self._folder.close()


class OpfsRoot:
    """All models in the browser's storage for this site."""

    async def open(self, model_id: str) -> OpfsStorage:
        """The model's folder; SourceError where there is none. Close it: an open folder is never
        tidied away."""
        return await _open(_model(model_id), create=False)

    async def make(self, model_id: str) -> OpfsStorage:
        """The same, made where it is missing: for whoever writes the model."""
        return await _open(_model(model_id), create=True)

    async def models(self) -> list[str]:
        """Ids of all models, whole or not, and names of folders that are none (yet)."""
        with explained("the list of models"):
            return sorted(await runtime.folders("models"))

    async def small(self, model_id: str, name: str) -> bytes | None:
        """A model's small file (see LIMITS), read without keeping other tabs out.

        None where there is none; FormatError where it is longer than its kind.
        """
        return await read_small(_model(model_id), name)

    async def delete(self, model_id: str) -> None:
        """Removes a model. Raises StorageError while a tab has its files open."""
        with explained("the model"):
            await runtime.removeFolder("models", _model(model_id).removeprefix("models/"))

    async def usage(self, model_id: str) -> int:
        """Bytes that the model's files take; 0 where it is gone."""
        with explained("the model"):
            return max(0, int(await runtime.folderSize(_model(model_id))))

    async def scratch(self) -> OpfsStorage:
        """The folder doppler/tmp, for files that the page offers as downloads while it is open."""
        with explained("tmp"):
            await runtime.hold()
        return await _open("tmp", create=True)

    async def tuning(self) -> OpfsStorage:
        """The folder doppler/tuning, for what was measured on this device."""
        return await _open("tuning", create=True)

    async def tidy(self) -> None:
        """Removes leftovers of imports, and doppler/tmp: call it once, at the start."""
        with explained("leftovers"):
            await runtime.tidy(MANIFEST_FILE)

    @asynccontextmanager
    async def importing(self) -> AsyncIterator[Import]:
        """A folder for a model in the making, removed at the end whatever happens.

        Its `keep` is what makes it a model.
        """
        name = secrets.token_hex(8)
        unfinished = Import(await _open(f"imports/{name}", create=True), f"imports/{name}")
        try:
            yield unfinished
        finally:
            await unfinished.storage.close()
            with explained("the leftovers of an import"):
                await runtime.removeFolder("imports", name)


@dataclass
class Import:
    """A model in the making: write its files into `storage`, then `keep` it under its id."""

    storage: OpfsStorage
    path: str

    async def keep(self, model_id: str) -> None:
        """Moves the files into the model's folder, manifest.json last: without it, no model.

        What lay there, an unfinished download, goes.
        """
        with explained("the model"):
            for name in await self.storage.names():
                await self.storage.flush(name)
            target = await _open(_model(model_id), create=True)
            try:
                for name in sorted(await target.names(), key=lambda name: name != MANIFEST_FILE):
                    await target.remove(name)
            finally:
                await target.close()
            await runtime.moveFiles(self.path, _model(model_id), MANIFEST_FILE)


async def usage() -> StorageUse:
    """How much storage there is, for people to see."""
    root = OpfsRoot()
    used = sum([await root.usage(model) for model in await root.models()])
    with explained("the size of the storage"):
        told = await runtime.estimate()
    return {"quota": int(told.quota), "used": used, "persisted": bool(told.persisted)}


async def free_bytes(most: int) -> int:
    """How many bytes can still be stored, up to `most`."""
    with explained("the browser's storage"):
        return int(await runtime.freeBytes(most))


async def reserve(needed: int, what: str) -> None:
    """Raises StorageError where `needed` bytes do not fit, before any of them is fetched."""
    free = await free_bytes(needed)
    if free < needed:
        await drop_kept()
        free = await free_bytes(needed)
    if free < needed:
        raise await full(f"{what} does not fit", needed, free)


async def drop_kept() -> None:
    """Removes the keys and values of conversations: they can be computed again."""
    paths: list[str] = []
    with suppress(DopplerError), explained(KEPT):
        paths = [it.path for it in await runtime.folderAges(KEPT)]
    for path in paths:  # one that another tab uses stays, and the others go
        identity, name = path.split("/")
        with suppress(DopplerError), explained(KEPT):
            await runtime.removeFolder(f"{KEPT}/{identity}", name)


async def full(what: str, needed: int, free: int) -> StorageError:
    """The error of a storage that is full: sizes, and what could go."""
    root = OpfsRoot()
    sizes = {model: await root.usage(model) for model in await root.models()}
    biggest = max(sizes, key=lambda model: sizes[model], default=None)
    advice = "free some disk space"
    if biggest is not None:
        advice = f"delete a model: {await _title(biggest)} takes {_mib(sizes[biggest])}"
    return StorageError(
        f"{what}: the browser's storage is full. {_mib(needed)} more are needed, {_mib(free)} are "
        f"free; {advice}"
    )


async def _title(model_id: str) -> str:
    """What a person knows a stored model by, even a damaged one."""
    with suppress(DopplerError):
        data = await OpfsRoot().small(model_id, MANIFEST_FILE)
        if data is not None:
            return f"{read_manifest(data, MANIFEST_FILE).title:.80}"
    return damaged_title(model_id)


def _mib(count: int) -> str:
    return f"{count / (1 << 20):,.1f} MiB"


async def _open(path: str, *, create: bool) -> OpfsStorage:
    with explained(path):
        return OpfsStorage(await runtime.openFolder(path, create), path)


async def read_small(path: str, name: str) -> bytes | None:
    """A file of a kind of LIMITS in a folder, as `OpfsRoot.small` gives it."""
    with explained(name):
        data = await runtime.readSmall(path, name, LIMITS[name])
    if data is None:
        return None
    if data.length > LIMITS[name]:
        raise too_long(f"{name} in the browser's storage", name)
    return bytes(data.to_bytes())


def _model(name: str) -> str:
    """The path of a model's folder. Other programs may have given it an odd name, with a dot."""
    if not name or "/" in name:
        raise RequestError(f"{name!r:.60} cannot be a stored model's id")
    return f"models/{name}"


def _kind(error: BaseException) -> str:
    """The name of a JavaScript error, such as NotFoundError."""
    return str(getattr(error, "name", ""))


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turns errors of the file system into ours, with what to do."""
    try:
        yield
    except JsException as error:
        kind = _kind(error)
        if kind == "NotFoundError":
            raise SourceError(
                f"{what} is not in the browser's storage; get the model again"
            ) from error
        if kind == "TypeMismatchError":
            raise FormatError(
                f"{what} in the browser's storage is a folder where a file belongs, or the other "
                "way round; delete the model and get it again"
            ) from error
        if kind == "NoModificationAllowedError":
            raise StorageError(
                f"{what} is in use by another tab of this page; close that tab and try again"
            ) from error
        raise StorageError(
            f"{what}: the browser's storage answered {kind}: {error.message}; private windows and "
            "full disks often have no such storage"
        ) from error

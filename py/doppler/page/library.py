"""The models that the page keeps: listed, downloaded, imported, opened and deleted.

Beside a model's own files, `origin.json` says which manifest address it came from, so that an
unfinished download can go on and a damaged block can be fetched again; `import.json` says which
import made it, so that the same is not done twice.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import js
from pyodide.ffi import to_js

from doppler.api.asked import Asked
from doppler.api.host import Amount
from doppler.api.inspection import Candidate, facts
from doppler.api.messages import (
    DamagedModel,
    Emit,
    FilesTaken,
    ProgressEvent,
    StorageUse,
    StoredModel,
)
from doppler.api.progress import Progress
from doppler.errors import (
    DopplerError,
    RequestError,
)
from doppler.page.addresses import absolute
from doppler.page.buffers import PageBuffers
from doppler.page.downloads import Downloads
from doppler.page.handed import HandedFiles
from doppler.page.input import Given, fetched, picked
from doppler.page.model_files import ModelFiles
from doppler.page.once import Making, turn
from doppler.page.open_models import OpenModels
from doppler.page.opened import OpfsModel
from doppler.page.opfs import OpfsRoot, free_bytes, reserve, usage
from doppler.page.peer_shelf import PeerShelf
from doppler.quantization.block_types import Quant
from doppler.store.manifest import (
    MANIFEST_FILE,
    SHARD_SIZE,
    Manifest,
)
from doppler.store.shards import ShardStore
from doppler.store.stored import as_ours, damaged_title

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from doppler.convert.outline import Outline

WRITING_SECONDS = 0.1  # another tab may be writing what seems damaged
IMPORT_FILE = "import.json"


class OpfsLibrary:
    """All models in this browser's storage, by identity."""

    def __init__(self, load_numpy: Callable[[], Awaitable[None]]) -> None:
        self._load_numpy = load_numpy
        self._root = OpfsRoot()
        self._buffers = PageBuffers()
        self._files = ModelFiles(self._root, self._buffers)
        self._models = OpenModels(self._root, self._buffers)
        self._peers = PeerShelf(self._root, self._files, self._models)
        parts = self._root, self._files, self._models, self._peers
        self._downloads, self._handed = Downloads(*parts), HandedFiles(*parts)
        self._tidied = False
        self._seen: tuple[tuple[Any, ...], Given, dict[Quant, Outline]] | None = None

    async def usage(self) -> StorageUse:
        """The browser's quota and our own count of what is stored."""
        return await usage()

    async def models(self) -> list[StoredModel | DamagedModel]:
        """Every stored model, whole or not; one whose manifest is damaged is listed as such."""
        await self._tidy()
        listed = [await self._listed(identity) for identity in await self._root.models()]
        return [model for model in listed if model is not None]

    async def delete(self, identity: str) -> None:
        """Removes a model with all its files."""
        await self._models.rest(identity)
        await self._root.delete(identity)
        self._models.forget(identity)
        self._peers.forget(identity)

    async def download(
        self, url: str, wanted: str | None, amount: Amount, emit: Emit[ProgressEvent]
    ) -> str:
        """Makes the model of a manifest's address whole in storage; returns its identity.

        wanted: the identity of the model that is to go on, where its beginning is stored.
        """
        return await self._downloads.download(url, wanted, amount, emit)

    async def download_from_peers(
        self, identity: str, amount: Amount, emit: Emit[ProgressEvent]
    ) -> str:
        """The same for a model that the page shares, from its peers; its manifest too."""
        return await self._peers.download(identity, amount, emit)

    async def give_files(
        self, identity: str, files: Sequence[Any], emit: Emit[ProgressEvent]
    ) -> FilesTaken:
        """Stores what shard files of a stored model have that it lacks."""
        return await self._handed.give(identity, files, emit)

    async def inspect(self, asked: Asked) -> tuple[list[Candidate], int]:
        """A model that is stored or could be, as headers tell; and bytes that are free for it."""
        if asked.id is not None:
            candidates = [await self._stored_candidate(await self._files.manifest(asked.id))]
        elif (handed := await self._handed.model_among(asked.files)) is not None:
            candidates = [await self._stored_candidate(handed)]
        else:
            if asked.url is not None:
                self._seen = None  # what is there may have changed
            _, outlines = await self._seen_of(asked)
            candidates = [_candidate(outline, quant) for quant, outline in outlines.items()]
        return candidates, await free_bytes(max(candidate.bytes for candidate in candidates))

    async def import_given(self, asked: Asked, emit: Emit[ProgressEvent]) -> str:
        """Stores the model of an address or of files, converted where it is none of ours; returns
        the identity.
        """
        if (handed := await self._handed.model_among(asked.files)) is not None:
            return await self._handed.store(handed, asked.name, asked.files, emit)
        given, outlines = await self._seen_of(asked)
        self._seen = None  # if this fails, trying again reads everything again
        if asked.quant not in outlines:
            raise RequestError(
                f"quant is {asked.quant!r:.60}; this model can be stored as {', '.join(outlines)}"
            )
        outline = outlines[asked.quant]
        name = asked.name or outline.manifest.name
        outline = replace(outline, manifest=replace(outline.manifest, name=name))
        making = await Making.of(outline, given)
        async with turn(f"import {making.key}", emit) as waited:
            known = await self._made_by(making) if waited or making.is_sure else None
            return known or await self._import(outline, given, making, emit)

    async def _import(
        self, outline: Outline, given: Given, making: Making, emit: Emit[ProgressEvent]
    ) -> str:
        await reserve(outline.bytes, outline.manifest.title)
        await given.begin(self._buffers)
        from doppler.convert.convert import write_outline

        progress = Progress(emit, "import")
        async with self._root.importing() as unfinished:
            storage = unfinished.storage
            manifest = await write_outline(outline, storage, self._buffers, SHARD_SIZE, progress)
            await self._files.write(storage, IMPORT_FILE, json.dumps({"key": making.key}))
            async with turn(f"model {manifest.identity}", emit):
                if await self._files.whole(manifest.identity) is None:
                    await unfinished.keep(manifest.identity)
                    self._models.changed(manifest.identity)
                    await self._peers.refresh(manifest.identity)
        return manifest.identity

    async def _made_by(self, making: Making) -> str | None:
        """The stored model that such an import made, if it is whole still."""
        record = json.dumps({"key": making.key}).encode()
        for identity in await self._root.models():
            if await self._root.small(identity, IMPORT_FILE) == record:
                return identity if await self._files.whole(identity) else None
        return None

    async def _seen_of(self, asked: Asked) -> tuple[Given, dict[Quant, Outline]]:
        """What is given, and what would be made of it.

        It is kept until the next, since whoever inspects a model may import it.
        """
        if self._seen is None or self._seen[0] != asked.key:
            self._seen = None
            await self._load_numpy()  # who only uses what is stored need not wait for it
            if asked.url is not None:
                given = await fetched(absolute(asked.url, js.location.href), self._buffers)
            else:
                given = picked(asked.files, asked.folder)
            self._seen = asked.key, given, await given.outlines(self._buffers)
        return self._seen[1:]

    async def _stored_candidate(self, manifest: Manifest) -> Candidate:
        """A model as it is stored, whole or not at all, and what it lacks."""
        info = manifest.tokenizer
        template = None if info is None else info.chat_template
        lacking = max(0, manifest.bytes - await self._root.usage(manifest.identity))
        return Candidate(manifest, lacking, info is not None, template)

    @asynccontextmanager
    async def open(self, identity: str, budget: int | None = None) -> AsyncIterator[OpfsModel]:
        """A stored model, whose files are let go at the end: what reads the store later opens them
        again. budget: bytes of weights that may be stored of it from now on. Raises SourceError
        where there is none.
        """
        manifest = await self._files.manifest(identity)
        origin = await self._files.origin(identity, manifest)
        model = OpfsModel(self._models.store(manifest, origin), origin.url)
        model.store.blocks.budget = budget
        model.store.scheduler.forgive()
        try:
            yield model
        finally:
            await model.store.rest()

    async def write_scratch(self, name: str, rows: AsyncIterator[npt.NDArray[np.float32]]) -> str:
        """Writes float32 rows into a file of doppler/tmp, for the page to offer as a download."""
        storage = await self._root.scratch()
        try:
            await storage.truncate(name, 0)
            offset = 0
            async for part in rows:
                data = part.tobytes()
                await storage.write(name, offset, to_js(data))
                offset += len(data)
        finally:
            await storage.close()
        return name

    async def _listed(self, identity: str) -> StoredModel | DamagedModel | None:
        """What the list says of a folder; None where it holds no model: not yet, or no longer."""
        for last in (False, True):
            try:
                if await self._root.small(identity, MANIFEST_FILE) is None:
                    return None
                return await self._described(identity)
            except Exception as error:  # whatever is wrong with one model, the others are listed
                if identity not in await self._root.models():
                    return None
                if last:
                    return await self._damaged(identity, error)
                await asyncio.sleep(WRITING_SECONDS)
        return None

    async def _damaged(self, identity: str, error: Exception) -> DamagedModel:
        origin = await self._files.origin(identity)
        problem = as_ours(error, f"stored model {identity[:12]}… cannot be read")
        return {
            "id": identity,
            "name": identity,
            "title": damaged_title(identity),
            "stored_bytes": await self._root.usage(identity),
            "complete": False,
            "url": origin.url,
            "problem": f"{problem}. Delete it, or get it again",
            "note": None,
        }

    async def _described(self, identity: str) -> StoredModel:
        manifest = await self._files.manifest(identity)
        storage = await self._root.open(identity)
        try:
            complete = not await ShardStore(manifest, storage, (), self._buffers).missing()
        finally:
            await storage.close()
        origin = await self._files.origin(identity, manifest)
        tokenizer = manifest.tokenizer
        chats = tokenizer is not None and tokenizer.chat_template is not None
        return {
            "id": identity,
            **facts(manifest, tokenizer is not None, chats),
            "stored_bytes": await self._root.usage(identity),
            "complete": complete,
            "url": origin.url,
            "problem": None,
            "note": origin.problem,
        }

    async def _tidy(self) -> None:
        if not self._tidied:
            self._tidied = True
            with suppress(DopplerError):  # leftovers only cost room; the list is what was asked for
                await self._root.tidy()


def _candidate(outline: Outline, quant: Quant) -> Candidate:
    vocabulary = outline.vocabulary
    template = None if vocabulary is None else vocabulary.chat_template
    tokenizer = vocabulary is not None
    return Candidate(
        outline.manifest, outline.bytes, tokenizer, template, quant, warnings=outline.warnings
    )

"""Shard files that a person hands over: for a model that is stored in part, or as a whole model."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from doppler.api.messages import Emit, FileProblem, FilesTaken, ProgressEvent
from doppler.api.progress import Progress
from doppler.errors import FormatError, RequestError, SourceError
from doppler.inputs.small import read_small
from doppler.inputs.source import Source
from doppler.page.buffers import PageBuffers
from doppler.page.http import BlobSource
from doppler.page.model_files import ModelFiles
from doppler.page.once import turn
from doppler.page.open_models import OpenModels
from doppler.page.opfs import OpfsRoot, reserve
from doppler.page.peer_shelf import PeerShelf
from doppler.store.manifest import MANIFEST_FILE, TOKENIZER_FILE, Manifest
from doppler.store.sources.files import FileShards
from doppler.store.storage import Storage
from doppler.store.stored import read_manifest

SHARD = re.compile(r"shard-[0-9]+\.bin")
OTHERS = re.compile(r"\.(gguf|safetensors)$", re.IGNORECASE)  # weights that are to be converted


class HandedFiles:
    """They are read once: every block that is what the manifest says is stored."""

    def __init__(
        self, root: OpfsRoot, files: ModelFiles, models: OpenModels, peers: PeerShelf
    ) -> None:
        self._root, self._files, self._models, self._peers = root, files, models, peers
        self._buffers = PageBuffers()

    async def model_among(self, files: Sequence[Any]) -> Manifest | None:
        """The model that the files are the shards of, by the manifest among them; None where they
        are no shards, but something to convert.
        """
        given = _sources(files)
        if not any(map(SHARD.fullmatch, given)) or any(map(OTHERS.search, given)):
            return None
        manifest = await self._manifest_among(given)
        if manifest is None:
            raise FormatError(
                f"these are shards of a model, and its {MANIFEST_FILE} is not among them: choose "
                "the whole folder, or give them to the model in the list that they belong to"
            )
        return manifest

    async def give(
        self, identity: str, files: Sequence[Any], emit: Emit[ProgressEvent]
    ) -> FilesTaken:
        """Takes what the files have for a stored model."""
        given, manifest = _sources(files), await self._files.manifest(identity)
        cut = await self._manifest_among(given) or manifest
        if cut.identity != identity:
            raise FormatError(
                f"the {MANIFEST_FILE} that was chosen is of another model ({cut.title:.60}) than "
                f"{manifest.title:.60}: choose files of this one"
            )
        return await self._take(manifest, cut, given, emit)

    async def store(
        self, cut: Manifest, name: str | None, files: Sequence[Any], emit: Emit[ProgressEvent]
    ) -> str:
        """Stores a model that files are whole; its identity. What is good of others stays, too."""
        identity = cut.identity
        async with turn(f"model {identity}", emit):
            if await self._files.whole(identity) is not None:
                return identity
            manifest = await self._files.to_store(replace(cut, name=name or cut.name), None)
            if await self._files.stored_manifest(identity) is None:
                await self._begin(manifest)
            taken = await self._take(manifest, cut, _sources(files), emit)
        if not taken["complete"]:
            told = [f"{it['file']}: {it['problem']}" for it in taken["problems"][:3]]
            raise SourceError(
                f"{cut.title:.60} is not whole in these files "
                f"({'; '.join(told) or 'some are missing'}). What is good of it is stored: give "
                "the rest to it where it is listed"
            )
        return identity

    async def _begin(self, manifest: Manifest) -> None:
        folder = await self._root.make(manifest.identity)
        try:
            await self._files.write(folder, MANIFEST_FILE, manifest.to_json())
        finally:
            await folder.close()

    async def _take(
        self,
        manifest: Manifest,
        cut: Manifest,
        given: Mapping[str, Source],
        emit: Emit[ProgressEvent],
    ) -> FilesTaken:
        """cut: the shards that the files are taken for."""
        identity, source = manifest.identity, await FileShards.among(given, cut)
        if not source.names and TOKENIZER_FILE not in given:
            raise RequestError(
                f"none of these files is a shard of {manifest.title:.60}: choose files that are "
                f"called {cut.shards[0].name} and so on"
            )
        origin = await self._files.origin(identity, manifest)
        store = self._models.store(manifest, origin)
        try:
            missing = await store.blocks.missing(range(len(manifest.blocks)))
            coming = sum(map(source.has, missing)) * manifest.block_size
            await reserve(coming, manifest.title)
            problems = await self._take_tokenizer(store.storage, manifest, given)
            store.blocks.budget = None
            lacking = await store.take(source, Progress(emit, "import"))
        finally:
            await store.rest()
        await self._peers.refresh(identity)
        problems |= source.problems() | _strange(given, source)
        return {
            "id": identity,
            "complete": await self._files.whole(identity) is not None,
            "lacking": lacking,
            "problems": [FileProblem(file=it, problem=told) for it, told in problems.items()],
        }

    async def _take_tokenizer(
        self, storage: Storage, manifest: Manifest, given: Mapping[str, Source]
    ) -> dict[str, str]:
        """Stores tokenizer.json, where it is given and is the model's; else what is wrong."""
        info = manifest.tokenizer
        if info is None or TOKENIZER_FILE not in given:
            return {}
        data = await read_small(given[TOKENIZER_FILE], TOKENIZER_FILE, self._buffers)
        if self._buffers.blake3(block := self._buffers.from_bytes(data)) != info.blake3:
            return {TOKENIZER_FILE: "it is not this model's, or damaged"}
        await storage.truncate(TOKENIZER_FILE, 0)
        await storage.write(TOKENIZER_FILE, 0, block)
        await storage.flush(TOKENIZER_FILE)
        return {}

    async def _manifest_among(self, given: Mapping[str, Source]) -> Manifest | None:
        if MANIFEST_FILE not in given:
            return None
        data = await read_small(given[MANIFEST_FILE], MANIFEST_FILE, self._buffers)
        return read_manifest(data, MANIFEST_FILE)


def _sources(files: Sequence[Any]) -> dict[str, Source]:
    return {file.name: BlobSource(file) for file in files}


def _strange(given: Mapping[str, Source], source: FileShards) -> dict[str, str]:
    """Shards by their names that the cut does not have."""
    names = [name for name in given if SHARD.fullmatch(name) and name not in source.names]
    return dict.fromkeys(names, "the model has no shard of that name")

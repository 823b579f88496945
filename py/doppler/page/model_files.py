"""Small files of stored models: what each is, and where it came from."""

from __future__ import annotations

from pyodide.ffi import to_js

from doppler.errors import DopplerError, FormatError, SourceError
from doppler.page.buffers import PageBuffers
from doppler.page.opfs import OpfsRoot
from doppler.store.cut import cut_to_store
from doppler.store.manifest import MANIFEST_FILE, TOKENIZER_FILE, Manifest
from doppler.store.shards import ShardStore
from doppler.store.storage import Storage
from doppler.store.stored import DAMAGED_ORIGIN, Origin, read_manifest, read_origin

ORIGIN_FILE = "origin.json"


class ModelFiles:
    """Those of all models in this browser's storage."""

    def __init__(self, root: OpfsRoot, buffers: PageBuffers) -> None:
        self._root, self._buffers = root, buffers

    async def manifest(self, identity: str) -> Manifest:
        data = await self._root.small(identity, MANIFEST_FILE)
        if data is None:
            raise SourceError(
                f"there is no model {identity[:12]}… in this browser's storage: download or import "
                "it first"
            )
        manifest = read_manifest(data, f"stored model {identity[:12]}…")
        if manifest.identity != identity:
            raise FormatError(
                f"stored model {identity[:12]}… holds the manifest of another one "
                f"({manifest.title:.60}): delete it and get the model again"
            )
        return manifest

    async def manifest_data(self, identity: str) -> bytes | None:
        """What lies there as the manifest, where it can be read at all."""
        try:
            return await self._root.small(identity, MANIFEST_FILE)
        except FormatError:
            return None

    async def stored_manifest(self, identity: str) -> Manifest | None:
        """The manifest that lies there; None where there is none that can be used."""
        try:
            return await self.manifest(identity)
        except DopplerError:
            return None

    async def origin(self, identity: str, manifest: Manifest | None = None) -> Origin:
        """Where a model came from; with its manifest, it is known how it is cut there."""
        try:
            origin = read_origin(await self._root.small(identity, ORIGIN_FILE))
            if manifest is not None:
                origin.served(manifest)
        except DopplerError:
            return DAMAGED_ORIGIN
        return origin

    async def to_store(self, comes: Manifest, shard_bytes: int | None) -> Manifest:
        """A model that comes from elsewhere, in the cut that `cut_to_store` says."""
        stored = await self.stored_manifest(comes.identity)
        has_shards = stored is not None and await self._has_shards(comes.identity)
        return cut_to_store(comes, stored, has_shards, shard_bytes)

    async def _has_shards(self, identity: str) -> bool:
        storage = await self._root.open(identity)
        try:
            names = [name for name in await storage.names() if name.startswith("shard-")]
            return any([await storage.size(name) for name in names])
        finally:
            await storage.close()

    async def whole(self, identity: str) -> Manifest | None:
        """The manifest of a model of which all is stored, by the sizes of the files."""
        manifest = await self.stored_manifest(identity)
        if manifest is None:
            return None
        info, storage = manifest.tokenizer, await self._root.open(identity)
        try:
            if info is not None and await storage.size(TOKENIZER_FILE) != info.bytes:
                return None
            lacking = await ShardStore(manifest, storage, (), self._buffers).missing()
            return None if lacking else manifest
        finally:
            await storage.close()

    async def write(self, storage: Storage, name: str, text: str) -> None:
        """Puts a small file in the place of the one that is there."""
        data = to_js(text.encode())
        await storage.truncate(name, 0)
        await storage.write(name, 0, data)
        await storage.flush(name)

"""Stored models as peers see them, and models that come from peers alone."""

from __future__ import annotations

from doppler.api.host import Amount
from doppler.api.messages import Emit, ProgressEvent
from doppler.api.progress import Progress
from doppler.errors import DopplerError, FormatError
from doppler.page.model_files import ModelFiles
from doppler.page.once import turn
from doppler.page.open_models import OpenModels
from doppler.page.opfs import OpfsRoot, reserve
from doppler.page.peers import listening
from doppler.store.cut import is_same_cut
from doppler.store.manifest import MANIFEST_FILE
from doppler.store.shards import ShardStore
from doppler.store.stored import Origin, read_manifest


class PeerShelf:
    """The `Shelf` of the exchange, over this browser's storage."""

    def __init__(self, root: OpfsRoot, files: ModelFiles, models: OpenModels) -> None:
        self._root, self._files, self._models = root, files, models
        self._exchange = listening(self)

    async def find(self, identity: str) -> ShardStore | None:
        """The store of a model whose manifest is there, whole or not."""
        try:
            manifest = await self._files.manifest(identity)
        except DopplerError:  # it is not there, or damaged: peers may have it
            return None
        return self._models.store(manifest, await self._files.origin(identity, manifest))

    async def adopt(self, identity: str, manifest: bytes) -> ShardStore:
        """Stores a manifest. Raises DopplerError where it is not that identity's."""
        found = read_manifest(manifest, "manifest from peers")
        if found.identity != identity:
            raise FormatError(
                f"peers sent the manifest of another model, {found.identity[:12]}…, for "
                f"{identity[:12]}…"
            )
        await self._write(identity, manifest.decode())
        return self._models.store(found, Origin())

    async def refresh(self, identity: str) -> None:
        """A manifest was stored: tells peers, where the model is shared."""
        await self._exchange.refresh(identity)

    def forget(self, identity: str) -> None:
        """The model was deleted: nothing of it is shared."""
        self._exchange.forget(identity)

    async def download(self, identity: str, amount: Amount, emit: Emit[ProgressEvent]) -> str:
        """Makes a model that the page shares whole, or ready to be loaded where it is larger than
        the budget; returns its identity. It takes as long as peers take.
        """
        shared = await self._exchange.joined(identity)
        store = await shared.opened()
        async with turn(f"model {identity}", emit):
            manifest = await self._files.to_store(store.manifest, amount.shard_bytes)
            if not is_same_cut(manifest, store.manifest):
                await self._write(manifest.identity, manifest.to_json())
                await self.refresh(identity)
                store = await shared.opened()
            most = amount.of(manifest.bytes)
            await reserve(max(most - await store.stored_bytes(), 0), manifest.title)
            if most == manifest.bytes:
                store.blocks.budget = None
                try:
                    await store.download(Progress(emit, "download"))
                finally:
                    await store.rest()
        return identity

    async def _write(self, identity: str, manifest: str) -> None:
        folder = await self._root.make(identity)
        try:
            await self._files.write(folder, MANIFEST_FILE, manifest)
        finally:
            await folder.close()

"""The stores of models that somebody uses: one for each, whoever loads, downloads or shares it.

Two of one model would shut each other out of its files.
"""

from __future__ import annotations

from functools import partial
from weakref import WeakValueDictionary

from doppler.errors import SourceError, StorageError
from doppler.page.buffers import PageBuffers
from doppler.page.http import HttpShards
from doppler.page.opfs import OpfsRoot
from doppler.store.cut import is_same_cut
from doppler.store.manifest import Manifest
from doppler.store.reopening import ReopeningStorage
from doppler.store.shards import ShardStore
from doppler.store.storage import Storage
from doppler.store.stored import Origin


class OpenModels:
    """Stores by identity, each for as long as somebody holds it."""

    def __init__(self, root: OpfsRoot, buffers: PageBuffers) -> None:
        self._root, self._buffers = root, buffers
        self._stores: WeakValueDictionary[str, ShardStore] = WeakValueDictionary()

    def store(self, manifest: Manifest, origin: Origin) -> ShardStore:
        """The store of a model whose folder is there, and which came from there."""
        store = self._stores.get(manifest.identity)
        if store is None or not is_same_cut(store.manifest, manifest):
            storage = ReopeningStorage(partial(self._folder_of, manifest))
            store = ShardStore(manifest, storage, (), self._buffers)
            self._stores[manifest.identity] = store
        _come_from(store, origin)
        return store

    async def rest(self, identity: str) -> None:
        """The model's files are let go until somebody reads them."""
        store = self._stores.get(identity)
        if store is not None:
            await store.rest()

    def changed(self, identity: str) -> None:
        """Other files lie in the model's folder now."""
        store = self._stores.get(identity)
        if store is not None:
            store.blocks.changed()

    def forget(self, identity: str) -> None:
        """The model was deleted: what comes after it begins anew."""
        self._stores.pop(identity, None)

    async def _folder_of(self, manifest: Manifest) -> Storage:
        """Where a model was whose manifest is known. Raises StorageError where it has gone."""
        try:
            return await self._root.open(manifest.identity)
        except SourceError as error:
            raise StorageError(
                f"{manifest.title} is no longer in this browser's storage: it was deleted, perhaps "
                "by another tab; get it again"
            ) from error


def _come_from(store: ShardStore, origin: Origin) -> None:
    """The shards at that address are the one place where they can be had over HTTP."""
    wanted: HttpShards | None = None
    if origin.url is not None:
        wanted = HttpShards(origin.url, origin.served(store.manifest))
    others = list[HttpShards]()
    for known in [it for it in store.scheduler.sources if isinstance(it, HttpShards)]:
        if wanted and known.url == wanted.url and is_same_cut(known.served, wanted.served):
            wanted = None
        else:
            others.append(known)
    if wanted is not None:
        store.scheduler.add(wanted)
    for known in others:  # last: whoever waits for blocks of theirs gets them from the new one
        store.scheduler.drop(known)

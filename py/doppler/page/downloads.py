"""Models that come from an address: their manifest, then what is missing of them."""

from __future__ import annotations

from urllib.parse import urljoin

import js

from doppler.api.host import Amount
from doppler.api.messages import Emit, ProgressEvent
from doppler.api.progress import Progress
from doppler.errors import SourceError
from doppler.page.http import fetch_text
from doppler.page.model_files import ORIGIN_FILE, ModelFiles
from doppler.page.once import turn
from doppler.page.open_models import OpenModels
from doppler.page.opened import OpfsModel
from doppler.page.opfs import OpfsRoot, reserve
from doppler.page.peer_shelf import PeerShelf
from doppler.store.manifest import MANIFEST_FILE, Manifest
from doppler.store.stored import Origin


class Downloads:
    """Into this browser's storage."""

    def __init__(
        self, root: OpfsRoot, files: ModelFiles, models: OpenModels, peers: PeerShelf
    ) -> None:
        self._root, self._files, self._models, self._peers = root, files, models, peers

    async def download(
        self,
        url: str,
        wanted: str | None,
        amount: Amount,
        emit: Emit[ProgressEvent],
    ) -> str:
        """As the library's."""
        address = urljoin(js.location.href, url)
        text = await fetch_text(address, MANIFEST_FILE)
        served = Manifest.from_json(text, address)
        if wanted not in (None, served.identity):
            raise SourceError(
                f"{address}: the model there changed since its download began, so that what is "
                "stored of it cannot be completed: delete that, and get the new one"
            )
        async with turn(f"model {served.identity}", emit) as waited:
            manifest = await self._files.to_store(served, amount.shard_bytes)
            # what is whole is verified, unless it just came
            if not waited or await self._files.whole(served.identity) is None:
                own = text if manifest is served else manifest.to_json()
                most = amount.of(served.bytes)
                await self._prepare(manifest, own, Origin.of(address, served, manifest), most)
                await self._complete(manifest, most, emit)
        return served.identity

    async def _prepare(self, manifest: Manifest, text: str, origin: Origin, most: int) -> None:
        """Writes what says which model it is, and where it came from."""
        kept = await self._files.manifest_data(manifest.identity)
        if kept is None:
            tokenizer = 0 if manifest.tokenizer is None else manifest.tokenizer.bytes
            await reserve(most + tokenizer + len(text), manifest.title)
        folder = await self._root.make(manifest.identity)
        try:
            if kept != text.encode():  # it is damaged, or says another title or cut
                await self._files.write(folder, MANIFEST_FILE, text)
            await self._files.write(folder, ORIGIN_FILE, origin.to_json())
        finally:
            await folder.close()

    async def _complete(self, manifest: Manifest, most: int, emit: Emit[ProgressEvent]) -> None:
        origin = await self._files.origin(manifest.identity, manifest)
        model = OpfsModel(self._models.store(manifest, origin), origin.url)
        try:
            await self._peers.refresh(manifest.identity)
            if manifest.tokenizer is not None:
                await model.tokenizer_bytes(manifest.tokenizer)
            if most == manifest.bytes:
                model.store.blocks.budget = None
                await model.store.download(Progress(emit, "download"))
        finally:
            await model.store.rest()

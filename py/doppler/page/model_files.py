"""Small files of stored models: what each is, and where it came from."""

from __future__ import annotations

from pyodide.ffi import to_js

from doppler.errors import DopplerError, FormatError, SourceError
from doppler.page.opfs import OpfsRoot
from doppler.store.manifest import MANIFEST_FILE, Manifest
from doppler.store.storage import Storage
from doppler.store.stored import read_manifest, read_origin

ORIGIN_FILE = "origin.json"


class ModelFiles:
    """Those of all models in this browser's storage."""

    def __init__(self, root: OpfsRoot) -> None:
        self._root = root

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

    async def origin(self, identity: str) -> tuple[str | None, str | None]:
        """The address that a model came from, and why it is not known though it should be."""
        try:
            return read_origin(await self._root.small(identity, ORIGIN_FILE))
        except DopplerError:
            return read_origin(b"")

    async def write(self, storage: Storage, name: str, text: str) -> None:
        """Puts a small file in the place of the one that is there."""
        data = to_js(text.encode())
        await storage.truncate(name, 0)
        await storage.write(name, 0, data)
        await storage.flush(name)

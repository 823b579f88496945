"""Keys and values of conversations in the browser's storage, as engine/segments.py writes them.

doppler/kv/<identity of a model>/<conversation>/   files of one conversation with that model

They are worth the time in which they would be computed again, and go before anything else does.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import doppler_runtime as runtime

from doppler.engine.segments import SegmentFolder
from doppler.errors import DopplerError
from doppler.page.buffers import PageBuffers
from doppler.page.opfs import KEPT, OpfsStorage, explained, free_bytes

MOST_BYTES = 1 << 30  # of all conversations
MOST_OF_QUOTA = 1 / 4
LEAST_FREE = 16 << 20  # bytes that are left to conversations themselves


class OpfsKept:
    """What is kept of all conversations with all models."""

    def __init__(self) -> None:
        self._buffers = PageBuffers()

    @asynccontextmanager
    async def open(self, identity: str, conversation: str) -> AsyncIterator[SegmentFolder]:
        """What is kept of one; its folder is made where it is missing."""
        path = f"{KEPT}/{identity}/{conversation}"
        with explained(path):
            storage = OpfsStorage(await runtime.openFolder(path, True), path)
        try:
            yield SegmentFolder(storage, self._buffers)
        finally:
            await storage.close()

    async def size(self, identity: str, conversation: str) -> int:
        """Bytes that are kept of it."""
        with explained(KEPT):
            return max(0, int(await runtime.folderSize(f"{KEPT}/{identity}/{conversation}")))

    async def most(self) -> int:
        """Bytes that may be kept."""
        with explained("the size of the storage"):
            told = await runtime.estimate()
        return min(MOST_BYTES, int(told.quota * MOST_OF_QUOTA))

    async def make_room(self, identity: str, conversation: str) -> None:
        """After something was kept of this one, or could not be: what was written longest ago goes,
        until all of it is within bounds, and folders that are empty; and at last this, where nearly
        nothing would be free.
        """
        with explained(KEPT):
            found = await runtime.folderAges(KEPT)
        most = await self.most()
        folders = sorted((it.changed, it.path, int(it.bytes)) for it in found)
        held = sum(size for _, _, size in folders)
        mine = f"{identity}/{conversation}"
        for _, path, size in folders:
            if not size or (held > most and path != mine):
                await self._remove(path)
                held -= size
        if await free_bytes(LEAST_FREE) < LEAST_FREE:
            await self._remove(mine)

    async def forget(self, conversation: str) -> None:
        """Nothing is kept of a conversation any more."""
        with explained(KEPT):
            models = list(await runtime.folders(KEPT))
        for identity in models:
            await self._remove(f"{identity}/{conversation}")

    async def drop(self, identity: str) -> None:
        """Nothing is kept of conversations with that model any more."""
        await self._remove(identity)

    async def _remove(self, path: str) -> None:
        """Where another tab is writing there, it stays until the next time that room is made."""
        *above, name = path.split("/")
        with suppress(DopplerError), explained(path):
            await runtime.removeFolder("/".join([KEPT, *above]), name)

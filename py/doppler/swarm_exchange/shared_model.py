"""One model that is shared: what peers are told of it, what they get, and what comes from them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import Random
from typing import Any, Protocol

from doppler.errors import DopplerError, RequestError, SourceError, StorageError
from doppler.inputs.buffers import Buffer, Buffers
from doppler.inputs.small import LIMITS
from doppler.store.manifest import MANIFEST_FILE, TOKENIZER_FILE
from doppler.store.shards import ShardStore
from doppler.store.sources.source import ShardSource
from doppler.store.stored_blocks import StoredBlocks
from doppler.swarm_exchange.peer_source import PeerSource, Post
from doppler.swarm_exchange.volunteer import Pledge, Sight, Volunteer

LOOK_SECONDS = 1.0  # between two looks at what few have


class Shelf(Protocol):
    """Where models are stored."""

    async def find(self, identity: str) -> ShardStore | None:
        """The store of a model whose manifest is there, whole or not."""
        ...

    async def adopt(self, identity: str, manifest: bytes) -> ShardStore:
        """Stores a manifest. Raises DopplerError where it is not that identity's."""
        ...


class SharedModel:
    """A model that the transport has joined."""

    def __init__(self, identity: str, shelf: Shelf, post: Post, buffers: Buffers) -> None:
        self.identity, self._shelf, self._buffers = identity, shelf, buffers
        self._post = post
        self.source = PeerSource(identity, post)
        self.store: ShardStore | None = None
        self._left = False
        self._news = asyncio.Event()  # the next: a file came, or it cannot be stored, or we left
        self._trouble: DopplerError | None = None
        self._checked = False  # the stored tokenizer
        self._opening = asyncio.Lock()
        self._pledge, self._sight = Pledge(), Sight()
        self._room = self._pledge.room  # as the store was told
        self._volunteer: Volunteer | None = None  # of the store
        self._looking: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Tells what is stored; called again, whatever has changed in another way."""
        try:
            async with self._opening:
                await self._look_up()
                await self._tell()
        finally:
            self._wake()

    async def _look_up(self) -> None:
        try:
            store = await self._shelf.find(self.identity)
            if store is not None and store is not self.store:  # it may be cut in another way now
                await self._attach(store)
        except DopplerError as error:
            self._trouble = error

    async def opened(self) -> ShardStore:
        """Its store, once manifest and tokenizer are there. Raises RequestError where the model is
        left meanwhile, StorageError or SourceError where they cannot be stored: peers are asked for
        them again when this is called again.
        """
        if self._trouble is not None:
            self._trouble = None
            await self.open()
        while True:
            news, store = self._news, self.store
            is_whole = store is not None and await self._has_tokenizer(store)
            if self._left:
                raise RequestError(
                    f"model {self.identity[:12]}… is not shared by this page any more: turn "
                    "sharing on for it again, then get it from peers again"
                )
            if store is not None and store is self.store and is_whole:
                return store
            if self._trouble is not None:
                raise self._trouble
            await news.wait()

    def leave(self) -> None:
        """For good: nothing more is given, nothing comes from peers, and nobody waits for it."""
        self._left = True
        self._detach()
        self._wake()

    def _wake(self) -> None:
        """Whoever waits looks again."""
        self._news.set()
        self._news = asyncio.Event()

    def _detach(self) -> None:
        self._end_looking()
        store, self.store, self._volunteer = self.store, None, None
        if store is not None:
            store.scheduler.took = lambda source, indices, stored: None
            store.blocks.gone = lambda indices: None
            store.blocks.displaces = lambda index: True
            store.scheduler.drop(self.source)

    def lose(self) -> None:
        """Nothing is stored any more."""
        if self.store is not None:
            stored = range(len(self.store.manifest.blocks))
            self._gone([index for index in stored if self.store.blocks.has(index)])

    def keep(self, pledge: Pledge) -> None:
        """What is kept for others from now on; nothing before."""
        self._pledge = pledge
        self._begin_looking()

    def seen(self, copies: bytes, peers: int) -> None:
        """How many of the peers hold each block."""
        self.source.seen(copies)
        self._sight = Sight(copies, peers)
        if self.store is not None:
            self.store.scheduler.look()

    async def read(self, block: int) -> Buffer | None:
        """A block for a peer, verified."""
        try:
            if self.store is None or not 0 <= block < len(self.store.manifest.blocks):
                return None
            return await self.store.given(block)
        except DopplerError:  # storage is gone, or another tab has the file
            return None

    async def read_file(self, name: str, start: int, end: int) -> Buffer | None:
        """Bytes of the manifest or of the tokenizer."""
        store = self.store
        if store is None or name not in (MANIFEST_FILE, TOKENIZER_FILE) or not 0 <= start < end:
            return None
        try:
            if name == TOKENIZER_FILE and not await self._has_tokenizer(store):
                return None
            return await store.storage.read(name, start, end - start)
        except DopplerError:
            return None

    async def write(self, block: int, data: Buffer) -> None:
        """A block that a peer has sent. Where another cut is opened meanwhile, it is for that one:
        nobody else would tell the page what became of the block.
        """
        while (store := self.store) is not None and 0 <= block < len(store.manifest.blocks):
            await store.scheduler.offer(self.source, block, data)
            if store is self.store:
                break

    async def write_file(self, name: str, data: Buffer) -> None:
        """A manifest or a tokenizer that peers have sent: it is what it should be, or nothing."""
        async with self._opening:
            try:
                if await self._take_file(name, data):
                    await self._tell()
                elif not self._left:
                    blame = {"type": "blame", "identity": self.identity, "block": None}
                    self._post({**blame, "file": name}, None, None)
            except DopplerError as error:  # of storage, which is no fault of the peer's
                self._trouble = error
        self._wake()

    async def _take_file(self, name: str, data: Buffer) -> bool:
        if self._left:
            return True
        if name == TOKENIZER_FILE:
            return await self._take_tokenizer(data)
        if name != MANIFEST_FILE or self._buffers.length(data) > LIMITS[MANIFEST_FILE]:
            return False
        if self.store is None:
            try:
                store = await self._shelf.adopt(self.identity, self._buffers.to_bytes(data))
            except (StorageError, SourceError):
                raise
            except DopplerError:
                return False
            await self._attach(store)
        return True

    async def _take_tokenizer(self, data: Buffer) -> bool:
        info = None if self.store is None else self.store.manifest.tokenizer
        if self.store is None or info is None or self._buffers.blake3(data) != info.blake3:
            return False
        storage = self.store.storage
        await storage.truncate(TOKENIZER_FILE, 0)
        await storage.write(TOKENIZER_FILE, 0, data)
        await storage.flush(TOKENIZER_FILE)
        self._checked = True
        return True

    async def _attach(self, store: ShardStore) -> None:
        await store.blocks.ready()
        if self._left:
            return
        self._detach()  # of the one before, now: in between, what peers send would be for none
        self.store = store
        store.scheduler.took = self._took
        store.blocks.gone = self._gone
        store.blocks.displaces = lambda index: not self._is_for_others(index)
        store.scheduler.add(self.source)
        count, now = len(store.manifest.blocks), asyncio.get_running_loop().time
        self._volunteer = Volunteer(count, store.blocks, self.source, now, Random())
        self._begin_looking()

    def _begin_looking(self) -> None:
        self._end_looking()
        if self.store is not None and self._pledge.copies:
            self._looking = asyncio.ensure_future(self._look())

    def _end_looking(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
        if self._volunteer is not None:
            self._volunteer.end()

    async def _look(self) -> None:
        """Gets for others what few have, whenever nobody here waits for anything."""
        while self.store is not None and self._volunteer is not None:
            if not self.store.is_busy:
                self._keep_to_room(self.store.blocks)
                self._volunteer.look(self._pledge, self._sight)
            await asyncio.sleep(LOOK_SECONDS)

    def _keep_to_room(self, blocks: StoredBlocks) -> None:
        """What a person set last counts, and where nobody else said how much may be stored."""
        if blocks.budget is None or self._room != self._pledge.room:
            blocks.budget = self._room = self._pledge.room

    def _is_for_others(self, index: int) -> bool:
        """Whether a block that comes was asked for, and nobody here waits for it."""
        is_awaited = self.store is not None and self.store.scheduler.wants(index)
        asked = self._volunteer is not None and self._volunteer.has_asked(index)
        return asked and not is_awaited

    async def _has_tokenizer(self, store: ShardStore) -> bool:
        """Whether nothing of it is missing; it is hashed once."""
        info = store.manifest.tokenizer
        if info is not None and not self._checked:
            if await store.storage.size(TOKENIZER_FILE) != info.bytes:
                return False
            data = await store.storage.read(TOKENIZER_FILE, 0, info.bytes)
            self._checked = self._buffers.blake3(data) == info.blake3
        return info is None or self._checked

    async def _tell(self) -> None:
        """Which blocks are stored, and how they are cut."""
        layout, have = None, b""
        if self.store is not None:
            try:
                layout, have = await self._layout(self.store), self.store.blocks.bits()
            except DopplerError as error:
                self._trouble = error
        if self._left:
            return
        message = {"type": "model", "identity": self.identity, "layout": layout}
        self._post(message, "have", self._buffers.from_bytes(have))

    async def _can_give_tokenizer(self, store: ShardStore) -> bool:
        try:
            return await self._has_tokenizer(store)
        except DopplerError:  # another tab has the file: peers are asked for it
            return False

    async def _layout(self, store: ShardStore) -> dict[str, Any]:
        manifest, info = store.manifest, store.manifest.tokenizer
        tokenizer = None
        if info is not None:
            tokenizer = {"bytes": info.bytes, "stored": await self._can_give_tokenizer(store)}
        return {
            "block_size": manifest.block_size,
            "bytes": manifest.bytes,
            "shards": [{"name": it.name, "bytes": it.bytes} for it in manifest.shards],
            "manifest_bytes": await store.storage.size(MANIFEST_FILE) or 0,
            "tokenizer": tokenizer,
        }

    def _took(self, source: ShardSource, indices: Sequence[int], stored: bool) -> None:
        """Verified blocks came: peers are told of what they can have."""
        for index in indices:
            self.source.came(index)
            if source is self.source:
                kept = {"stored": stored, "for_others": stored and self._is_for_others(index)}
                message = {"type": "done", "identity": self.identity, "block": index}
                self._post({**message, **kept}, None, None)
            if self._volunteer is not None:
                self._volunteer.came(index, stored=stored)
        if source is not self.source and stored:
            self._post_blocks("have", indices)

    def _gone(self, indices: Sequence[int]) -> None:
        self._post_blocks("lost", indices)

    def _post_blocks(self, kind: str, indices: Sequence[int]) -> None:
        message = {"type": kind, "identity": self.identity, "blocks": list(indices)}
        self._post(message, None, None)

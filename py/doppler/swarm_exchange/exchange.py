"""The worker's end of the port: messages in, and what they do to models that are shared."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from doppler.errors import RequestError
from doppler.inputs.buffers import Buffer, Buffers
from doppler.swarm_exchange.peer_source import Post
from doppler.swarm_exchange.shared_model import SharedModel, Shelf
from doppler.swarm_exchange.volunteer import Pledge

JOIN_SECONDS = 30.0  # in which the transport joins a model that is asked for


class Exchange:
    """Models that are shared, by identity. A message about any other is dropped."""

    def __init__(self, shelf: Shelf, post: Post, buffers: Buffers) -> None:
        self._shelf, self._post, self._buffers = shelf, post, buffers
        self._models: dict[str, SharedModel] = {}
        self._joined = asyncio.Condition()
        self._tasks = set[asyncio.Task[None]]()
        self._opening: dict[str, asyncio.Task[None]] = {}

    def hear(self, message: dict[str, Any], data: Buffer | None) -> None:
        """A message of the page; `data`: its bytes, or the copies of blocks."""
        kind, identity = message["type"], str(message.get("identity"))
        if kind == "closed":
            for name in list(self._models):
                self.leave(name)
        elif kind == "join":
            self._join(identity)
        elif kind == "leave":
            self.leave(identity)
        elif (model := self._models.get(identity)) is not None:
            if kind == "seen":
                model.seen(self._buffers.to_bytes(data), message["peers"])
            elif kind == "keep":
                model.keep(Pledge(message["least"], message["room"]))
            else:
                self._begin(self._answer(model, message, data))
        elif kind in ("read", "read_file"):
            self._post({"type": "data", "id": message["id"]}, "bytes", None)

    def leave(self, identity: str) -> None:
        """The model is shared no more."""
        model = self._models.pop(identity, None)
        if model is not None:
            model.leave()
        if (opening := self._opening.pop(identity, None)) is not None:
            opening.cancel()

    def forget(self, identity: str) -> None:
        """The model was deleted: peers are told that nothing of it is here."""
        if (model := self._models.get(identity)) is not None:
            model.lose()
            self.leave(identity)

    async def joined(self, identity: str) -> SharedModel:
        """A model that the transport has joined, or is about to. Raises RequestError where it does
        not.
        """
        try:
            async with asyncio.timeout(JOIN_SECONDS), self._joined:
                await self._joined.wait_for(lambda: identity in self._models)
        except TimeoutError as error:
            raise RequestError(
                f"model {identity[:12]}… is not shared by this page: turn sharing on for it, then "
                "it can come from peers"
            ) from error
        return self._models[identity]

    async def refresh(self, identity: str) -> None:
        """The model was stored in another way: tells peers, where it is shared."""
        if (model := self._models.get(identity)) is not None:
            await model.open()

    def _join(self, identity: str) -> None:
        model = self._models.get(identity)
        if model is None:
            model = SharedModel(identity, self._shelf, self._post, self._buffers)
            self._models[identity] = model
        self._opening[identity] = self._begin(model.open())
        self._begin(self._tell_waiting())

    async def _tell_waiting(self) -> None:
        async with self._joined:
            self._joined.notify_all()

    async def _answer(self, model: SharedModel, message: dict[str, Any], data: Buffer) -> None:
        if (opening := self._opening.get(model.identity)) is not None:
            await asyncio.wait([opening])
        kind = message["type"]
        if kind == "write":
            await model.write(message["block"], data)
        elif kind == "file":
            await model.write_file(message["name"], data)
        else:
            await self._give(model, message)

    async def _give(self, model: SharedModel, message: dict[str, Any]) -> None:
        """Answers a question, whatever goes wrong: the page waits for it."""
        given: Buffer | None = None
        try:
            if message["type"] == "read":
                given = await model.read(message["block"])
            else:
                given = await model.read_file(message["name"], message["start"], message["end"])
        finally:
            self._post({"type": "data", "id": message["id"]}, "bytes", given)

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

"""Everything that can be asked of Doppler: methods by name, events on the way.

web/runtime/messages.d.ts lists every method, event and result.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from doppler.api.asked import Asked
from doppler.api.host import Host, Stored
from doppler.api.inspection import SeveralModels, inspection, offering, refusal
from doppler.api.model import Model
from doppler.api.request import Room
from doppler.api.timeline import Timeline
from doppler.api.tuner import Tuner
from doppler.api.turns import Turns
from doppler.engine.engine import Engine
from doppler.errors import DeviceError, DopplerError, RequestError
from doppler.gpu.bandwidth import measure_bandwidth
from doppler.gpu.device import Gpu
from doppler.gpu.kernels import Device, Kernels
from doppler.gpu.lanes import forgo_scattered_subgroups
from doppler.gpu.sources import fetch_sources
from doppler.text.answer import Emit

Args = dict[str, Any]
T = TypeVar("T")


class Api:
    """The state of one page: its stored models, its device, and the model that is loaded."""

    def __init__(self, host: Host) -> None:
        self._host, self._library = host, host.library
        self._opened: Device | None = None
        self._model: Model | None = None
        self._loading: str | None = None  # identity
        self._tuner = Tuner()
        self._turns = Turns(self._tuner.turn)
        self._opening = asyncio.Lock()
        self._transfers: set[asyncio.Task[Any]] = set()
        self._methods: dict[str, Callable[[Args, Emit, Any], Awaitable[Any]]] = {
            "device": self._device,
            "storage": self._storage,
            "models": self._models,
            "download": self._download,
            "inspect": self._inspect,
            "import_url": self._import,
            "import_file": self._import,
            "delete": self._delete,
            "load": self._load,
            "unload": self._unload,
            "chat": self._alone(self._chat),
            "complete": self._alone(self._complete),
            "logits": self._alone(self._logits),
            "cancel": self._cancel,
            "tokenize": self._tokenize,
            "tune": self._tune,
            "memory": self._memory,
            "plan": self._alone(self._plan),
            "profile": self._alone(self._profile),
            "bandwidth": self._alone(self._bandwidth),
            "kernels": self._kernel_names,
        }

    async def call(self, method: str, args: Args, emit: Emit, files: Any) -> Any:
        """Runs one method. Raises a DopplerError that is meant for the person who asked."""
        if method not in self._methods:
            raise RequestError(f"{method!r} is not one of {', '.join(sorted(self._methods))}")
        return await self._methods[method](args, emit, files)

    def _alone(
        self, method: Callable[[Args, Emit, Any], Awaitable[Any]]
    ) -> Callable[[Args, Emit, Any], Awaitable[Any]]:
        """Refuses a method that would touch the loaded model while another one does."""
        name = method.__name__.strip("_")

        async def guarded(args: Args, emit: Emit, files: Any) -> Any:
            async with self._turns.turn(name):
                try:
                    return await method(args, emit, files)
                finally:
                    if self._model is not None:
                        self._model.engine.cancellation.forget()

        return guarded

    async def _end_answer(self) -> None:
        """Stops the answer that is being written, if one is, and waits for its end."""
        if self._model is not None:
            await self._turns.instead(self._model.engine.cancellation.ask)

    async def _any_device(self, emit: Emit) -> Device:
        """The device that is open, or one with the limits of the last."""
        async with self._opening:
            return await self._open(self._opened.gpu.asked if self._opened else None, emit)

    async def _device_with(self, limits: dict[str, int] | None, emit: Emit) -> Device:
        async with self._opening:  # the page asks for the device while a model is being loaded
            return await self._open(limits, emit)

    async def _open(self, limits: dict[str, int] | None, emit: Emit) -> Device:
        if self._gpu is not None and (self._gpu.lost is not None or limits != self._gpu.asked):
            self._drop_device(emit)
        if self._opened is None:
            gpu, sources = await asyncio.gather(Gpu.open(limits), fetch_sources())
            opened = Device(gpu, Kernels(gpu, sources))
            await forgo_scattered_subgroups(opened)
            self._opened = opened
        return self._opened

    @property
    def _gpu(self) -> Gpu | None:
        return None if self._opened is None else self._opened.gpu

    def _drop_device(self, emit: Emit) -> None:
        self._drop_model(emit)
        if self._opened is not None:
            self._opened.gpu.destroy()
        self._opened = None

    async def _gpu_or_why_not(self, emit: Emit) -> Gpu | DeviceError:
        try:
            return (await self._any_device(emit)).gpu
        except DeviceError as error:
            return error

    async def _device(self, args: Args, emit: Emit, files: Any) -> Any:
        gpu = await self._gpu_or_why_not(emit)
        if isinstance(gpu, DeviceError):
            return {"ok": False, "problem": str(gpu), "adapter": {}, "features": [], "limits": {}}
        return {
            "ok": True,
            "problem": None,
            "adapter": gpu.info,
            "features": sorted(gpu.features),
            "limits": gpu.limits,
        }

    async def _storage(self, args: Args, emit: Emit, files: Any) -> Any:
        return await self._library.usage()

    async def _models(self, args: Args, emit: Emit, files: Any) -> Any:
        return await self._library.models()

    async def _download(self, args: Args, emit: Emit, files: Any) -> Any:
        url = _text(args, "url")
        wanted = _text(args, "id") if args.get("id") else None
        return {"id": await self._transferred(self._library.download(url, wanted, emit))}

    async def _inspect(self, args: Args, emit: Emit, files: Any) -> Any:
        asked = Asked.of(args, files)
        try:
            candidates, free = await self._transferred(self._library.inspect(asked))
        except SeveralModels as several:
            return offering(several.offers)
        except RequestError:
            raise  # of who asked, not of the model
        except DopplerError as error:
            return refusal(error)
        return await inspection(candidates, await self._gpu_or_why_not(emit), free, args)

    async def _import(self, args: Args, emit: Emit, files: Any) -> Any:
        asked = Asked.of({**args, "id": None}, files)
        return {"id": await self._transferred(self._library.import_given(asked, emit))}

    async def _delete(self, args: Args, emit: Emit, files: Any) -> Any:
        identity = _text(args, "id")
        if self._loading == identity:
            raise RequestError("cannot delete a model while it is being loaded: wait for it")
        if self._has(identity) and not self._turns.answering:
            self._turns.refuse("delete")
        await self._library.delete(identity)  # where it is refused, the answer goes on
        if self._has(identity):
            await self._unload({}, emit, None)
        return {}

    def _has(self, identity: str) -> bool:
        """Whether this model is loaded."""
        return self._model is not None and self._model.manifest.identity == identity

    async def _load(self, args: Args, emit: Emit, files: Any) -> Any:
        """Raises before anything has changed where there is no such model, or no such room."""
        identity = _text(args, "id")
        async with self._library.open(identity) as stored:
            room = Room.of(stored.store.manifest.config, args)
            await self._end_answer()
            async with self._turns.turn("load"):
                self._loading = identity
                try:
                    return await self._load_instead(stored, room, args, emit)
                finally:
                    self._loading = None

    async def _load_instead(self, stored: Stored, room: Room, args: Args, emit: Emit) -> Any:
        timeline = Timeline()
        self._drop_model(emit)
        emit({"type": "progress", "stage": "tokenizer", "done": 0, "total": 1, "rate": 0})
        opening = asyncio.ensure_future(timeline.of("tokenizer", stored.tokenizer()))
        try:
            device = await timeline.of("device", self._device_with(args.get("limits"), emit))
            kept = self._host.kept_cuts(device)
            options = room.options(device.gpu, await kept.read())
            model = await Model.load(device, stored.store, options, emit, timeline)
        finally:
            await asyncio.wait([opening])
        try:
            model.tokenizer = opening.result()
        except BaseException:
            model.unload()
            raise
        self._model = model
        self._tuner.begin(model.engine, kept)
        return {
            **model.describe(),
            "timings": timeline.durations(),
            "timeline": timeline.stages,
        }

    async def _unload(self, args: Args, emit: Emit, files: Any) -> Any:
        await self._end_answer()
        async with self._turns.turn("unload"):
            self._drop_model(emit)
        return {}

    def _drop_model(self, emit: Emit) -> None:
        self._tuner.end()
        if self._model is not None:
            self._model.unload()
            self._model = None
            emit({"type": "unloaded"})

    async def _tune(self, args: Args, emit: Emit, files: Any) -> Any:
        await self._tuner.finished()
        return {}

    async def _chat(self, args: Args, emit: Emit, files: Any) -> Any:
        return await self._running(self._loaded().chat(args, emit, self._host.stops.pending))

    async def _complete(self, args: Args, emit: Emit, files: Any) -> Any:
        return await self._running(self._loaded().complete(args, emit))

    async def _logits(self, args: Args, emit: Emit, files: Any) -> Any:
        model = self._loaded()
        await self._host.load_numpy()
        ids = model.prompt_ids(args)
        batch = args.get("batch") or min(model.engine.batch, len(ids))
        rows = model.logits(ids, batch)
        name = await self._running(self._library.write_scratch("logits.f32", rows))
        return {
            "prompt_ids": ids,
            "rows": len(ids),
            "vocab": model.manifest.config.vocab,
            "file": name,
        }

    async def _plan(self, args: Args, emit: Emit, files: Any) -> Any:
        engine, tokens, batch = self._planned(args)
        return [work.described() for work in engine.work(tokens, batch)]

    async def _profile(self, args: Args, emit: Emit, files: Any) -> Any:
        engine, tokens, batch = self._planned(args)
        timings = await self._running(engine.profile(tokens, batch))
        return [timing.described() for timing in timings]

    def _planned(self, args: Args) -> tuple[Engine, int, int]:
        """The loaded engine, tokens of context, and size of a batch after them."""
        engine = self._loaded().engine
        tokens, batch = int(args.get("tokens", 0)), int(args.get("batch", 1))
        if tokens < 0 or not 1 <= batch <= engine.batch or tokens + batch > engine.context:
            raise RequestError(
                f"{tokens} tokens of context and a batch of {batch} do not fit a model "
                f"loaded for batches of {engine.batch} and a context of {engine.context}"
            )
        return engine, tokens, batch

    async def _bandwidth(self, args: Args, emit: Emit, files: Any) -> Any:
        device = await self._any_device(emit)
        return await self._running(measure_bandwidth(device))

    async def _transferred(self, work: Coroutine[Any, Any, T]) -> T:
        """Awaits a download, import or inspection, which `cancel` may end."""
        task = asyncio.ensure_future(work)
        self._transfers.add(task)
        try:
            return await task
        except asyncio.CancelledError:
            raise RequestError(
                "cancelled: a download goes on from here when it is started again"
            ) from None
        finally:
            self._transfers.discard(task)

    async def _cancel(self, args: Args, emit: Emit, files: Any) -> Any:
        if args.get("what") != "answer":
            for task in self._transfers:
                task.cancel()
        if args.get("what") != "transfers":
            self._host.stops.hear()
            if self._model is not None and self._turns.answering:
                self._model.engine.cancellation.ask()
        return {}

    async def _tokenize(self, args: Args, emit: Emit, files: Any) -> Any:
        return {"ids": self._loaded().prompt_ids(args)}

    async def _memory(self, args: Args, emit: Emit, files: Any) -> Any:
        return self._gpu.memory() if self._gpu is not None else {}

    async def _kernel_names(self, args: Args, emit: Emit, files: Any) -> Any:
        return (await self._any_device(emit)).kernels.names()

    def _loaded(self) -> Model:
        if self._gpu is not None and self._gpu.lost is not None:
            raise DeviceError(f"the GPU device was lost ({self._gpu.lost}): load the model again")
        if self._model is None:
            raise RequestError("no model is loaded: load one first")
        return self._model

    async def _running(self, work: Awaitable[Any]) -> Any:
        """Awaits work on the GPU; ends it with a DeviceError if the device is lost meanwhile."""
        assert self._gpu is not None
        gpu = self._gpu
        task = asyncio.ensure_future(work)
        lost = asyncio.ensure_future(gpu.until_lost())
        try:
            await asyncio.wait({task, lost}, return_when=asyncio.FIRST_COMPLETED)
            if task.done() and gpu.lost is None:
                return task.result()
            task.cancel()
            raise DeviceError(f"the GPU device was lost ({gpu.lost}): load the model again")
        finally:
            lost.cancel()


def _text(args: Args, name: str) -> str:
    value = args.get(name)
    if not isinstance(value, str) or not value:
        raise RequestError(f"{name} must be a text")
    return value

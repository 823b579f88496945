"""Everything that can be asked of Doppler: methods by name, events on the way.

What goes in and comes out is typed in messages.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import wraps
from inspect import iscoroutinefunction
from typing import Any, Concatenate, Never, ParamSpec, TypeVar

from doppler.api.asked import Asked
from doppler.api.foresight import foreseen
from doppler.api.host import Amount, Host, Stored
from doppler.api.inspection import SeveralModels, inspection, offering, refusal
from doppler.api.keeper import Keeper
from doppler.api.loading import load_model
from doppler.api.messages import (
    AnswerEvent,
    BudgetArgs,
    BudgetsSet,
    CancelArgs,
    ChatArgs,
    CompleteArgs,
    ConversationName,
    DamagedModel,
    DeviceReport,
    DownloadArgs,
    Emit,
    Empty,
    FilesTaken,
    ForeseeArgs,
    Foresight,
    FromPeersArgs,
    GenerationResult,
    ImportFileArgs,
    ImportUrlArgs,
    InspectArgs,
    Inspection,
    LoadArgs,
    LoadedModel,
    LogitsArgs,
    LogitsFile,
    Memory,
    ModelId,
    PlanArgs,
    ProgressEvent,
    Prompt,
    ReplaceKernelArgs,
    Residency,
    Routing,
    RunKernelArgs,
    StorageUse,
    StoredModel,
    TokenIds,
    Tuning,
    UnloadedEvent,
)
from doppler.api.model import Model
from doppler.api.paging import Budgets
from doppler.api.request import Room, bytes_asked, conversation_name
from doppler.api.timeline import Timeline
from doppler.api.tuner import Tuner
from doppler.api.turns import Turns
from doppler.engine.engine import Engine
from doppler.engine.footprint import HOST_BUDGET
from doppler.errors import DeviceError, DopplerError, RequestError
from doppler.gpu.bandwidth import Bandwidth, bandwidth_bytes, measure_bandwidth
from doppler.gpu.device import Gpu
from doppler.gpu.kernels import Device, Kernels
from doppler.gpu.lanes import forgo_scattered_subgroups
from doppler.gpu.profile import Timing, Work
from doppler.gpu.sources import fetch_sources
from doppler.weights.read_ahead import StorageRate, measure_reading
from doppler.workbench.replace import replace
from doppler.workbench.report import KernelReport, KernelRun

T = TypeVar("T")
P = ParamSpec("P")


def alone(
    method: Callable[Concatenate[Api, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Api, P], Coroutine[Any, Any, T]]:
    """Refuses a method that would touch the loaded model while another one does."""

    @wraps(method)
    async def guarded(self: Api, /, *args: P.args, **kwargs: P.kwargs) -> T:
        async with self._turns.turn(method.__name__):
            if self._model is not None and self._model.keeper is not None:
                self._model.keeper.stop()
            try:
                return await method(self, *args, **kwargs)
            finally:
                if self._model is not None:
                    self._model.engine.cancellation.forget()

    return guarded


class Api:
    """The state of one page: its stored models, its device, and the model that is loaded.

    Every public coroutine but `call` is a method of the page's protocol: it takes arguments, what
    to tell events, and a JavaScript array of Files or None. Arguments come from anywhere: their
    values need not be what their types say.
    """

    def __init__(self, host: Host) -> None:
        self._host, self._library = host, host.library
        self._opened: Device | None = None
        self._model: Model | None = None
        self._loading: str | None = None  # identity
        self._tuner = Tuner()
        self._turns = Turns(self._tuner.turn)
        self._opening = asyncio.Lock()
        self._transfers: set[asyncio.Task[Any]] = set()

    async def call(self, method: str, args: Any, emit: Callable[[Any], None], files: Any) -> Any:
        """Runs one method. Raises a DopplerError that is meant for the person who asked."""
        if method not in METHODS:
            raise RequestError(f"{method!r} is not one of {', '.join(sorted(METHODS))}")
        return await METHODS[method](self, args, emit, files)

    async def _end_answer(self) -> None:
        """Stops the answer that is being written, if one is, and waits for its end."""
        if self._model is not None:
            await self._turns.instead(self._model.engine.cancellation.ask)

    async def _any_device(self, emit: Emit[UnloadedEvent]) -> Device:
        """The device that is open, or one with the limits of the last."""
        async with self._opening:
            return await self._open(self._opened.gpu.asked if self._opened else None, emit)

    async def _device_with(
        self, limits: dict[str, int] | None, emit: Emit[UnloadedEvent]
    ) -> Device:
        async with self._opening:  # the page asks for the device while a model is being loaded
            return await self._open(limits, emit)

    async def _open(self, limits: dict[str, int] | None, emit: Emit[UnloadedEvent]) -> Device:
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

    def _drop_device(self, emit: Emit[UnloadedEvent]) -> None:
        self._drop_model(emit)
        if self._opened is not None:
            self._opened.gpu.destroy()
        self._opened = None

    async def _gpu_or_why_not(self, emit: Emit[UnloadedEvent]) -> Gpu | DeviceError:
        try:
            return (await self._any_device(emit)).gpu
        except DeviceError as error:
            return error

    async def device(self, args: Empty, emit: Emit[UnloadedEvent], files: Any) -> DeviceReport:
        """What the page has for a GPU."""
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

    async def storage(self, args: Empty, emit: Emit[Never], files: Any) -> StorageUse:
        """How much storage there is."""
        return await self._library.usage()

    async def models(
        self, args: Empty, emit: Emit[Never], files: Any
    ) -> list[StoredModel | DamagedModel]:
        """What is stored, whole or not."""
        return await self._library.models()

    async def download(self, args: DownloadArgs, emit: Emit[ProgressEvent], files: Any) -> ModelId:
        """Goes on where it was cut off."""
        url = _text(args, "url")
        wanted = _text(args, "id") if args.get("id") else None
        work = self._library.download(url, wanted, _amount(args), emit)
        return {"id": await self._transferred(work)}

    async def download_from_peers(
        self, args: FromPeersArgs, emit: Emit[ProgressEvent], files: Any
    ) -> ModelId:
        """Gets a model that the page shares from the peers that have it: its manifest, verified by
        its identity, then the rest. Goes on where it was cut off, and waits for what no peer has.
        """
        identity = _text(args, "id")
        work = self._library.download_from_peers(identity, _amount(args), emit)
        return {"id": await self._transferred(work)}

    async def give_files(self, args: ModelId, emit: Emit[ProgressEvent], files: Any) -> FilesTaken:
        """Stores what `files` have that a stored model lacks: shards of it, in its cut or in that
        of the manifest.json among them, and its tokenizer.json. Every block is verified; downloads
        that run go on with what is left.
        """
        identity = _text(args, "id")
        if not files:
            raise RequestError("give shards of the model, as a list of Files as fourth argument")
        return await self._transferred(self._library.give_files(identity, files, emit))

    async def inspect(self, args: InspectArgs, emit: Emit[UnloadedEvent], files: Any) -> Inspection:
        """What a model is and what it takes, read from headers: of one that is stored, or of what
        import_url or import_file would be given. What is wrong with it is an answer too.
        """
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

    async def import_url(
        self, args: ImportUrlArgs, emit: Emit[ProgressEvent], files: Any
    ) -> ModelId:
        """Converts and stores the model of an address."""
        return await self._import(args, emit, files)

    async def import_file(
        self, args: ImportFileArgs, emit: Emit[ProgressEvent], files: Any
    ) -> ModelId:
        """Converts and stores the model of `files`."""
        return await self._import(args, emit, files)

    async def _import(
        self, args: ImportUrlArgs | ImportFileArgs, emit: Emit[ProgressEvent], files: Any
    ) -> ModelId:
        asked = Asked.of({**args, "id": None}, files)
        return {"id": await self._transferred(self._library.import_given(asked, emit))}

    async def delete(self, args: ModelId, emit: Emit[UnloadedEvent], files: Any) -> Empty:
        """Cancels what the model is answering, and waits for its end."""
        identity = _text(args, "id")
        if self._loading == identity:
            raise RequestError("cannot delete a model while it is being loaded: wait for it")
        model = self._model if self._has(identity) else None
        if model is not None:
            if not self._turns.answering:
                self._turns.refuse("delete")
            if model.engine.offloaded.reads_storage:  # or the answer would open its files again
                await self._end_answer()
            await model.rest()
        await self._library.delete(identity)  # where it is refused, the answer goes on
        if self._has(identity):
            await self.unload({}, emit, None)
        if model is not None and model.keeper is not None:
            await model.keeper.stopped()
        await self._host.kept.drop(identity)
        return {}

    def _has(self, identity: str) -> bool:
        """Whether this model is loaded."""
        return self._model is not None and self._model.manifest.identity == identity

    async def load(
        self, args: LoadArgs, emit: Emit[ProgressEvent | UnloadedEvent], files: Any
    ) -> LoadedModel:
        """Cancels what is being answered, and waits for its end; the model takes the place of the
        one that is loaded. Nothing changes where there is no such model, or no such room.
        """
        identity = _text(args, "id")
        budget = bytes_asked("storage_budget", args.get("storage_budget"))
        async with self._library.open(identity, budget) as stored:
            room = Room.of(stored.store.manifest.config, args)
            await self._end_answer()
            async with self._turns.turn("load"):
                self._loading = identity
                try:
                    return await self._load_instead(stored, room, args, emit)
                finally:
                    self._loading = None

    async def _load_instead(
        self,
        stored: Stored,
        room: Room,
        args: LoadArgs,
        emit: Emit[ProgressEvent | UnloadedEvent],
    ) -> LoadedModel:
        timeline = Timeline()
        await self._rest()
        self._drop_model(emit)
        emit({"type": "progress", "stage": "tokenizer", "done": 0, "total": 1, "rate": 0})
        opening = asyncio.ensure_future(timeline.of("tokenizer", stored.tokenizer()))
        try:
            device = await timeline.of("device", self._device_with(args.get("limits"), emit))
            kept = self._host.kept_cuts(device)
            options = room.options(device.gpu, await kept.read())
            model = await load_model(device, stored.store, options, emit, timeline)
        finally:
            await asyncio.wait([opening])
        try:
            model.tokenizer = opening.result()
        except BaseException:
            model.unload()
            raise
        model.keeper = Keeper(model.engine, self._host.kept, model.manifest.identity)
        self._model = model
        self._tuner.begin(model.engine, kept)
        return model.describe(timeline)

    async def unload(self, args: Empty, emit: Emit[UnloadedEvent], files: Any) -> Empty:
        """Cancels what is being answered, and waits for its end."""
        await self._end_answer()
        async with self._turns.turn("unload"):
            await self._rest()
            self._drop_model(emit)
        return {}

    async def _rest(self) -> None:
        """The loaded model lets its files go, which may be open for a while after they were read:
        whoever deletes it next would be told that they are in use.
        """
        if self._model is not None:
            await self._model.rest()

    def _drop_model(self, emit: Emit[UnloadedEvent]) -> None:
        self._tuner.end()
        if self._model is not None:
            self._model.unload()
            self._model = None
            emit({"type": "unloaded"})

    @alone
    async def chat(self, args: ChatArgs, emit: Emit[AnswerEvent], files: Any) -> GenerationResult:
        """Answers the last of the messages."""
        return await self._running(self._loaded().chat(args, emit, self._host.stops.pending))

    @alone
    async def complete(
        self, args: CompleteArgs, emit: Emit[AnswerEvent], files: Any
    ) -> GenerationResult:
        """Goes on with a prompt; what comes is text in one part."""
        return await self._running(self._loaded().complete(args, emit))

    async def forget(self, args: ConversationName, emit: Emit[Never], files: Any) -> Empty:
        """Removes what is kept of a conversation's keys and values."""
        name = conversation_name(args.get("conversation"))
        if self._model is not None and self._model.keeper is not None:
            await self._model.keeper.stopped()
        await self._host.kept.forget(name)
        return {}

    async def keep(self, args: Empty, emit: Emit[Never], files: Any) -> Empty:
        """Waits for what begins by itself after an answer in a conversation with a name: its keys
        and values are put into storage.
        """
        if self._model is not None and self._model.keeper is not None:
            await self._model.keeper.finished()
        return {}

    async def cancel(self, args: CancelArgs, emit: Emit[Never], files: Any) -> Empty:
        """The running chat or complete ends within one token, with finish_reason "cancelled";
        running downloads and imports end with a RequestError, and a download started again goes on
        from there.
        """
        if args.get("what") != "answer":
            for task in self._transfers:
                task.cancel()
        if args.get("what") != "transfers":
            self._host.stops.hear()
            if self._model is not None and self._turns.answering:
                self._model.engine.cancellation.ask()
        return {}

    async def tokenize(self, args: Prompt, emit: Emit[Never], files: Any) -> TokenIds:
        """A prompt as the loaded model reads it."""
        return {"ids": self._loaded().prompt_ids(args)}

    @alone
    async def logits(self, args: LogitsArgs, emit: Emit[Never], files: Any) -> LogitsFile:
        """Logits of every position of the prompt."""
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

    @alone
    async def routes(self, args: Prompt, emit: Emit[Never], files: Any) -> Routing:
        """The experts that each token of the prompt uses."""
        model = self._loaded()
        ids = model.prompt_ids(args)
        return {"prompt_ids": ids, "tokens": await self._running(model.engine.routes(ids))}

    async def tune(self, args: Empty, emit: Emit[Never], files: Any) -> Tuning:
        """Waits for what begins by itself when a model is loaded: the kernels of matrices whose
        shapes are new to this GPU are measured while nothing else is asked, and the best are used
        from then on.
        """
        await self._tuner.finished()
        return {"refused": self._tuner.refused}

    async def memory(self, args: Empty, emit: Emit[Never], files: Any) -> Memory:
        """What is held on the GPU; nothing where none is open."""
        return self._gpu.memory() if self._gpu is not None else {}

    async def residency(self, args: Empty, emit: Emit[Never], files: Any) -> Residency:
        """Where the loaded model is, by tier and by expert, and what was brought."""
        return await self._running(self._loaded().residency())

    async def set_budgets(self, args: BudgetArgs, emit: Emit[Never], files: Any) -> BudgetsSet:
        """What the loaded model keeps to from now on, while an answer is written too: on the host
        at once, and on the GPU from the next token on.
        """
        model = self._loaded()
        on_gpu, on_host = model.budgets
        if "gpu_budget" in args:
            on_gpu = bytes_asked("gpu_budget", args["gpu_budget"])
        if "host_budget" in args:
            asked = bytes_asked("host_budget", args["host_budget"])
            on_host = HOST_BUDGET if asked is None else asked
        has_room = on_host >= model.engine.offloaded.least
        if has_room:
            model.set_host_budget(on_host)
        is_same = on_gpu == model.budgets.gpu
        if not has_room or not (is_same or model.engine.can_resize):
            return {"load": model.would_move(Budgets(on_gpu, on_host))}
        if is_same:
            return {"load": False}
        if self._turns.answering:
            await self._running(model.set_gpu_budget(on_gpu))
        else:
            async with self._tuner.turn:
                if self._model is model:
                    await self._running(model.set_gpu_budget(on_gpu))
        return {"load": False}

    async def foresee(self, args: ForeseeArgs, emit: Emit[Never], files: Any) -> Foresight:
        """How a model would run within budgets: simulated, before anything of it is loaded."""
        return foreseen(args)

    @alone
    async def plan(self, args: PlanArgs, emit: Emit[Never], files: Any) -> list[Work]:
        """What the dispatches have to do."""
        engine, tokens, batch = self._planned(args)
        return engine.work(tokens, batch)

    @alone
    async def profile(self, args: PlanArgs, emit: Emit[Never], files: Any) -> list[Timing]:
        """The same with the GPU time of each; the KV cache is lost."""
        engine, tokens, batch = self._planned(args)
        return await self._running(engine.profile(tokens, batch))

    def _planned(self, args: PlanArgs) -> tuple[Engine, int, int]:
        """The loaded engine, tokens of context, and size of a batch after them."""
        engine = self._loaded().engine
        tokens, batch = int(args.get("tokens", 0)), int(args.get("batch", 1))
        if tokens < 0 or not 1 <= batch <= engine.batch or tokens + batch > engine.context:
            raise RequestError(
                f"{tokens} tokens of context and a batch of {batch} do not fit a model "
                f"loaded for batches of {engine.batch} and a context of {engine.context}"
            )
        return engine, tokens, batch

    async def bandwidth(self, args: Empty, emit: Emit[UnloadedEvent], files: Any) -> Bandwidth:
        """How fast the GPU reads its memory; takes some seconds, for which others wait. Refused
        where the loaded model's budget has no room for it.
        """
        device = await self._any_device(emit)
        self._turns.refuse("bandwidth")
        if self._model is not None:
            budget = self._model.engine.gpu_budget
            budget.check_room(bandwidth_bytes(device.gpu), "measuring memory")
        async with self._tuner.turn, device.gpu.scope("measuring how fast the GPU reads"):
            return await self._running(measure_bandwidth(device))

    @alone
    async def storage_rate(self, args: Empty, emit: Emit[Never], files: Any) -> StorageRate:
        """How fast the loaded model is read from storage, with nothing done to it."""
        return await measure_reading(self._loaded().store)

    async def kernels(
        self, args: Empty, emit: Emit[UnloadedEvent], files: Any
    ) -> list[KernelReport]:
        """Every WGSL kernel: what it binds, its cases, and how it is compiled now."""
        device = await self._any_device(emit)
        await self._host.load_numpy()  # which cases are made with, and nothing of a start
        from doppler.workbench.console import listed

        return listed(device.kernels)

    @alone
    async def run_kernel(
        self, args: RunKernelArgs, emit: Emit[UnloadedEvent], files: Any
    ) -> KernelRun:
        """Runs a kernel on a case, beside its NumPy twin, or on given arrays. With `source`, that
        text is run instead of the one that the device uses, which stays.
        """
        device = await self._any_device(emit)
        await self._host.load_numpy()
        from doppler.workbench.console import run_kernel

        return await self._running(run_kernel(device, args))

    @alone
    async def replace_kernel(
        self, args: ReplaceKernelArgs, emit: Emit[UnloadedEvent], files: Any
    ) -> Empty:
        """Makes the device that is open use another text, from the loaded model's next token on,
        or the shipped one again. One that does not compile, or binds other things, is refused.
        """
        device = await self._any_device(emit)
        self._tuner.end()  # what it measures is kept with a digest of the texts
        try:
            await self._running(replace(device, args))
            if self._model is not None:
                self._model.engine.renew()
        finally:
            if self._model is not None:
                self._tuner.begin(self._model.engine, self._host.kept_cuts(device))
        return {}

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

    def _loaded(self) -> Model:
        if self._gpu is not None and self._gpu.lost is not None:
            raise DeviceError(f"the GPU device was lost ({self._gpu.lost}): load the model again")
        if self._model is None:
            raise RequestError("no model is loaded: load one first")
        return self._model

    async def _running(self, work: Awaitable[T]) -> T:
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


METHODS: Mapping[str, Callable[..., Awaitable[Any]]] = {
    name: method
    for name, method in vars(Api).items()
    if iscoroutinefunction(method) and not name.startswith("_") and name != "call"
}


def _amount(args: DownloadArgs | FromPeersArgs) -> Amount:
    """What a download is to store. Raises RequestError."""
    return Amount(
        bytes_asked("storage_budget", args.get("storage_budget")),
        bytes_asked("shard_bytes", args.get("shard_bytes")),
    )


def _text(args: Mapping[str, Any], name: str) -> str:
    value = args.get(name)
    if not isinstance(value, str) or not value:
        raise RequestError(f"{name} must be a text")
    return value

"""One loaded model, engine and tokenizer: text in, text out, within budgets that may change."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from doppler.api.keeper import Keeper
from doppler.api.messages import (
    Answered,
    AnswerEvent,
    ChatArgs,
    CompleteArgs,
    Emit,
    GenerationResult,
    LoadedModel,
    Prompt,
    Residency,
)
from doppler.api.paging import Budgets, answered, layers_of, paging_of, paging_since_load
from doppler.api.request import Request, whole_numbers
from doppler.api.results import event, result_of
from doppler.api.timeline import Timeline
from doppler.engine.engine import Engine
from doppler.engine.fit import fits
from doppler.engine.footprint import Options
from doppler.engine.generation import Generation, GenerationConfig
from doppler.errors import RequestError
from doppler.gpu.device import Gpu
from doppler.store.config_fields import data_of
from doppler.store.manifest import Manifest
from doppler.store.shards import ShardStore
from doppler.text.answer import Output
from doppler.text.fitting import fitting
from doppler.text.messages import Conversation
from doppler.text.parts import Reader
from doppler.text.tokenizer import Tokenizer
from doppler.text.tools import Tools

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


class Model:
    """A loaded model. Without a tokenizer it takes and gives token ids only.

    `store` has the weights where they are stored: they can be read for as long as it is loaded.
    """

    def __init__(self, gpu: Gpu, store: ShardStore, engine: Engine, options: Options) -> None:
        self.store, self.engine, self._options = store, engine, options
        self.tokenizer: Tokenizer | None = None  # opened beside the rest of a load
        self.answered: Answered | None = None
        self.keeper: Keeper | None = None  # of keys and values, where they can be kept
        self._gpu = gpu
        self._step = asyncio.Lock()  # held while the engine runs something of an answer
        self._filling: asyncio.Future[None] | None = None  # of the host; None while it answers
        self._fill_host()

    @property
    def manifest(self) -> Manifest:
        return self.store.manifest

    @property
    def budgets(self) -> Budgets:
        """As they were asked for."""
        return Budgets(self._options.gpu_budget, self._options.host_budget)

    async def rest(self) -> None:
        """Lets its files go, where no answer is being written that reads them."""
        filling, self._filling = self._filling, None
        if filling is not None:
            filling.cancel()
            await asyncio.wait([filling])
        await self.engine.offloaded.rest()
        await self.store.rest()

    def unload(self) -> None:
        """Gives the GPU memory back."""
        self._stop_filling()
        if self.keeper is not None:
            self.keeper.stop()
        self.engine.destroy()
        self.store.hasher = None

    async def residency(self) -> Residency:
        """Where it is now, and what was brought. An answer may be written meanwhile."""
        # Both are asked for at once: the model may be unloaded meanwhile.
        counts, layers = await asyncio.gather(self.engine.paging(), self.engine.experts())
        return {
            "memory": self._gpu.memory(),
            "gpu_budget": self._options.gpu_budget,
            "host_budget": self._options.host_budget,
            "host_bytes": 0 if counts is None else counts.host_bytes,
            "host_peak": self.engine.offloaded.peak,
            "bytes": self.manifest.bytes,
            "paging": paging_since_load(counts, self.budgets),
            "last": self.answered,
            "layers": layers_of(layers),
        }

    def set_host_budget(self, budget: int) -> None:
        """Bytes that the host keeps from now on of what is not on the GPU: no less than keys and
        values take that lie there.
        """
        self.engine.offloaded.resize(budget)
        self._options = replace(self._options, host_budget=budget)
        if self._filling is not None:
            self._stop_filling()
            self._fill_host()

    async def set_gpu_budget(self, budget: int | None) -> None:
        """Bytes of the GPU's memory that a mixture with slots keeps to: from now on, or, while an
        answer is written, from its next token on. Raises RequestError where it is too small.
        """
        async with self._step:
            await self.engine.set_gpu_budget(budget)
        self._options = replace(self._options, gpu_budget=budget)

    def would_move(self, budgets: Budgets) -> bool:
        """Whether a load with these would place it otherwise; where it would not, they count.

        Raises DeviceError where it would have no room.
        """
        options = replace(self._options, gpu_budget=budgets.gpu, host_budget=budgets.host)
        wanted = next(fits(self._gpu, self.manifest, options))
        if not self.engine.gpu_budget.is_placed_as(*wanted):
            return True
        self._options = options
        self.engine.keep_to(options)
        return False

    def describe(self, timeline: Timeline) -> LoadedModel:
        """What the page shows of the model, and of its load."""
        return {
            "id": self.manifest.identity,
            "title": self.manifest.title,
            "config": data_of(self.manifest.config),
            "context": self.engine.context,
            "batch": self.engine.batch,
            "kv": self.engine.kv,
            "precision": "f16" if self.engine.adapter.half else "f32",
            "ple": self.engine.table,
            "chat": self.tokenizer is not None and self.tokenizer.chats,
            "chat_problem": None if self.tokenizer is None else self.tokenizer.chat_problem,
            "tokenizer": self.tokenizer is not None,
            "sampling": self.manifest.sampling,
            "memory": self._gpu.memory(),
            "gpu_budget": self._options.gpu_budget,
            "host_budget": self._options.host_budget,
            "timings": timeline.durations(),
            "timeline": timeline.stages,
        }

    async def chat(
        self, args: ChatArgs, emit: Emit[AnswerEvent], stopped: Callable[[], bool] = bool
    ) -> GenerationResult:
        """Answers `messages`; the oldest turns go if they do not fit, never the system prompt.

        stopped: tells of a stop while the prompt is made, when no `cancel` is heard.
        """
        request = Request.from_json(args, self.manifest.sampling)
        conversation = Conversation.from_json(args)
        text = self._text()
        try:
            ids, dropped = fitting(
                conversation,
                lambda part: text.encode_chat(part, stopped),
                self.engine.context,
                request.max_tokens,
            )
        except RequestError:
            if stopped():
                return self._nothing()
            raise
        reader = self._text().reader(ids, Tools.of(conversation.tools))
        result = await self._generate(ids, request, reader, emit)
        return {**result, "dropped_messages": dropped}

    async def complete(self, args: CompleteArgs, emit: Emit[AnswerEvent]) -> GenerationResult:
        """Continues `prompt` or `prompt_ids`; its text is as it comes, in one part."""
        ids = self.prompt_ids(args)
        reader = None if self.tokenizer is None else self.tokenizer.plain_reader(ids)
        return await self._generate(
            ids, Request.from_json(args, self.manifest.sampling), reader, emit
        )

    def prompt_ids(self, args: Prompt) -> list[int]:
        """The ids of `prompt_ids`, `prompt` or `messages`, whichever is there."""
        if args.get("prompt_ids") is not None:
            return whole_numbers("prompt_ids", args["prompt_ids"])
        if args.get("messages") is not None:
            return self._text().encode_chat(Conversation.from_json(args))
        if not isinstance(args.get("prompt"), str):
            raise RequestError("give a prompt: a text as `prompt`, or ids as `prompt_ids`")
        return self._text().encode(args["prompt"])

    def logits(self, ids: Sequence[int], batch: int) -> AsyncIterator[npt.NDArray[np.float32]]:
        """Logits of every position of `ids`, a few rows at a time."""
        return self.engine.logits(ids, batch)

    def _text(self) -> Tokenizer:
        if self.tokenizer is None:
            raise RequestError(
                f"{self.manifest.title} came without a tokenizer: it takes token ids only; "
                "give prompt_ids"
            )
        return self.tokenizer

    async def _generate(
        self, ids: list[int], request: Request, reader: Reader | None, emit: Emit[AnswerEvent]
    ) -> GenerationResult:
        """Drives a sequence: its ids go to the text as they come, and a stop text ends it."""
        self._stop_filling()
        try:
            return await self._answer(ids, request, reader, emit)
        finally:
            await self.engine.offloaded.rest()
            self._fill_host()

    def _fill_host(self) -> None:
        """While nothing is asked for, what may be needed next comes nearer."""
        self._filling = asyncio.ensure_future(self.engine.offloaded.fill())

    def _stop_filling(self) -> None:
        if self._filling is not None:
            self._filling.cancel()
            self._filling = None

    async def _answer(
        self, ids: list[int], request: Request, reader: Reader | None, emit: Emit[AnswerEvent]
    ) -> GenerationResult:
        before = await self.engine.paging()
        name, keeper = request.conversation, self.keeper
        if name is not None and keeper is not None:
            await keeper.restore(name, [*ids, *request.written])
        async with self._step:
            sequence = self.engine.start(ids, self._config(request), request.written)
        output = Output(reader, request.stop, lambda shown: emit(event(shown, output)))
        output.repeat(request.written)
        if output.stopped:
            sequence.stop(output.count)
        while sequence.state == "prefill":
            async with self._step:
                await sequence.step()
            done, total = sequence.prefill_progress
            emit({"type": "prefill", "done": done, "total": total})
        between = await self.engine.paging()
        while sequence.state == "decode":
            async with self._step:
                tokens = await sequence.step()
            for token in tokens:
                output.push(token)
                if output.stopped:
                    sequence.stop(output.count)
                    break
        output.finish()
        if name is not None and keeper is not None:
            keeper.begin(name, len(ids))
        async with self._step:  # or what else uses the model next would run beside a change
            result, after = sequence.result(), await self.engine.paging()
        counts = len(ids) - result.reused_tokens, len(result.ids)
        self.answered = answered(counts, (before, between, after), self.budgets)
        paging = paging_of(before, after, self.budgets)
        return result_of(output, ids, result, paging, self._gpu.memory())

    def _config(self, request: Request) -> GenerationConfig:
        info = self.manifest.tokenizer
        ends = frozenset() if info is None or request.ignore_eos else frozenset(info.eos)
        return GenerationConfig(request.sampling, request.max_tokens, ends, request.speculate)

    def _nothing(self) -> GenerationResult:
        """The answer that was stopped before it began."""
        output = Output(None, (), lambda shown: None)
        return result_of(output, [], Generation([], "cancelled"), None, self._gpu.memory())

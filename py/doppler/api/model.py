"""One loaded model: stored shards -> weights, engine and tokenizer; text in, text out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING

from doppler.api.messages import (
    AnswerEvent,
    ChatArgs,
    CompleteArgs,
    Emit,
    GenerationResult,
    LoadedModel,
    ProgressEvent,
    Prompt,
    TokenEvent,
)
from doppler.api.progress import Progress
from doppler.api.request import Request
from doppler.api.timeline import Timeline
from doppler.engine.build import Options, build
from doppler.engine.engine import Engine
from doppler.engine.generation import Generation, GenerationConfig
from doppler.errors import RequestError
from doppler.gpu.device import Gpu
from doppler.gpu.kernels import Device
from doppler.store.manifest import Manifest
from doppler.store.shards import ShardStore
from doppler.text.answer import Output, Shown
from doppler.text.fitting import fitting
from doppler.text.messages import Conversation
from doppler.text.parts import Reader
from doppler.text.tokenizer import Tokenizer
from doppler.weights.upload import prepare_upload, upload_weights

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


class _Compiling(Progress):
    """Progress of compiling, silent until it is what the load waits for."""

    def __init__(self, emit: Emit[ProgressEvent]) -> None:
        super().__init__(emit, "compile")
        self._waited_for = False

    def begin(self) -> None:
        self._waited_for = True

    def __call__(self, done: int, total: int) -> None:
        if self._waited_for:
            super().__call__(done, total)


class Model:
    """A loaded model. Without a tokenizer it takes and gives token ids only.

    `store` has the weights where they are stored: they can be read for as long as it is loaded.
    """

    def __init__(self, gpu: Gpu, store: ShardStore, engine: Engine) -> None:
        self.store, self.engine = store, engine
        self.tokenizer: Tokenizer | None = None  # opened beside the rest of a load
        self._gpu = gpu

    @classmethod
    async def load(
        cls,
        device: Device,
        store: ShardStore,
        options: Options,
        emit: Emit[ProgressEvent],
        timeline: Timeline,
    ) -> Model:
        """Makes room, then uploads verified weights while the kernels are compiled."""
        with timeline.stage("memory"):
            engine = await build(device, store.manifest, options)
        engine.feed(store)
        try:
            await _fill(engine, store, emit, timeline)
        except BaseException:
            engine.destroy()
            raise
        return cls(device.gpu, store, engine)

    @property
    def manifest(self) -> Manifest:
        return self.store.manifest

    def unload(self) -> None:
        """Gives the GPU memory back."""
        self.engine.destroy()

    def describe(self, timeline: Timeline) -> LoadedModel:
        """What the page shows of the model, and of its load."""
        return {
            "id": self.manifest.identity,
            "title": self.manifest.title,
            "config": self.manifest.config.to_json(),
            "context": self.engine.context,
            "batch": self.engine.batch,
            "kv": "f16" if self.engine.half_cache else "f32",
            "precision": "f16" if self.engine.adapter.half else "f32",
            "ple": self.engine.table,
            "chat": self.tokenizer is not None and self.tokenizer.chats,
            "chat_problem": None if self.tokenizer is None else self.tokenizer.chat_problem,
            "tokenizer": self.tokenizer is not None,
            "memory": self._gpu.memory(),
            "timings": timeline.durations(),
            "timeline": timeline.stages,
        }

    async def chat(
        self, args: ChatArgs, emit: Emit[AnswerEvent], stopped: Callable[[], bool] = bool
    ) -> GenerationResult:
        """Answers `messages`; the oldest turns go if they do not fit, never the system prompt.

        stopped: tells of a stop while the prompt is made, when no `cancel` is heard.
        """
        request = Request.from_json(args)
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
        result = await self._generate(ids, request, self._text().reader(ids), emit)
        return {**result, "dropped_messages": dropped}

    async def complete(self, args: CompleteArgs, emit: Emit[AnswerEvent]) -> GenerationResult:
        """Continues `prompt` or `prompt_ids`; its text is as it comes, in one part."""
        ids = self.prompt_ids(args)
        reader = None if self.tokenizer is None else self.tokenizer.plain_reader(ids)
        return await self._generate(ids, Request.from_json(args), reader, emit)

    def prompt_ids(self, args: Prompt) -> list[int]:
        """The ids of `prompt_ids`, `prompt` or `messages`, whichever is there."""
        if args.get("prompt_ids") is not None:
            ids = args["prompt_ids"]
            if not isinstance(ids, list) or not all(type(i) is int for i in ids):
                raise RequestError("prompt_ids must be a list of whole numbers")
            return list(ids)
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
        sequence = self.engine.start(ids, self._config(request))
        output = Output(reader, request.stop, lambda shown: emit(_token(shown)))
        while sequence.state == "prefill":
            await sequence.step()
            done, total = sequence.prefill_progress
            emit({"type": "prefill", "done": done, "total": total})
        while sequence.state == "decode":
            for token in await sequence.step():
                output.push(token)
                if output.stopped:
                    sequence.stop(output.count)
                    break
        output.finish()
        return self._result(output, ids, sequence.result())

    def _config(self, request: Request) -> GenerationConfig:
        info = self.manifest.tokenizer
        ends = frozenset() if info is None or request.ignore_eos else frozenset(info.eos)
        return GenerationConfig(request.sampling, request.max_tokens, ends, request.speculate)

    def _nothing(self) -> GenerationResult:
        """The answer that was stopped before it began."""
        output = Output(None, (), lambda shown: None)
        return self._result(output, [], Generation([], "cancelled"))

    def _result(self, output: Output, ids: list[int], result: Generation) -> GenerationResult:
        return {
            "text": output.text,
            "reasoning_content": output.reasoning,
            "finish_reason": result.finish_reason,
            "prompt_ids": ids,
            "generated_ids": result.ids,
            "reused_tokens": result.reused_tokens,
            "dropped_messages": 0,
            "drafts": {"batches": result.batches, "tokens": result.batch_tokens},
            "timings": {
                "ttft_ms": result.ttft_ms,
                "prefill_tok_s": result.prefill_tok_s,
                "decode_tok_s": result.decode_tok_s,
            },
            "memory": self._gpu.memory(),
        }


async def _fill(
    engine: Engine, store: ShardStore, emit: Emit[ProgressEvent], timeline: Timeline
) -> None:
    """Uploads the weights, and compiles the kernels meanwhile."""
    compiled = _Compiling(emit)
    with timeline.stage("weights"):
        on_gpu = await prepare_upload(engine.binder.device, engine.weights, store)
        compiling = asyncio.ensure_future(timeline.of("compile", engine.prepare(compiled)))
        try:
            progress = Progress(emit, "verify")
            await upload_weights(engine.binder, engine.weights, store, on_gpu, progress)
        except BaseException:
            await asyncio.wait([compiling])
            raise
    compiled.begin()
    await compiling


def _token(shown: Shown) -> TokenEvent:
    return {
        "type": "token",
        "id": shown.token,
        "text": shown.text,
        "n": shown.count,
        "part": shown.part,
    }

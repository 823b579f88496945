"""One loaded model: stored shards -> weights, engine and tokenizer; text in, text out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from doppler.buffers import Buffers
from doppler.config import ModelConfig
from doppler.engine import Engine, Generation, adapter_of
from doppler.errors import RequestError
from doppler.gpu import Gpu
from doppler.kernels import Kernels
from doppler.manifest import Manifest
from doppler.memory import EngineMemory
from doppler.progress import Progress
from doppler.sampler import Sampling
from doppler.shards import ShardStore
from doppler.speculate import MODES, Speculate
from doppler.timeline import Timeline
from doppler.tokenizer import StopText, TextStream, Tokenizer
from doppler.tuning import Cut, Cuts
from doppler.upload import prepare_upload, upload_weights
from doppler.weights import allocate_weights

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

DEFAULT_CONTEXT = 4096
DEFAULT_BATCH = 512
ANSWER_ROOM = 256  # tokens kept free for the answer when old messages are dropped

Emit = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Request:
    """What a generation is asked to do beyond its prompt."""

    sampling: Sampling
    max_tokens: int
    stop: tuple[str, ...]
    ignore_eos: bool  # go on past end tokens, to compare with references that do
    speculate: Speculate

    @classmethod
    def from_json(cls, args: dict[str, Any]) -> Request:
        """Raises RequestError for values out of range."""
        max_tokens = args.get("max_tokens", 512)
        if type(max_tokens) is not int or max_tokens < 1:
            raise RequestError(f"max_tokens is {max_tokens!r}; it must be a whole number above 0")
        stop = args.get("stop") or []
        if not isinstance(stop, list) or not all(isinstance(text, str) for text in stop):
            raise RequestError("stop must be a list of texts")
        speculate = args.get("speculate", "auto")
        if speculate not in MODES:
            raise RequestError(
                f"speculate is {speculate!r:.60}; it must be one of {', '.join(MODES)}"
            )
        return cls(
            Sampling.from_json(args.get("sampling") or {}),
            max_tokens,
            tuple(stop),
            bool(args.get("ignore_eos")),
            speculate,
        )


@dataclass(frozen=True)
class Room:
    """How many tokens a loaded model has room for, and with how many bits it computes.

    context: tokens in the KV cache; batch: in a prefill batch. kv: "f16" or "f32", what keys and
    values are kept as; precision: the same of what weights and activations are multiplied as
    (sums are f32). None leaves it to the adapter. adapter: what to take that for, in tests.
    """

    context: int
    batch: int
    kv: str | None = None
    precision: str | None = None
    adapter: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, config: ModelConfig, args: Mapping[str, Any]) -> Room:
        """What was asked for, or the defaults for None. Raises RequestError out of range."""
        for name in ("kv", "precision"):
            if args.get(name) not in (None, "f16", "f32"):
                raise RequestError(f"{name} is {args[name]!r:.60}; it can be f16 or f32")
        length = _within("context", args.get("context"), 2, config.context, DEFAULT_CONTEXT)
        most = max(config.context, DEFAULT_BATCH)
        batch = min(_within("batch", args.get("batch"), 1, most, DEFAULT_BATCH), length)
        taken_for = args.get("adapter") or {}
        if not isinstance(taken_for, dict) or taken_for.keys() - {"is_cpu", "subgroup_size"}:
            raise RequestError("adapter must be an object with is_cpu and subgroup_size, or one")
        return cls(length, batch, args.get("kv"), args.get("precision"), taken_for)

    def half_cache(self, gpu: Gpu) -> bool:
        """Whether keys and values are kept as f16: on a CPU, that would only cost time."""
        return not gpu.is_cpu if self.kv is None else self.kv == "f16"

    def half_products(self, gpu: Gpu) -> bool:
        """Whether products are of f16. Raises RequestError where the adapter has none."""
        can = "shader-f16" in gpu.features
        if self.precision == "f16" and not can:
            raise RequestError("precision is f16, and this adapter lacks shader-f16: ask for f32")
        return can and not gpu.is_cpu if self.precision is None else self.precision == "f16"


class KnownCuts(Protocol):
    """Where what was measured of a device is kept."""

    async def read(self) -> dict[str, Cut]:
        """What is known; nothing for a new device."""
        ...

    async def write(self, cuts: Cuts) -> None:
        """Keeps what is known."""
        ...


class _Compiling(Progress):
    """Progress of compiling, silent until it is what the load waits for."""

    def __init__(self, emit: Emit) -> None:
        super().__init__(emit, "compile")
        self._waited_for = False

    def begin(self) -> None:
        self._waited_for = True

    def __call__(self, done: int, total: int) -> None:
        if self._waited_for:
            super().__call__(done, total)


class Model:
    """A loaded model. Without a tokenizer it takes and gives token ids only."""

    def __init__(self, gpu: Gpu, manifest: Manifest, engine: Engine) -> None:
        self.manifest, self.engine = manifest, engine
        self.tokenizer: Tokenizer | None = None  # opened beside the rest of a load
        self._gpu = gpu

    @classmethod
    async def load(
        cls,
        gpu: Gpu,
        kernels: Kernels,
        store: ShardStore,
        buffers: Buffers,
        room: Room,
        emit: Emit,
        timeline: Timeline,
        kept: KnownCuts,
    ) -> Model:
        """Makes room, then uploads verified weights while the kernels are compiled.

        A device that is new to the model's shapes is measured then.
        """
        manifest = store.manifest
        cuts = await kept.read()
        with ExitStack() as undo:
            with timeline.stage("memory"):
                async with gpu.scope("room for the weights"):
                    weights = allocate_weights(gpu, manifest)
                    undo.callback(weights.destroy)
                async with gpu.scope("KV cache and activations"):
                    memory = EngineMemory(
                        gpu, manifest.config, room.context, room.batch, room.half_cache(gpu)
                    )
                    undo.callback(memory.destroy)
                    adapter = adapter_of(gpu, room.half_products(gpu), room.adapter)
                    engine = Engine(gpu, kernels, manifest.config, weights, memory, adapter, cuts)
            told = _Compiling(emit)
            progress = Progress(emit, "verify")
            with timeline.stage("weights"):
                size = manifest.block_size
                on_gpu = await prepare_upload(gpu, kernels, weights, size, buffers)
                compiling = asyncio.ensure_future(timeline.of("compile", engine.prepare(told)))
                try:
                    await upload_weights(
                        gpu, kernels, weights, manifest, store, buffers, on_gpu, progress
                    )
                except BaseException:
                    await asyncio.wait([compiling])
                    raise
            told.begin()
            await compiling
            if engine.can_tune:
                await kept.write(await timeline.of("tune", engine.tune()))
            undo.pop_all()
        return cls(gpu, manifest, engine)

    def unload(self) -> None:
        """Gives the GPU memory back."""
        self.engine.destroy()

    def describe(self) -> dict[str, Any]:
        """What the page shows of a loaded model."""
        return {
            "id": self.manifest.identity,
            "title": self.manifest.title,
            "config": self.manifest.config.to_json(),
            "context": self.engine.context,
            "batch": self.engine.batch,
            "kv": "f16" if self.engine.half_cache else "f32",
            "precision": "f16" if self.engine.adapter.half else "f32",
            "chat": self.tokenizer is not None and self.tokenizer.chats,
            "tokenizer": self.tokenizer is not None,
            "memory": self._gpu.memory(),
        }

    async def chat(self, args: dict[str, Any], emit: Emit) -> dict[str, Any]:
        """Answers `messages`; the oldest turns go if they do not fit, never the system prompt."""
        request = Request.from_json(args)
        messages = _messages(args.get("messages"))
        ids, dropped = self._fit(messages, request.max_tokens)
        result = await self._generate(ids, request, emit)
        return {**result, "dropped_messages": dropped}

    async def complete(self, args: dict[str, Any], emit: Emit) -> dict[str, Any]:
        """Continues `prompt` or `prompt_ids`."""
        result = await self._generate(self.prompt_ids(args), Request.from_json(args), emit)
        return {**result, "dropped_messages": 0}

    def prompt_ids(self, args: dict[str, Any]) -> list[int]:
        """The ids of `prompt_ids`, `prompt` or `messages`, whichever is there."""
        if args.get("prompt_ids") is not None:
            ids = args["prompt_ids"]
            if not isinstance(ids, list) or not all(type(i) is int for i in ids):
                raise RequestError("prompt_ids must be a list of whole numbers")
            return list(ids)
        if args.get("messages") is not None:
            return self._text().encode_chat(_messages(args["messages"]))
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

    def _fit(self, messages: list[dict[str, str]], max_tokens: int) -> tuple[list[int], int]:
        """Ids of as many of the latest messages as leave room for an answer, and how many went."""
        context = self.engine.context
        room = context - min(max_tokens, ANSWER_ROOM, context // 4)
        system = messages[:1] if messages[0]["role"] == "system" else []
        turns = messages[len(system) :]
        dropped = 0
        while True:
            ids = self._text().encode_chat(system + turns[dropped:])
            if len(ids) <= room:
                return ids, dropped
            following = _next_turn(turns, dropped)
            if following is None:
                if len(ids) < context:
                    return ids, dropped  # a short answer is better than none
                raise RequestError(
                    f"the last message has {len(ids)} tokens with the system prompt, and the "
                    f"context holds {context}: shorten it, or load the model with a longer context"
                )
            dropped = following

    async def _generate(self, ids: list[int], request: Request, emit: Emit) -> dict[str, Any]:
        info = self.manifest.tokenizer
        ends = set() if info is None or request.ignore_eos else set(info.eos)
        output = _Output(self.tokenizer, ids, request.stop, ends, emit)
        result = await self.engine.generate(
            ids,
            request.sampling,
            request.max_tokens,
            output.accept,
            lambda done, total: emit({"type": "prefill", "done": done, "total": total}),
            request.speculate,
        )
        output.finish()
        return {
            "text": output.text,
            "finish_reason": result.finish_reason,
            "prompt_ids": ids,
            "generated_ids": result.ids,
            "reused_tokens": result.reused_tokens,
            "drafts": {"batches": result.batches, "tokens": result.batch_tokens},
            "timings": _timings(result),
            "memory": self._gpu.memory(),
        }


class _Output:
    """Generated ids -> text that is shown as it comes, up to an end token or a stop text."""

    def __init__(
        self,
        tokenizer: Tokenizer | None,
        prompt: Sequence[int],
        stop: Sequence[str],
        ends: set[int],
        emit: Emit,
    ) -> None:
        self.text = ""
        self._stream = None if tokenizer is None else TextStream(tokenizer.decode, prompt)
        self._stop = StopText(stop)
        self._ends, self._emit = ends, emit
        self._count = 0

    def accept(self, token: int) -> bool:
        """Shows the token's text; False when it ends the answer."""
        if token in self._ends:
            return False
        self._count += 1
        self._show(token, "" if self._stream is None else self._stream.push(token))
        return not self._stop.stopped

    def finish(self) -> None:
        """Shows what was held back."""
        tail = "" if self._stream is None else self._stream.finish()
        rest = self._stop.push(tail) + self._stop.finish()
        if rest:
            self._say(None, rest)

    def _show(self, token: int, piece: str) -> None:
        self._say(token, self._stop.push(piece))

    def _say(self, token: int | None, piece: str) -> None:
        self.text += piece
        self._emit({"type": "token", "id": token, "text": piece, "n": self._count})


def _within(name: str, value: Any, least: int, most: int, default: int) -> int:
    """A number of tokens; None means the default, or the most where that is less."""
    if value is None:
        return min(default, most)
    if type(value) is not int or not least <= value <= most:
        raise RequestError(
            f"{name} is {value!r:.60}; this model can be loaded with {least} to {most} tokens"
        )
    return value


def _messages(value: Any) -> list[dict[str, str]]:
    """Checked chat messages. Raises RequestError for anything else."""
    if not isinstance(value, list) or not value:
        raise RequestError("messages must be a list of at least one {role, content}")
    for index, message in enumerate(value):
        fine = isinstance(message, dict) and all(
            isinstance(message.get(key), str) for key in ("role", "content")
        )
        if not fine:
            raise RequestError(f"message {index} must have a text as role and one as content")
    return [{"role": m["role"], "content": m["content"]} for m in value]


def _next_turn(turns: Sequence[dict[str, str]], start: int) -> int | None:
    """Index of the first user message after `start`, or None when there is no later one."""
    later = (i for i in range(start + 1, len(turns)) if turns[i]["role"] == "user")
    return next(later, None)


def _timings(result: Generation) -> dict[str, float]:
    values = asdict(result)
    return {name: values[name] for name in ("ttft_ms", "prefill_tok_s", "decode_tok_s")}

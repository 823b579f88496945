"""What a person or program asks of a model, checked: the room to load it with, and generations."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from doppler.api.messages import AdapterOverride, Bits, GenerateArgs, RoomArgs
from doppler.config.model import ModelConfig
from doppler.engine.footprint import HOST_BUDGET, Options, TablePlace
from doppler.engine.speculate import MODES, Speculate
from doppler.errors import RequestError
from doppler.gpu.device import Gpu
from doppler.plan.cache import CacheType
from doppler.plan.matvec_configs import Cuts
from doppler.sampling import ModelSampling, Sampling

DEFAULT_CONTEXT = 4096
DEFAULT_BATCH = 512
NAME = re.compile("[0-9A-Za-z-]{1,64}")


@dataclass(frozen=True)
class Request:
    """What a generation is asked to do beyond its prompt."""

    sampling: Sampling
    max_tokens: int
    stop: tuple[str, ...]
    ignore_eos: bool  # go on past end tokens, to compare with references that do
    speculate: Speculate
    written: tuple[int, ...] = ()  # ids of the answer before it was cut off
    conversation: str | None = None  # under which keys and values are kept

    @classmethod
    def from_json(cls, args: GenerateArgs, model: ModelSampling) -> Request:
        """Raises RequestError for values out of range. `model` is for what is not asked for."""
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
            Sampling.from_json(args.get("sampling") or {}, model),
            max_tokens,
            tuple(stop),
            bool(args.get("ignore_eos")),
            speculate,
            tuple(whole_numbers("written", args.get("written") or [])),
            None if args.get("conversation") is None else conversation_name(args["conversation"]),
        )


BUDGETS: tuple[Literal["gpu_budget", "host_budget"], ...] = ("gpu_budget", "host_budget")


@dataclass(frozen=True)
class Room:
    """How many tokens a loaded model has room for, and with how many bits it computes.

    context: tokens in the KV cache; batch: in a prefill batch. kv: what keys and values are kept
    as; precision: what weights and activations are multiplied as (sums are f32). None leaves it to
    the adapter. ple: where embeddings are that layers have of their own. gpu_budget, host_budget:
    bytes. adapter: what to take that for, in tests.
    """

    context: int
    batch: int
    kv: CacheType | None = None
    precision: Bits | None = None
    ple: TablePlace = "auto"
    gpu_budget: int | None = None
    host_budget: int | None = None
    adapter: AdapterOverride = field(default_factory=AdapterOverride)

    @classmethod
    def of(cls, config: ModelConfig, args: RoomArgs) -> Room:
        """What was asked for, or the defaults for None. Raises RequestError out of range."""
        _one_of("kv", args.get("kv"), get_args(CacheType))
        _one_of("precision", args.get("precision"), get_args(Bits))
        ple = args.get("ple") or "auto"
        _one_of("ple", ple, get_args(TablePlace))
        on_gpu, on_host = (bytes_asked(name, args.get(name)) for name in BUDGETS)
        length = _within("context", args.get("context"), 2, config.context, DEFAULT_CONTEXT)
        most = max(config.context, DEFAULT_BATCH)
        batch = min(_within("batch", args.get("batch"), 1, most, DEFAULT_BATCH), length)
        taken_for = args.get("adapter") or {}
        if not isinstance(taken_for, dict) or taken_for.keys() - AdapterOverride.__annotations__:
            raise RequestError("adapter must be an object with is_cpu and subgroup_size, or one")
        return cls(
            length, batch, args.get("kv"), args.get("precision"), ple, on_gpu, on_host, taken_for
        )

    def options(self, gpu: Gpu, cuts: Cuts) -> Options:
        """What is built on a device. Raises RequestError for f16 products where it has none."""
        # As f16, keys and values would only cost a CPU time.
        kv: CacheType = self.kv or ("f32" if gpu.is_cpu else "f16")
        half = self._half_products(gpu)
        room = self.context, self.batch, kv, half, self.ple
        host = HOST_BUDGET if self.host_budget is None else self.host_budget
        return Options(*room, self.gpu_budget, host, taken_for=self.adapter, cuts=cuts)

    def _half_products(self, gpu: Gpu) -> bool:
        can = "shader-f16" in gpu.features
        if self.precision == "f16" and not can:
            raise RequestError("precision is f16, and this adapter lacks shader-f16: ask for f32")
        return can and not gpu.is_cpu if self.precision is None else self.precision == "f16"


def bytes_asked(name: str, value: Any) -> int | None:
    """A budget in bytes; None stays that."""
    if value is not None and (type(value) is not int or value < 0):
        raise RequestError(f"{name} is {value!r:.60}; it must be a number of bytes")
    return value


def _one_of(name: str, value: object, known: Sequence[str]) -> None:
    """Raises RequestError for a value that is neither None nor known."""
    if value not in (None, *known):
        raise RequestError(f"{name} is {value!r:.60}; it can be {', '.join(known)}")


def whole_numbers(name: str, value: Any) -> list[int]:
    """A list of ids. Raises RequestError for anything else."""
    if not isinstance(value, list) or not all(type(i) is int for i in value):
        raise RequestError(f"{name} must be a list of whole numbers")
    return list(value)


def conversation_name(value: Any) -> str:
    """The name of a conversation, which is one of a folder. Raises RequestError for another."""
    if not isinstance(value, str) or not NAME.fullmatch(value):
        raise RequestError(
            f"conversation is {value!r:.60}; it must be a name of 1 to 64 letters, digits and -"
        )
    return value


def _within(name: str, value: Any, least: int, most: int, default: int) -> int:
    """A number of tokens; None means the default, or the most where that is less."""
    if value is None:
        return min(default, most)
    if type(value) is not int or not least <= value <= most:
        raise RequestError(
            f"{name} is {value!r:.60}; this model can be loaded with {least} to {most} tokens"
        )
    return value

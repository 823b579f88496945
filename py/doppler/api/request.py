"""What a person or program asks of a model, checked: the room to load it with, and generations."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, get_args

from doppler.api.messages import AdapterOverride, Bits, GenerateArgs, RoomArgs
from doppler.config.model import ModelConfig
from doppler.engine.build import Options, TablePlace
from doppler.engine.speculate import MODES, Speculate
from doppler.errors import RequestError
from doppler.gpu.device import Gpu
from doppler.plan.matvec_configs import Cuts
from doppler.sampling import Sampling

DEFAULT_CONTEXT = 4096
DEFAULT_BATCH = 512


@dataclass(frozen=True)
class Request:
    """What a generation is asked to do beyond its prompt."""

    sampling: Sampling
    max_tokens: int
    stop: tuple[str, ...]
    ignore_eos: bool  # go on past end tokens, to compare with references that do
    speculate: Speculate

    @classmethod
    def from_json(cls, args: GenerateArgs) -> Request:
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
    (sums are f32). None leaves it to the adapter. ple: where embeddings are that layers have of
    their own. adapter: what to take that for, in tests.
    """

    context: int
    batch: int
    kv: Bits | None = None
    precision: Bits | None = None
    ple: TablePlace = "auto"
    adapter: AdapterOverride = field(default_factory=AdapterOverride)

    @classmethod
    def of(cls, config: ModelConfig, args: RoomArgs) -> Room:
        """What was asked for, or the defaults for None. Raises RequestError out of range."""
        for name in ("kv", "precision"):
            if args.get(name) not in (None, "f16", "f32"):
                raise RequestError(f"{name} is {args[name]!r:.60}; it can be f16 or f32")
        ple = args.get("ple") or "auto"
        if ple not in get_args(TablePlace):
            raise RequestError(f"ple is {ple!r:.60}; it can be {', '.join(get_args(TablePlace))}")
        length = _within("context", args.get("context"), 2, config.context, DEFAULT_CONTEXT)
        most = max(config.context, DEFAULT_BATCH)
        batch = min(_within("batch", args.get("batch"), 1, most, DEFAULT_BATCH), length)
        taken_for = args.get("adapter") or {}
        if not isinstance(taken_for, dict) or taken_for.keys() - AdapterOverride.__annotations__:
            raise RequestError("adapter must be an object with is_cpu and subgroup_size, or one")
        return cls(length, batch, args.get("kv"), args.get("precision"), ple, taken_for)

    def options(self, gpu: Gpu, cuts: Cuts) -> Options:
        """What is built on a device. Raises RequestError for f16 products where it has none."""
        # As f16, keys and values would only cost a CPU time.
        half_cache = not gpu.is_cpu if self.kv is None else self.kv == "f16"
        half = self._half_products(gpu)
        room = self.context, self.batch, half_cache, half, self.ple
        return Options(*room, taken_for=self.adapter, cuts=cuts)

    def _half_products(self, gpu: Gpu) -> bool:
        can = "shader-f16" in gpu.features
        if self.precision == "f16" and not can:
            raise RequestError("precision is f16, and this adapter lacks shader-f16: ask for f32")
        return can and not gpu.is_cpu if self.precision is None else self.precision == "f16"


def _within(name: str, value: Any, least: int, most: int, default: int) -> int:
    """A number of tokens; None means the default, or the most where that is less."""
    if value is None:
        return min(default, most)
    if type(value) is not int or not least <= value <= most:
        raise RequestError(
            f"{name} is {value!r:.60}; this model can be loaded with {least} to {most} tokens"
        )
    return value

"""What a model is and what it takes, told before anything of it is stored or loaded.

Facts come from the manifest that a conversion would write; GPU memory from estimate.py, for several
contexts, so that whoever chooses one sees what it costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from doppler.api.estimate import memory_needed
from doppler.api.foresight import needs_of
from doppler.api.messages import Choice, Facts, Fit, GpuLimits, Inspection, Needs, Offer, RoomArgs
from doppler.api.request import Room
from doppler.config.model import ModelConfig
from doppler.engine.fit import bounds
from doppler.errors import DeviceError, DopplerError, RequestError, UnsupportedError
from doppler.gpu.device import Gpu
from doppler.quantization.block_types import Quant
from doppler.store.manifest import Manifest
from doppler.text.templates import open_template

LEAST_CONTEXT = 1024  # offered, where the model has as much
NAMED = 5  # models that a message names, at most
LIMITS = ("maxBufferSize", "maxStorageBufferBindingSize")  # what decides whether buffers fit


class SeveralModels(RequestError):
    """An address is of several models, of which one has to be chosen."""

    def __init__(self, where: str, offers: Sequence[Offer]) -> None:
        self.offers = offers
        names = ", ".join(offer.title for offer in offers[:NAMED])
        more = f" and {len(offers) - NAMED} more" if len(offers) > NAMED else ""
        super().__init__(
            f"{where} holds several models: {names}{more}. Give the address of one of them"
        )


@dataclass(frozen=True)
class Candidate:
    """A model as it could be stored. `bytes` are what storing it would take beyond what is there.

    template: its chat template; tokenizer: whether it has a tokenizer at all. warnings: what it
    lacks, or was guessed of its files, in a sentence each.
    """

    manifest: Manifest
    bytes: int
    tokenizer: bool
    template: str | None
    quant: Quant = "none"
    warnings: tuple[str, ...] = ()


def facts(
    manifest: Manifest, tokenizer: bool, chats: bool, chat_problem: str | None = None
) -> Facts:
    """What a manifest says of its model, for people. `bytes` are of the weights.

    chat_problem: why its chat template cannot be used, as far as one has looked.
    """
    config = manifest.config
    experts = config.experts
    return {
        "name": manifest.name,
        "title": manifest.title,
        "architecture": config.architecture,
        "quantization": manifest.quantization,
        "types": manifest.bytes_by_type,
        "parameters": manifest.parameters,
        "bytes": manifest.bytes,
        "layers": len(config.layers),
        "experts": None if experts is None else {"count": experts.count, "used": experts.used},
        "vocab": config.vocab,
        "context": config.context,
        "chat": chats,
        "chat_problem": chat_problem,
        "tokenizer": tokenizer,
        "sampling": manifest.sampling,
        "license": manifest.license,
    }


async def inspection(
    candidates: Sequence[Candidate], gpu: Gpu | DeviceError, free: int, args: RoomArgs
) -> Inspection:
    """The answer of `inspect`: each candidate with its facts, and what it takes.

    `gpu` is the device, or why there is none; `free` are bytes of storage. `args` are those of a
    load; a context beyond the model's is taken for the model's.
    """
    return {
        "problem": None,
        "choices": [await _choice(candidate, gpu, free, args) for candidate in candidates],
        "gpu": _device(gpu),
        "models": [],
    }


def refusal(error: DopplerError) -> Inspection:
    """The answer of `inspect` where the model cannot be used: why, and what to do about it."""
    return {
        "problem": {"name": type(error).__name__, "message": str(error)},
        "choices": [],
        "gpu": None,
        "models": [],
    }


def offering(offers: Sequence[Offer]) -> Inspection:
    """The answer of `inspect` where an address is of several models: one has to be chosen."""
    return {"problem": None, "choices": [], "gpu": None, "models": list(offers)}


def contexts(config: ModelConfig, asked: int) -> list[int]:
    """Lengths to choose from: `asked`, the model's own, and powers of two below that."""
    lengths = {asked, config.context}
    length = LEAST_CONTEXT
    while length < config.context:
        lengths.add(length)
        length *= 2
    return sorted(lengths)


async def _choice(
    candidate: Candidate, gpu: Gpu | DeviceError, free: int, args: RoomArgs
) -> Choice:
    manifest, config = candidate.manifest, candidate.manifest.config
    asked = args.get("context")
    if type(asked) is int:
        args = {**args, "context": min(asked, config.context)}
    wanted = Room.of(config, args).context
    fits, needs = list[Fit](), None
    if not isinstance(gpu, DeviceError):
        fits = [await _fit(manifest, gpu, args, length) for length in contexts(config, wanted)]
        needs = await _add_bounds(fits, manifest, gpu, Room.of(config, args))
    template, problem = open_template(candidate.template)
    return {
        **facts(manifest, candidate.tokenizer, template is not None, problem),
        "quant": candidate.quant,
        "warnings": list(candidate.warnings),
        "wanted_context": wanted,
        "fits": fits,
        "needs": needs,
        "storage": {"needed": candidate.bytes, "free": min(free, candidate.bytes)},
    }


async def _fit(manifest: Manifest, gpu: Gpu, args: RoomArgs, context: int) -> Fit:
    """What the model takes at a context, or why the device does not take it."""
    room = Room.of(manifest.config, {**args, "context": context})
    memory, problem = None, None
    try:
        memory = await memory_needed(gpu, manifest, room)
    except (DeviceError, UnsupportedError) as error:
        problem = str(error)
    return {"context": context, "memory": memory, "problem": problem, "least": None, "whole": None}


async def _add_bounds(
    fits: Sequence[Fit], manifest: Manifest, gpu: Gpu, room: Room
) -> Needs | None:
    """Says of each fit which budgets it takes, and what a token asks for.

    They are counted at one context: at another, what grows with it is all that differs.
    """
    room = replace(room, gpu_budget=None)
    wanted = next(fit["memory"] for fit in fits if fit["context"] == room.context)
    if wanted is None:
        return None
    try:
        needs = await needs_of(gpu, manifest, room)
        least, whole = bounds(gpu, manifest, room.options(gpu, {}))
    except DeviceError:  # some of it has room, all of it has not
        return None
    for fit in fits:
        if (memory := fit["memory"]) is not None:
            more = sum(memory[kind] - wanted[kind] for kind in ("kv", "activations"))
            fit["least"], fit["whole"] = least + more, whole + more
    return needs


def _device(gpu: Gpu | DeviceError) -> GpuLimits:
    if isinstance(gpu, DeviceError):
        return {"problem": str(gpu), "limits": {}}
    return {"problem": None, "limits": {name: gpu.limits[name] for name in LIMITS}}

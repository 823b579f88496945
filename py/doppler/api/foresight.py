"""How a model would run within a budget, told before it is stored or loaded.

What it asks of the GPU is counted on paper, as `inspect` tells it; `foresee` takes that back with
budgets, so that a slider can be asked about without reading the model's headers again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from doppler.api.estimate import PaperGpu
from doppler.api.messages import ForeseeArgs, Foresight, Needs, Way
from doppler.api.request import Room
from doppler.engine.build import build
from doppler.engine.fit import HOST_BUDGET
from doppler.errors import RequestError
from doppler.gpu.device import Gpu
from doppler.gpu.kernels import Device, Kernels
from doppler.residency.cost import Demand, resident_speed, token_time
from doppler.residency.foresight import foresee
from doppler.residency.mixture import Mixture
from doppler.store.manifest import Manifest

SEEN = 128  # tokens before the one that is counted
NO_MIXTURE = Mixture(0, 0, ())
MOST_LAYERS, MOST_EXPERTS, MOST_USED = 1024, 4096, 64  # beyond all models
MOST_BYTES = 1 << 50


async def needs_of(gpu: Gpu, manifest: Manifest, room: Room) -> Needs:
    """What a token asks of `gpu`, where all of the model is there."""
    paper = PaperGpu.like(gpu)
    engine = await build(Device(paper, Kernels(paper, {})), manifest, room.options(paper, {}))
    work = engine.work(min(SEEN, engine.context - 1), 1)
    mixture = mixture_of(manifest)
    tables = (it.bytes for it in manifest.tensors if it.name == "per_layer_token_embd.weight")
    return {
        "reads": sum(it.bytes for it in work),
        "dispatches": len(work),
        "table": sum(tables),
        "experts": mixture.experts,
        "used": mixture.used,
        "units": list(mixture.units),
    }


def mixture_of(manifest: Manifest) -> Mixture:
    """The experts of a model that can be brought; none where each token uses all there are."""
    config = manifest.config
    experts = config.experts
    if experts is None or experts.used >= experts.count:
        return NO_MIXTURE
    layers = range(len(config.layers))
    units = (_unit(manifest, layer) if config.mixture(layer) else 0 for layer in layers)
    return Mixture(experts.count, experts.used, tuple(units))


def _unit(manifest: Manifest, layer: int) -> int:
    """Bytes of an expert."""
    return sum(manifest.tensor(name).bytes for name in manifest.config.expert_shapes(layer, 0))


def foreseen(args: ForeseeArgs) -> Foresight:
    """What the budgets would give. Raises RequestError for numbers that no model has."""
    needs = _checked(args)
    budget, least, whole = args["gpu_budget"], args["least"], args["whole"]
    host_budget, gb_s = args.get("host_budget", HOST_BUDGET), args.get("gb_s")
    speed = gb_s and resident_speed(needs["reads"], needs["dispatches"], gb_s * 1e9)
    if budget >= whole:
        return _foresight("whole", 1.0, tok_s=speed)
    if budget < least:
        return _foresight("none", 0.0)
    if budget >= whole - needs["table"]:
        return _foresight("table", 1 - needs["table"] / whole)
    mixture = Mixture(needs["experts"], needs["used"], tuple(needs["units"]))
    if not mixture.size:
        there = whole - needs["table"]
        return _streamed(there - budget, there, host_budget, speed)
    room = max(mixture.size - (whole - budget), mixture.least)  # experts are what is left out
    return _paged(mixture, room, host_budget, speed)


def _paged(mixture: Mixture, room: int, host_budget: int, speed: float | None) -> Foresight:
    """Of a mixture whose experts have so many bytes of room on the GPU."""
    has_host = host_budget >= mixture.least  # less holds an expert seldom until it is used again
    seen = foresee(mixture, room, speed or 1.0, host_budget=host_budget if has_host else None)
    demand = seen.demand
    if not has_host:
        demand = replace(demand, missed={"storage": demand.moved})
    experts = mixture.experts * sum(1 for unit in mixture.units if unit)
    return _foresight(
        "experts",
        sum(seen.slots) / experts,
        hit_rate=seen.hit_rate,
        brought=demand.moved,
        tok_s=speed and token_time(speed, demand).tokens_a_second,
    )


def _streamed(lacking: int, whole: int, host_budget: int, speed: float | None) -> Foresight:
    """Of a dense model: what has no room comes for every token, while the rest is computed."""
    on_host = min(lacking, host_budget)
    demand = Demand(ahead={"host": on_host, "storage": lacking - on_host})
    tok_s = speed and token_time(speed, demand).tokens_a_second
    return _foresight("layers", 1 - lacking / whole, brought=lacking, tok_s=tok_s)


def _foresight(
    way: Way,
    resident: float,
    *,
    hit_rate: float | None = None,
    brought: float = 0.0,
    tok_s: float | None = None,
) -> Foresight:
    return {
        "way": way,
        "resident": resident,
        "hit_rate": hit_rate,
        "brought": brought,
        "tok_s": tok_s,
    }


def _checked(args: ForeseeArgs) -> Needs:
    needs: Any = args.get("needs")
    if not isinstance(needs, dict):
        raise RequestError("needs must be what `inspect` told of a model")
    for name in ("least", "whole", "gpu_budget"):
        _number(args, name, MOST_BYTES)
    if "host_budget" in args:
        _number(args, "host_budget", MOST_BYTES)
    for name in ("reads", "dispatches", "table"):
        _number(needs, name, MOST_BYTES)
    _number(needs, "used", min(_number(needs, "experts", MOST_EXPERTS), MOST_USED))
    units = needs.get("units")
    if not isinstance(units, list) or len(units) > MOST_LAYERS:
        raise RequestError("units must be a list of bytes by layer")
    for unit in units:
        _number({"a unit": unit}, "a unit", MOST_BYTES)
    gb_s = args.get("gb_s", 1.0)
    if type(gb_s) not in (int, float) or not 0 < gb_s < 1e6:
        raise RequestError(f"gb_s is {gb_s!r:.60}; it must be a number above 0")
    return cast("Needs", needs)


def _number(args: Mapping[str, Any], name: str, most: int) -> int:
    value = args.get(name)
    if type(value) is not int or not 0 <= value <= most:
        raise RequestError(f"{name} is {value!r:.60}; it must be a whole number, at most {most}")
    return value

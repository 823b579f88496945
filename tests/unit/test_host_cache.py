"""Which layers of a dense model have their keys and values in host memory, and where rows lie."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from itertools import pairwise

import pytest

from doppler.engine.build import build
from doppler.engine.fit import bounds, fits
from doppler.engine.footprint import Fit, Options, cache_bytes, layout_of, needed
from doppler.errors import DeviceError
from doppler.gpu.kernels import Device, Kernels
from doppler.plan.cache import ROOMS, in_rooms, slots_of
from paper_engine import large_gpu, ranged, synthetic

LONG = Options(32768, 512, kv="f16", half=True)
ROOMY = replace(LONG, gpu_budget=1 << 40, host_budget=1 << 40)
ALIKE, WINDOWED, SHARING = "llama-3.2-1b", "gemma-3-1b", "gemma-4-e2b"
SMALLEST = 16  # tokens of a batch


def within(name: str, budget: int, host: int = 1 << 40) -> list[Fit]:
    """The ways to place a model that are not refused."""
    options = replace(LONG, gpu_budget=budget, host_budget=host)
    return [fit for _, fit in fits(large_gpu(), synthetic(name), options)]


@pytest.mark.parametrize("name", [ALIKE, WINDOWED])
def test_as_few_layers_as_it_takes(name: str) -> None:
    gpu, manifest = large_gpu(), synthetic(name)
    layers = len(manifest.config.layers)
    small = replace(ROOMY, batch=SMALLEST)
    whole = needed(gpu, manifest, small, Fit())
    assert within(name, whole)[0] == Fit()
    fit, *rest = within(name, whole - 1)
    assert fit.kept is None
    assert fit.hosted > ROOMS
    assert rest[0] == Fit(hosted=layers)  # where the device has less than the budget
    options = replace(ROOMY, gpu_budget=whole - 1)
    assert needed(gpu, manifest, options, fit) <= whole - 1
    fewer = replace(fit, hosted=fit.hosted - 1)
    assert fewer.hosted <= ROOMS or needed(gpu, manifest, options, fewer) > whole - 1
    paper = large_gpu()
    engine = asyncio.run(build(Device(paper, Kernels(paper, {})), manifest, options))
    assert paper.peak <= whole - 1
    assert engine.batch == LONG.batch  # of chunks, each of which brings the rows before it


def test_layers_are_streamed_where_all_keys_and_values_are_not_enough() -> None:
    gpu, manifest = large_gpu(), synthetic(ALIKE)
    layers = len(manifest.config.layers)
    hosted = needed(gpu, manifest, ROOMY, Fit(hosted=layers))
    assert within(ALIKE, hosted)[0] == Fit(hosted=layers)
    fit = within(ALIKE, hosted - 1)[0]
    assert (fit.hosted, fit.kept is None) == (layers, False)
    least, _ = bounds(gpu, manifest, ROOMY)
    assert within(ALIKE, least)[0] == Fit(hosted=layers, kept=0)


def test_layers_that_others_read_stay() -> None:
    layout = layout_of(large_gpu(), synthetic(SHARING), LONG, Fit(hosted=99))
    read = {layer.shares for layer in layout.config.layers} - {-1}
    assert read
    assert not read & layout.hosted
    assert read | layout.hosted == set(range(layout.config.own_layers))
    sizes = [sum(layout.cache_of(index).values()) for index in layout.hostable]
    assert sizes == sorted(sizes, reverse=True)


def test_the_budget_of_the_host_counts() -> None:
    """Some layers, where it has no room for all; and whoever lacks both is told of both."""
    gpu, manifest = large_gpu(), synthetic(ALIKE)
    layout = layout_of(gpu, manifest, LONG, Fit())
    layer = sum(layout.cache_of(0).values())
    least = bounds(gpu, manifest, replace(LONG, host_budget=1 << 40))[0]
    host = 10 * layer + layer // 2
    assert bounds(gpu, manifest, replace(LONG, host_budget=host))[0] > least
    assert bounds(gpu, manifest, replace(LONG, host_budget=2 * layer)) == bounds(
        gpu, manifest, replace(LONG, host_budget=0)
    )
    assert within(ALIKE, 1 << 30, host)[0].hosted == 10
    most = len(manifest.config.layers) * layer
    with pytest.raises(DeviceError, match=f"allow {most} bytes of host memory .* is {host}$"):
        within(ALIKE, least, host)
    with pytest.raises(DeviceError, match=r"shorter context$"):
        within(ALIKE, least - 1)


def test_mixtures_keep_theirs_on_the_gpu() -> None:
    gpu, manifest = large_gpu(), ranged("gpt-oss-20b")
    options = replace(LONG, gpu_budget=needed(gpu, manifest, ROOMY, Fit()) // 2)
    ways = [fit for _, fit in fits(gpu, manifest, options)]
    assert ways
    assert {fit.hosted for fit in ways} == {0}
    with pytest.raises(DeviceError, match=r"shorter context$"):
        next(fits(gpu, manifest, replace(options, gpu_budget=1 << 28)))


@pytest.mark.parametrize("name", [ALIKE, WINDOWED, SHARING])
def test_two_layers_have_room_and_take_turns(name: str) -> None:
    here = layout_of(large_gpu(), synthetic(name), LONG, Fit())
    there = layout_of(large_gpu(), synthetic(name), LONG, Fit(hosted=99))
    assert here.cache == there.cache  # what plans bind is the same
    place = {name: names for names, _ in there.cache_buffers for name in names}
    assert place.keys() == here.cache.keys()
    places = [{place[it] for it in there.cache_of(index)} for index in sorted(there.hosted)]
    assert all(one.isdisjoint(other) for one, other in pairwise(places))
    assert cache_bytes(there) < cache_bytes(here)
    for names, size in there.cache_buffers:
        assert size == max(there.cache[it] for it in names)


def test_the_largest_share_a_room() -> None:
    layers = [{"a": 4, "b": 8}, {"c": 1}, {"d": 2, "e": 16}, {"f": 32}]
    assert in_rooms(layers) == [(("b", "e"), 16), (("a", "d"), 4), (("c", "f"), 32)]


@pytest.mark.parametrize(
    ("first", "stop", "runs"),
    [
        (0, 4, [(0, 4)]),
        (3, 10, [(3, 7)]),
        (7, 13, [(7, 3), (0, 3)]),
        (20, 30, [(0, 10)]),
        (5, 5, []),
    ],
)
def test_positions_in_a_ring(first: int, stop: int, runs: list[tuple[int, int]]) -> None:
    assert slots_of(10, first, stop) == runs

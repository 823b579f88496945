"""What of a model goes where, so that it fits: all of it on the GPU, or less, within a budget.

A table of embeddings may stay in storage, and layers of a mixture may hold some of their experts
only. Of a dense model keys and values of layers may lie in host memory, and then the last layers
may be streamed: of keys and values no more is brought than room is saved, and of matrices all.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import replace
from itertools import accumulate

from doppler.engine.footprint import (
    Fit,
    Options,
    allocated,
    cache_bytes,
    hashing_room,
    layout_of,
    needed,
    planned,
)
from doppler.errors import DeviceError, RequestError
from doppler.gpu.device import Gpu
from doppler.gpu.offload import rings_bytes
from doppler.plan.cache import ROOMS
from doppler.store.manifest import Manifest
from doppler.weights.streamed import RINGS
from doppler.weights.upload import staging_bytes

SMALL_BATCHES = (64, 16)  # tokens
SMALLER = 0.75  # of the slots, where the device had no room


def fits(gpu: Gpu, manifest: Manifest, options: Options) -> Iterator[tuple[Options, Fit]]:
    """Ways to place a model, the one that needs most memory first; none exceeds the budget.

    Batches become smaller where nothing else helps but what slows every token of a dense model, and
    then where that does not help. Raises DeviceError where the least that it can do with is more
    than the budget.
    """
    batches = sorted({min(options.batch, it) for it in (options.batch, *SMALL_BATCHES)})
    needs = list[int]()
    for streams in (False, True):
        for batch in reversed(batches):
            smaller, found = replace(options, batch=batch), False
            for fit in _fits(gpu, manifest, smaller, streams, needs):
                found = True
                yield smaller, fit
            if found:
                break
    if needs and (least := min(needs)) > (options.gpu_budget or 0):
        raise DeviceError(
            f"{manifest.title} needs {least} bytes of GPU memory at least with a context of "
            f"{options.context} tokens, and the budget is {options.gpu_budget}: "
            f"allow more, or load it with a shorter context{_more_on_host(gpu, manifest, options)}"
        )


def _fits(
    gpu: Gpu, manifest: Manifest, options: Options, streams: bool, needs: list[int]
) -> Iterator[Fit]:
    """Ways with these batches; `streams`: of a dense model, those in which something is brought for
    every token. `needs` gets their bytes.
    """
    budget, tables = options.gpu_budget, _tables(manifest, options)

    def has_room(fit: Fit) -> bool:
        if budget is None:
            return True
        needs.append(needed(gpu, manifest, options, fit))
        return needs[-1] <= budget

    slots = _least_slots(manifest)
    if streams:
        hosted = 0 if slots else _most_hosted(gpu, manifest, options)
        if hosted and has_room(smallest := Fit(tables[-1], hosted=hosted)):
            yield from _with_cache(gpu, manifest, options, smallest)
        smallest = Fit(tables[-1], kept=0, hosted=hosted)
        if not slots and _most_kept(manifest) >= 0 and has_room(smallest):
            yield from _with_layers(gpu, manifest, options, smallest)
        return
    yield from filter(has_room, map(Fit, tables))
    if slots and has_room(smallest := Fit(tables[-1], slots)):
        yield from _with_slots(gpu, manifest, options, smallest)


def _tables(manifest: Manifest, options: Options) -> list[int]:
    """Rows of the table that have room, as often as that can be tried; 0 is all."""
    if not manifest.config.per_layer:
        return [0]
    return {"gpu": [0], "host": [options.batch], "auto": [0, options.batch]}[options.table]


def _least_slots(manifest: Manifest) -> dict[int, int]:
    """Room for one token's experts, in every layer that has some."""
    config = manifest.config
    mixtures = ((index, config.mixture(index)) for index in range(len(config.layers)))
    return {index: it.used for index, it in mixtures if it is not None and it.used < it.count}


def _with_slots(gpu: Gpu, manifest: Manifest, options: Options, least: Fit) -> Iterator[Fit]:
    """As many slots as the budget has room for; then fewer, down to the least."""
    config = manifest.config
    counts = {index: len(config.expert_numbers(index)) for index in least.slots}
    slots = {index: count - 1 for index, count in counts.items()}
    if options.gpu_budget is not None:
        slots = _most_slots(gpu, manifest, options, least)
    while slots != least.slots:
        yield replace(least, slots=slots)
        slots = {it: max(int(SMALLER * n), least.slots[it]) for it, n in slots.items()}
    yield least


def slots_within(gpu: Gpu, manifest: Manifest, options: Options, fit: Fit) -> dict[int, int]:
    """Slots by layer of a mixture that is placed as `fit` says and runs already, where the budget
    becomes that of `options`; without one, all experts have some.

    Raises RequestError where it has no room for a token's experts beside the rest.
    """
    least = replace(fit, slots=_least_slots(manifest))
    if options.gpu_budget is None:
        return {it: len(manifest.config.expert_numbers(it)) for it in least.slots}
    if (size := needed(gpu, manifest, options, least)) > options.gpu_budget:
        raise RequestError(
            f"{manifest.title} needs {size} bytes of GPU memory at least as it is loaded, and the "
            f"budget would be {options.gpu_budget}: allow more, or load it with a shorter context"
        )
    return _most_slots(gpu, manifest, options, least)


def _most_slots(gpu: Gpu, manifest: Manifest, options: Options, least: Fit) -> dict[int, int]:
    """Slots within the budget: alike in all layers, then one more in the first few."""
    assert options.gpu_budget is not None
    budget, config = options.gpu_budget, manifest.config
    counts = {index: len(config.expert_numbers(index)) for index in least.slots}

    def slots(more: int) -> dict[int, int]:
        """`more` of them than the least, dealt out over the layers in turn."""
        each, rest = divmod(more, len(counts))
        return {
            layer: min(least.slots[layer] + each + (place < rest), counts[layer])
            for place, layer in enumerate(counts)
        }

    def bytes_of(more: int) -> int:
        return needed(gpu, manifest, options, replace(least, slots=slots(more)))

    if not gpu.is_cpu and bytes_of(0) + hashing_room(manifest) <= budget:
        budget -= hashing_room(manifest)
    # Bytes are nearly in proportion, so that a guess between two known counts is nearly right.
    low, high = 0, sum(count - least.slots[layer] for layer, count in counts.items())
    of_low, of_high = bytes_of(low), bytes_of(high)
    while low < high and of_high > budget:
        share = (budget - of_low) / (of_high - of_low)
        guess = min(max(low + int(share * (high - low)), low + 1), high - 1)
        if guess == low:
            break
        if (of_guess := bytes_of(guess)) <= budget:
            low, of_low = guess, of_guess
        else:
            high, of_high = guess, of_guess
    return slots(high if of_high <= budget else low)


def _most_hosted(gpu: Gpu, manifest: Manifest, options: Options) -> int:
    """Layers whose keys and values host memory has room for, where that saves some on the GPU."""
    count = bisect_right(_hostable_bytes(gpu, manifest, options), options.host_budget)
    if count <= ROOMS:
        return 0
    here = layout_of(gpu, manifest, options, Fit())
    there = layout_of(gpu, manifest, options, Fit(hosted=count))
    saved = cache_bytes(here) - cache_bytes(there)
    return count if saved > rings_bytes(there.largest_hosted) else 0


def _hostable_bytes(gpu: Gpu, manifest: Manifest, options: Options) -> list[int]:
    """What the keys and values of one layer, of two, .. take in host memory."""
    layout = layout_of(gpu, manifest, options, Fit())
    return [*accumulate(sum(layout.cache_of(index).values()) for index in layout.hostable)]


def _more_on_host(gpu: Gpu, manifest: Manifest, options: Options) -> str:
    """What else helps: nothing, or a larger budget of the host."""
    if _least_slots(manifest):
        return ""
    *_, most = (0, *_hostable_bytes(gpu, manifest, options))
    if most <= options.host_budget:
        return ""
    return (
        f", or allow {most} bytes of host memory for keys and values, where the budget is "
        f"{options.host_budget}"
    )


def _with_cache(gpu: Gpu, manifest: Manifest, options: Options, least: Fit) -> Iterator[Fit]:
    """As few layers with keys and values in host memory as the budget allows; then `least`."""
    if options.gpu_budget is not None:

        def cache(count: int) -> int:
            return cache_bytes(layout_of(gpu, manifest, options, replace(least, hosted=count)))

        # They are all that changes; of layers that differ, more of them may take more room.
        room = options.gpu_budget - needed(gpu, manifest, options, least) + cache(least.hosted)
        fewest = next(it for it in range(ROOMS + 1, least.hosted + 1) if cache(it) <= room)
        if fewest != least.hosted:
            yield replace(least, hosted=fewest)
    yield least


def _most_kept(manifest: Manifest) -> int:
    """Layers that stay where others are streamed: with one more, all would have room."""
    return len(manifest.config.layers) - RINGS - 1


def _with_layers(gpu: Gpu, manifest: Manifest, options: Options, least: Fit) -> Iterator[Fit]:
    """As many layers that stay as the budget has room for; then fewer, down to none."""
    kept = _most_kept(manifest)
    if options.gpu_budget is not None:

        def weights(count: int) -> int:
            return allocated(planned(gpu, manifest, options, replace(least, kept=count)))

        # They are all that grows with the layers that stay.
        room = options.gpu_budget - needed(gpu, manifest, options, least) + weights(0)
        kept = bisect_right(range(1, kept + 1), room, key=weights)
    while kept:
        yield replace(least, kept=kept)
        kept = int(SMALLER * kept)
    yield least


def bounds(gpu: Gpu, manifest: Manifest, options: Options) -> tuple[int, int]:
    """The least budget that a model runs in, and the least in which all of it is on the GPU."""
    small = replace(options, batch=min(options.batch, *SMALL_BATCHES))
    tables, slots = _tables(manifest, small), _least_slots(manifest)
    ways = [Fit(tables[-1], slots)]
    if not slots:
        hosted = _most_hosted(gpu, manifest, small)
        ways.append(Fit(tables[-1], hosted=hosted))
        if _most_kept(manifest) >= 0:
            ways.append(Fit(tables[-1], kept=0, hosted=hosted))
    least = min(_least_budget(gpu, manifest, small, it) for it in ways)
    keeps_batches = slots or len(tables) > 1  # rather than all of it
    return least, _least_budget(gpu, manifest, options if keeps_batches else small, Fit())


def _least_budget(gpu: Gpu, manifest: Manifest, options: Options, fit: Fit) -> int:
    """Of staging, which takes a share of the budget, a small one has less."""
    size = needed(gpu, manifest, replace(options, gpu_budget=None), fit)
    while staging_bytes(size) < staging_bytes(None):
        smaller = needed(gpu, manifest, replace(options, gpu_budget=size), fit)
        if smaller >= size:
            break
        size = smaller
    return size

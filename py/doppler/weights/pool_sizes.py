"""Other numbers of slots while a mixture is loaded: new buffers for a layer's experts.

Those that stay are copied on the GPU, where the layer's old buffers and its new ones have room side
by side; where they have not, the slots are empty, and experts come back when they are missed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from doppler.errors import DeviceError
from doppler.gpu.binder import Binder
from doppler.gpu.device import Slice
from doppler.gpu.step import View
from doppler.store.manifest import Tensor
from doppler.weights.placement import Weights, plane_sizes


@dataclass(frozen=True)
class Outcome:
    """Whether the layer has its new buffers now, and whether its experts are still there."""

    is_new: bool
    is_full: bool


async def change_buffers(
    binder: Binder,
    before: Mapping[str, int],
    after: Mapping[str, int],
    copies: Sequence[tuple[View, View]],
    most: int | None,
) -> Outcome:
    """Buffers of `after`, bytes by name, in place of those of `before`; copies go from views of
    these to views of those. Everything on the GPU together takes at most `most` bytes (None: what
    there is) meanwhile. Where the device has no room the old ones are there again. Raises
    DeviceError where it has gone.
    """
    gpu = binder.device.gpu
    has_room = most is None or gpu.memory()["total"] + sum(after.values()) <= most
    old = binder.detach(before)
    if not has_room:
        for buffer in old.values():
            buffer.destroy()
    try:
        await _allocate(binder, after)
    except DeviceError:
        if has_room:
            binder.attach(old)
        else:
            await _allocate(binder, before)
        return Outcome(is_new=False, is_full=has_room)
    if has_room:
        for source, target in copies:
            to = binder.slice(target)
            gpu.copy(Slice(old[source.buffer], source.offset, source.size), to.buffer, to.offset)
        for buffer in old.values():
            buffer.destroy()
    return Outcome(is_new=True, is_full=has_room)


def changed(old: Weights, new: Weights, layer: int) -> tuple[dict[str, int], dict[str, int]]:
    """Buffers of a layer that only the one has, and only the other."""
    prefix = f"blk.{layer}."

    def beyond(one: Weights, other: Weights) -> dict[str, int]:
        sizes = {name: size for name, size in one.buffers.items() if name.startswith(prefix)}
        return {name: size for name, size in sizes.items() if other.buffers.get(name) != size}

    return beyond(old, new), beyond(new, old)


def copies_of(
    old: Weights, new: Weights, pairs: Sequence[tuple[Sequence[Tensor], Sequence[Tensor]]]
) -> Iterator[tuple[View, View]]:
    """Where each pair of experts' tensors lies: the first in the old places, the second in the
    new.
    """
    for sources, targets in pairs:
        for source, target in zip(sources, targets, strict=True):
            yield from zip(_views(old, source), _views(new, target), strict=True)


def _views(weights: Weights, tensor: Tensor) -> list[View]:
    """Its vector, or its rows in each plane."""
    if tensor.name in weights.vectors:
        return [weights.vectors[tensor.name]]
    matrix, row = weights.places[tensor.name]
    part = next(it for it in matrix.slices if it.row0 <= row < it.row0 + it.rows)
    sizes, rows, before = plane_sizes(matrix.form, matrix.columns), tensor.shape[0], row - part.row0
    planes = [(part.codes, sizes.codes)]
    if part.scales is not None:
        planes.append((part.scales, sizes.scales))
    return [View(plane.buffer, plane.offset + before * size, rows * size) for plane, size in planes]


async def _allocate(binder: Binder, sizes: Mapping[str, int]) -> None:
    """All of them, or none: raises DeviceError then."""
    made: list[str] = []
    try:
        async with binder.device.gpu.scope("room for experts"):
            for name, size in sizes.items():
                binder.allocate([name], size, "weights")
                made.append(name)
    except DeviceError:
        for buffer in binder.detach(made).values():
            buffer.destroy()
        raise

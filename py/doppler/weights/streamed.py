"""Layers that are streamed: their matrices take each other's places on the GPU.

A forward pass is periodic, so that the best choice of what stays never changes: the first layers
do. The others lie in rings of buffers by turns, so that one can be filled while another is used.
Vectors, which are small, stay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from doppler.gpu.step import View
from doppler.store.manifest import Manifest, Tensor
from doppler.weights.moves import raw_bytes
from doppler.weights.placement import Streamed, Weights

RINGS = 2  # layers that have room at once; what more would take is better spent on one that stays


def stream_layers(manifest: Manifest, weights: Weights, kept: int, staging: int) -> Weights:
    """The same, with the layers from the `kept`-th on streamed, `staging` bytes or some rows more
    at a time.
    """
    count = len(manifest.config.layers)
    every = {index: _matrices(manifest, weights, index) for index in range(count)}
    layers = {index: tensors for index, tensors in every.items() if index >= kept}
    used = {index: _buffers(weights, tensors) for index, tensors in layers.items()}
    raw = View("streamed weights as stored", 0, _most_raw(every, staging))
    names = frozenset(tensor.name for tensors in layers.values() for tensor in tensors)
    return replace(
        weights,
        buffers={**weights.buffers, raw.buffer: raw.size},
        elsewhere=weights.elsewhere | names,
        streamed=Streamed(layers, _shared(used), raw),
    )


def _matrices(manifest: Manifest, weights: Weights, index: int) -> tuple[Tensor, ...]:
    prefix, places = f"blk.{index}.", weights.places
    found = [it for it in manifest.tensors if it.name.startswith(prefix) and it.name in places]
    return tuple(sorted(found, key=lambda tensor: tensor.offset))


def _buffers(weights: Weights, tensors: Sequence[Tensor]) -> list[str]:
    """Those in which they lie, the largest first: of layers that differ, the largest share one."""
    parts = (part for it in tensors for part in weights.places[it.name][0].slices)
    names = dict.fromkeys(part.codes.buffer for part in parts)
    return sorted(names, key=lambda name: -weights.buffers[name])


def _shared(used: Mapping[int, Sequence[str]]) -> tuple[tuple[str, ...], ...]:
    places: dict[tuple[int, int], list[str]] = {}
    for turn, names in enumerate(used.values()):
        for place, name in enumerate(names):
            places.setdefault((turn % RINGS, place), []).append(name)
    return tuple(map(tuple, places.values()))


def _most_raw(layers: Mapping[int, Sequence[Tensor]], staging: int) -> int:
    return max(raw_bytes(tensor, staging) for tensors in layers.values() for tensor in tensors)

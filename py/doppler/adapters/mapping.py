"""A and B as files have them -> those of a base's own matrices, with its rows in its order.

A matrix of a file may hold several of the model's, one below another: then A is the same for all,
and B's rows are dealt out. Where the model's rows lie in another order than the file's (pairs of
rope in GGUF files of llama, heads that turn in part), those of B are put so. What is done to the
rows of a checkpoint's weights is asked of formats/rows.py, so that it is the same.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from doppler.adapters.matrix import Delta, Matrix, check_type, read_matrix
from doppler.config.mixers import is_filter
from doppler.config.model import ModelConfig, RopePairs
from doppler.errors import FormatError, UnsupportedError
from doppler.formats.content import Content
from doppler.formats.delta_net import Rows
from doppler.formats.rows import rows_in_file
from doppler.inputs.buffers import Buffers
from doppler.inputs.fields import LARGEST_FLOAT, shown

_LAYER = re.compile(r"blk\.([0-9]+)\.(\w+)\.")
_EMBEDDINGS = ("token_embd.weight", "per_layer_token_embd.weight")
_KEYS = ("attn_k", "attn_v")
_TURNED = ("attn_q", "attn_k")
_OF_DELTA = ("attn_qkv", "attn_gate")  # and what begins with ssm_


@dataclass(frozen=True)
class Pair:
    """A [rank, columns] and B [rows, rank] in a file, of the matrix that is `name` here.

    `told` is what the file calls it.
    """

    name: str
    told: str
    a: Content
    b: Content
    scale: float


@dataclass(frozen=True)
class Layout:
    """How a file's rows lie where files differ: pairs of rope, and value heads of DeltaNet."""

    pairs: RopePairs
    is_tiled: bool


@dataclass(frozen=True)
class _Part:
    """Rows of a pair's B that are those of one matrix of the model."""

    name: str
    pair: Pair
    rows: Rows


async def deltas_of(
    config: ModelConfig, pairs: Sequence[Pair], layout: Layout, buffers: Buffers
) -> tuple[Delta, ...]:
    """What they change of a base's matrices, in the order of those.

    All shapes are held against the base before any number is read. FormatError says what differs.
    """
    shapes = config.tensor_shapes()
    parts: dict[str, _Part] = {}
    for pair in pairs:
        _check_kinds(pair)
        for part in _parts(config, pair, layout, shapes):
            if part.name in parts:
                raise FormatError(
                    f"{pair.a.source.name}: {shown(parts[part.name].pair.told)} and "
                    f"{shown(pair.told)} both change the base's {part.name}"
                )
            parts[part.name] = part
    if not parts:
        raise FormatError("the adapter changes nothing of the base")
    found = {}
    for pair, own in _by_pair(parts.values()):
        a, b = await read_matrix(pair.a, buffers), await read_matrix(pair.b, buffers)
        for part in own:
            rows = Matrix(b.type, np.ascontiguousarray(b.bits[part.rows]))
            found[part.name] = Delta(part.name, pair.scale, a, rows)
    return tuple(found[name] for name in shapes if name in found)


def _by_pair(parts: Iterable[_Part]) -> Iterator[tuple[Pair, list[_Part]]]:
    """Parts of one pair stand together."""
    groups: dict[int, list[_Part]] = {}
    for part in parts:
        groups.setdefault(id(part.pair), []).append(part)
    yield from ((own[0].pair, own) for own in groups.values())


def _check_kinds(pair: Pair) -> None:
    for content in (pair.a, pair.b):
        if len(content.shape) != 2 or 0 in content.shape:
            raise FormatError(
                f"{content.source.name}: tensor {shown(content.name)} has shape {content.shape}, "
                "which is no matrix"
            )
        check_type(content)
    if pair.a.shape[0] != pair.b.shape[1]:
        raise FormatError(
            f"{pair.a.source.name}: {shown(pair.told)} has an A of rank {pair.a.shape[0]} and a B "
            f"of rank {pair.b.shape[1]}"
        )
    if not (math.isfinite(pair.scale) and abs(pair.scale) <= LARGEST_FLOAT):
        raise FormatError(f"{pair.a.source.name}: the scale of {shown(pair.told)} is {pair.scale}")


def _parts(
    config: ModelConfig, pair: Pair, layout: Layout, shapes: Mapping[str, tuple[int, ...]]
) -> list[_Part]:
    _check_place(config, pair, layout)
    if _is_unread(config, pair.name):
        return []
    held = rows_in_file(config, pair.name, pair.b.shape[0])
    for name in held:
        if name not in shapes:
            raise _none_of_base(config, pair, name)
        if len(shapes[name]) != 2 or is_filter(name):
            raise UnsupportedError(
                f"{pair.a.source.name}: {shown(pair.told)} is of what is no matrix in the base "
                f"({name}), which Doppler cannot do"
            )
    wanted = sum(shapes[name][0] for name in held), shapes[next(iter(held))][1]
    has = pair.b.shape[0], pair.a.shape[1]
    if has != wanted:
        raise FormatError(
            f"{pair.a.source.name}: {shown(pair.told)} is of a matrix of shape {has}; the base has "
            f"it as {wanted}: the adapter is of another model"
        )
    return [_Part(name, pair, _in_pairs(config, name, own, layout)) for name, own in held.items()]


def _check_place(config: ModelConfig, pair: Pair, layout: Layout) -> None:
    """Refuses what is of a layer that is not there, of embeddings, or lies in a way unknown."""
    if pair.name in _EMBEDDINGS:
        raise UnsupportedError(
            f"{pair.a.source.name}: {shown(pair.told)} is of the embeddings, which Doppler does "
            "not adapt; train one of linear modules alone"
        )
    match = _LAYER.match(pair.name)
    if match is None:
        return
    index, module = int(match[1]), match[2]
    if index >= len(config.layers):
        raise FormatError(
            f"{pair.a.source.name}: {shown(pair.told)} is of layer {index}, and the base has "
            f"{len(config.layers)} layers, from 0 on: the adapter is of another model"
        )
    is_delta = config.layers[index].mixer == "delta"
    net = config.delta_net
    if net is None or not is_delta or net.tiled == layout.is_tiled:
        return
    if module in _OF_DELTA or module.startswith("ssm_"):
        raise UnsupportedError(
            f"{pair.a.source.name}: {shown(pair.told)} is of linear attention, whose heads the "
            "base has in another order; make the adapter for a base of the same kind of files"
        )


def _is_unread(config: ModelConfig, name: str) -> bool:
    """Whether it is of keys or values of a layer that reads those of another."""
    match = _LAYER.match(name)
    return bool(match and config.layers[int(match[1])].shares >= 0 and match[2] in _KEYS)


def _none_of_base(config: ModelConfig, pair: Pair, name: str) -> FormatError:
    where = f"{pair.a.source.name}: {shown(pair.told)}"
    if name == "output.weight" and config.tied:
        return FormatError(
            f"{where} is of the head, which this base does not have: its embedding is its head"
        )
    return FormatError(
        f"{where} is of {name}, which the base does not have: the adapter is of another model"
    )


def _in_pairs(config: ModelConfig, name: str, rows: Rows, layout: Layout) -> Rows:
    """Rows of q and k where the file and the base have rope's pairs in different places."""
    match = _LAYER.match(name)
    if match is None or match[2] not in _TURNED or config.rope_pairs == layout.pairs:
        return rows
    index = int(match[1])
    shape, rope = config.shape(index), config.ropes[config.layers[index].rope]
    if rope.width:
        raise UnsupportedError(
            f"{name}: rope turns a part of each head, whose pairs the file has in other places "
            "than the base; make the adapter for a base of the same kind of files"
        )
    heads, half = len(rows) // shape.head_dim, shape.head_dim // 2
    apart = (heads, 2, half) if layout.pairs == "half" else (heads, half, 2)
    return rows.reshape(apart).swapaxes(1, 2).reshape(-1)


def of_experts(pair: Pair, count: int) -> list[Pair]:
    """Pairs of each expert of a stacked one: A [experts, rank, columns], B [experts, rows, rank].

    `*` in the name is where an expert's number goes. FormatError where there are others than
    `count`.
    """
    for content in (pair.a, pair.b):
        check_type(content)
        if len(content.shape) != 3 or content.shape[0] != count:
            raise FormatError(
                f"{content.source.name}: tensor {shown(content.name)} has shape {content.shape}; "
                f"the base has {count} experts, which must be its first number"
            )
    return [
        replace(
            pair,
            name=pair.name.replace("*", str(expert)),
            a=_slice(pair.a, expert),
            b=_slice(pair.b, expert),
        )
        for expert in range(count)
    ]


def _slice(content: Content, index: int) -> Content:
    each = content.bytes // content.shape[0]
    return replace(content, shape=content.shape[1:], offset=content.offset + index * each)

"""Rows of matrices, where a file has them otherwise than a model's tensors are.

By their names here: attn_qkv has the rows of q, k and v one below another, ffn_gate_up those of
gates and ups; ffn_gate_inp_shexp has one row, and is a vector in some; exp_probs_b is a vector, and
has one row in some; the taps of a convolution are [channels, 1, taps] in some. And where rope turns
only the first `width` dimensions of a head, in halves of these, a file has its rows in that order.
Kernels turn pairs that are half a head apart: rows of q and k, and the weights of their norms, are
put so that each half begins with dimensions that turn, which changes no score.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate

import numpy as np

from doppler.config.mixers import is_filter
from doppler.config.model import ModelConfig
from doppler.errors import FormatError, UnsupportedError
from doppler.formats.content import Content, Latest
from doppler.formats.delta_net import Rows, held_in, parts_of, taken
from doppler.inputs.buffers import Buffers
from doppler.inputs.fields import shown

_STACKED = {
    "attn_qkv": ("attn_q", "attn_k", "attn_v"),
    "ffn_gate_up": ("ffn_gate", "ffn_up"),
}
_TENSOR = re.compile(r"blk\.([0-9]{1,6})\.(\w+)\.(weight|bias)")
_ONE_ROW, _VECTOR = "ffn_gate_inp_shexp", "exp_probs_b"
_TURNED = ("attn_q", "attn_k", "attn_q_norm", "attn_k_norm")


def with_own_rows(
    config: ModelConfig, tensors: Mapping[str, Content], buffers: Buffers
) -> dict[str, Content]:
    """All tensors by name, each with the rows that it has in the model.

    Raises FormatError where a tensor that holds others has not the rows of all of them, and
    UnsupportedError for one whose rows cannot be moved.
    """
    found: dict[str, Content] = {}
    latest = Latest()
    for name, content in parts_of(config, tensors, buffers).items():
        for own, part in _parts(config, name, content):
            order = _order(config, own)
            found[own] = _reordered(part, order, latest, buffers) if order else part
    return found


def rows_in_file(config: ModelConfig, name: str, count: int) -> dict[str, Rows]:
    """Which rows of a file's matrix of a layer each of the model's tensors has, in their order.

    `count` is how many rows a matrix has that holds no others: it is the model's own then.
    """
    match = _TENSOR.fullmatch(name)
    parts = {name: np.arange(count)}
    if match is not None and int(match[1]) < len(config.layers):
        index = int(match[1])
        if (held := held_in(config, index, match[2])) is not None:
            parts = {f"blk.{index}.{it}.weight": rows for it, rows in held.rows().items()}
        elif _is_stack(config, index, match[2]):
            heights = _heights(config, index, match[2])
            ends = accumulate(heights.values())
            parts = {
                f"blk.{index}.{member}.weight": np.arange(end - heights[member], end)
                for member, end in zip(heights, ends, strict=True)
            }
    for own, rows in parts.items():
        order = _order(config, own)
        if order and len(rows) % len(order) == 0:
            parts[own] = rows[_of_heads(order, len(rows) // len(order))]
    return parts


def _parts(config: ModelConfig, name: str, content: Content) -> Iterator[tuple[str, Content]]:
    """The tensors that lie one below another in one, each a range of its bytes."""
    match = _TENSOR.fullmatch(name)
    if match is not None and match[2] == _ONE_ROW and len(content.shape) == 1:
        content = replace(content, shape=(1, *content.shape))
    if match is not None and match[2] == _VECTOR and content.shape[:-1] == (1,):
        content = replace(content, shape=content.shape[1:])
    if is_filter(name) and len(content.shape) == 3 and content.shape[1] == 1:
        content = replace(content, shape=content.shape[::2])
    is_stack = match is not None and _is_stack(config, int(match[1]), match[2])
    if match is None or not is_stack or match[3] != "weight":
        yield name, content
        return
    heights = _heights(config, int(match[1]), match[2])
    members, rows = list(heights), list(heights.values())
    if content.shape != (sum(rows), config.hidden):
        raise FormatError(
            f"{content.source.name}: tensor {shown(content.name)} has shape {content.shape}; with "
            f"{' and '.join(members)} in it, the config asks for {(sum(rows), config.hidden)}"
        )
    each = content.bytes // sum(rows)
    for member, count, end in zip(members, rows, accumulate(rows), strict=True):
        offset = content.offset + (end - count) * each
        own = replace(content, shape=(count, config.hidden), offset=offset)
        yield f"blk.{match[1]}.{member}.weight", own


def _heights(config: ModelConfig, index: int, name: str) -> dict[str, int]:
    """Rows of each matrix that a layer's tensor holds."""
    shape = config.shape(index)
    heights = {"attn_q": shape.q_width, "attn_k": shape.kv_width, "attn_v": shape.kv_width}
    return {member: heights.get(member, shape.dense) for member in _STACKED[name]}


def _is_stack(config: ModelConfig, index: int, name: str) -> bool:
    """Whether a layer's tensor has the rows of several; those of other mixers are one matrix."""
    if name not in _STACKED or index >= len(config.layers):
        return False
    return config.layers[index].attends or name != "attn_qkv"


def _order(config: ModelConfig, name: str) -> list[int]:
    """Where the dimensions of a head are in the file; none where they are as they must be."""
    match = _TENSOR.fullmatch(name)
    if match is None or match[2] not in _TURNED or config.rope_pairs != "half":
        return []
    index = int(match[1])
    layers, half = config.layers, config.head_dim // 2
    width = config.ropes[layers[index].rope].width if index < len(layers) else 0
    if width == 0:
        return []
    turned, rest = width // 2, half - width // 2
    first, second = range(turned), range(turned, width)
    return [*first, *range(width, width + rest), *second, *range(width + rest, 2 * half)]


def _reordered(content: Content, order: Sequence[int], latest: Latest, buffers: Buffers) -> Content:
    """A tensor with the rows of each head in another order.

    Raises UnsupportedError for a vector of blocks, the numbers of which cannot be moved.
    """
    if len(content.shape) == 1 and content.type.elements > 1:
        raise UnsupportedError(
            f"{content.source.name}: tensor {shown(content.name)} is a norm in blocks of type "
            f"{content.type.name}, which Doppler cannot do"
        )
    heads, rest = divmod(content.shape[0] if content.shape else 0, len(order))
    if rest or not heads:
        return content  # its shape is refused later
    return taken(content, _of_heads(order, heads), latest, buffers)


def _of_heads(order: Sequence[int], heads: int) -> Rows:
    """The order of one head's rows as that of all."""
    firsts = len(order) * np.arange(heads)[:, None]
    rows: Rows = (firsts + np.array(order)).reshape(-1)
    return rows

"""Rows of matrices, where a file has them otherwise than a model's tensors are.

By their names here: attn_qkv has the rows of q, k and v one below another, ffn_gate_up those of
gates and ups; ffn_gate_inp_shexp has one row, and is a vector in some. And where rope turns only
the first `width` dimensions of a head, in halves of these, a file has its rows in that order.
Kernels turn pairs that are half a head apart: rows of q and k are put so that each half begins with
dimensions that turn, which changes no score.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate

import numpy as np

from doppler.config.model import ModelConfig
from doppler.errors import FormatError
from doppler.formats.content import Computed, Content, Latest
from doppler.inputs.buffers import Buffers
from doppler.inputs.fields import shown

_STACKED = {
    "attn_qkv": ("attn_q", "attn_k", "attn_v"),
    "ffn_gate_up": ("ffn_gate", "ffn_up"),
}
_TENSOR = re.compile(r"blk\.([0-9]{1,6})\.(\w+)\.weight")
_ONE_ROW = "ffn_gate_inp_shexp"
_TURNED = ("attn_q", "attn_k")


def with_own_rows(
    config: ModelConfig, tensors: Mapping[str, Content], buffers: Buffers
) -> dict[str, Content]:
    """All tensors by name, each with the rows that it has in the model.

    Raises FormatError where a tensor that holds others has not the rows of all of them.
    """
    found: dict[str, Content] = {}
    latest = Latest()
    for name, content in tensors.items():
        for own, part in _parts(config, name, content):
            order = _order(config, own)
            found[own] = _reordered(part, order, latest, buffers) if order else part
    return found


def _parts(config: ModelConfig, name: str, content: Content) -> Iterator[tuple[str, Content]]:
    """The tensors that lie one below another in one, each a range of its bytes."""
    match = _TENSOR.fullmatch(name)
    if match is not None and match[2] == _ONE_ROW and len(content.shape) == 1:
        content = replace(content, shape=(1, *content.shape))
    is_stack = match is not None and match[2] in _STACKED and int(match[1]) < len(config.layers)
    if match is None or not is_stack:
        yield name, content
        return
    shape, members = config.shape(int(match[1])), _STACKED[match[2]]
    heights = {"attn_q": shape.q_width, "attn_k": shape.kv_width, "attn_v": shape.kv_width}
    rows = [heights.get(member, shape.ffn) for member in members]
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
    """A tensor with the rows of each head in another order."""
    if content.shape[0] % len(order):
        return content  # its shape is refused later

    async def make() -> bytes:
        data = buffers.to_bytes(await content.source.read(content.offset, content.bytes))
        rows = np.frombuffer(data, np.uint8)
        heads = rows.reshape(content.shape[0] // len(order), len(order), -1)
        return heads[:, list(order)].tobytes()

    source = Computed(content.source.name, content.bytes, make, latest, buffers)
    return replace(content, source=source, offset=0)

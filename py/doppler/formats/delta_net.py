"""Gated DeltaNet in files: what metadata says of it, and where its tensors are in a file's.

By their names here, files have some tensors that hold others, and some in another form:
  attn_q      of a model whose heads have output gates: of each head its query, then its gate
  ssm_in      of each key head its query, its key, the values of its value heads, and their gates
  ssm_ba      of each key head the betas of its value heads, then their alphas
  ssm_a_log   of which a is minus the exponential
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from doppler.config.mixers import DeltaNet
from doppler.config.model import ModelConfig
from doppler.errors import FormatError
from doppler.formats.content import Computed, Content, Latest
from doppler.inputs.buffers import Buffers
from doppler.inputs.fields import Fields, shown
from doppler.quantization.block_types import block_type
from doppler.quantization.dequantize import dequantize

_TENSOR = re.compile(r"blk\.([0-9]{1,6})\.(\w+)\.weight")
_HELD = {"attn_q": "queries with gates", "ssm_in": "queries to gates", "ssm_ba": "rates"}

Rows = npt.NDArray[np.int64]


def delta_of_hf(fields: Fields) -> DeltaNet:
    """What config.json says of the layers of type linear_attention."""
    return DeltaNet(
        key_heads=fields.integer("linear_num_key_heads"),
        value_heads=fields.integer("linear_num_value_heads"),
        key_dim=fields.integer("linear_key_head_dim"),
        value_dim=fields.integer("linear_value_head_dim"),
        taps=fields.integer("linear_conv_kernel_dim"),
    )


def delta_of_gguf(keys: Fields, tiled: bool) -> DeltaNet:
    """What GGUF's keys say, whose names are those of state space models."""
    heads, width = keys.integer("ssm.time_step_rank", least=1), keys.integer("ssm.inner_size")
    if width % heads:
        raise keys.error("ssm.inner_size", f"a multiple of ssm.time_step_rank, which is {heads}")
    return DeltaNet(
        key_heads=keys.integer("ssm.group_count"),
        value_heads=heads,
        key_dim=keys.integer("ssm.state_size"),
        value_dim=width // heads,
        taps=keys.integer("ssm.conv_kernel"),
        tiled=tiled,
    )


def parts_of(
    config: ModelConfig, tensors: Mapping[str, Content], buffers: Buffers
) -> dict[str, Content]:
    """All tensors by name, those that hold others apart, and each in the form of the model's.

    Raises FormatError for one that has not the rows of all that it is to hold, and where one of
    those is there twice.
    """
    found, latest = dict[str, Content](), Latest()
    for name, content in tensors.items():
        for own, part in _parts_of(config, name, content, latest, buffers).items():
            if own in found:
                raise FormatError(
                    f"{content.source.name}: the tensors {shown(found[own].name)} and "
                    f"{shown(content.name)} are both the model's {own}; the file is damaged"
                )
            found[own] = part
    return found


def _parts_of(
    config: ModelConfig, name: str, content: Content, latest: Latest, buffers: Buffers
) -> dict[str, Content]:
    """Those of one tensor."""
    match = _TENSOR.fullmatch(name)
    if match is None or int(match[1]) >= len(config.layers):
        return {name: content}
    index = int(match[1])
    if match[2] == "ssm_a_log":
        return {f"blk.{index}.ssm_a.weight": _minus_exponential(content, latest, buffers)}
    held = held_in(config, index, match[2])
    if held is None:
        return {name: content}
    rows = held.groups * sum(held.sizes)
    if content.shape != (rows, config.hidden):
        raise FormatError(
            f"{content.source.name}: tensor {shown(content.name)} has shape {content.shape}; with "
            f"{_HELD[match[2]]} in it, the config asks for {(rows, config.hidden)}"
        )
    return {
        f"blk.{index}.{member}.weight": taken(content, own, latest, buffers)
        for member, own in held.rows().items()
    }


@dataclass(frozen=True)
class Held:
    """Tensors in one: `groups` one below another, each of `sizes` rows of `members` in turn."""

    groups: int
    sizes: tuple[int, ...]
    members: tuple[str, ...]

    def rows(self) -> dict[str, Rows]:
        """Which rows are those of each member; of one that is named more than once, all of them."""
        starts = np.cumsum([0, *self.sizes])
        firsts = np.arange(self.groups)[:, None] * starts[-1]
        found: dict[str, Rows] = {}
        for member, start, size in zip(self.members, starts, self.sizes, strict=False):
            rows = (firsts + np.arange(start, start + size)).reshape(-1)
            found[member] = np.concatenate([found[member], rows]) if member in found else rows
        return found


def held_in(config: ModelConfig, index: int, name: str) -> Held | None:
    """What a layer's tensor holds of others; nothing, most of them."""
    net, shape = config.delta_net, config.shape(index)
    if name == "attn_q" and config.output_gate and shape.heads:
        return Held(shape.heads, (shape.head_dim,) * 2, ("attn_q", "attn_gate"))
    if net is None or name not in _HELD:
        return None
    each = net.value_heads // net.key_heads
    if name == "ssm_ba":
        return Held(net.key_heads, (each, each), ("ssm_beta", "ssm_alpha"))
    if name == "ssm_in":
        sizes = (net.key_dim, net.key_dim, *(each * net.value_dim,) * 2)
        return Held(net.key_heads, sizes, (*("attn_qkv",) * 3, "attn_gate"))
    return None


def taken(content: Content, rows: Rows, latest: Latest, buffers: Buffers) -> Content:
    """A tensor of some rows of another; of a vector, of some numbers, which are no blocks then."""

    async def make() -> bytes:
        data = buffers.to_bytes(await content.source.read(content.offset, content.bytes))
        return np.frombuffer(data, np.uint8).reshape(content.shape[0], -1)[rows].tobytes()

    shape = (len(rows), *content.shape[1:])
    length = content.bytes // content.shape[0] * len(rows)
    source = Computed(content.source.name, length, make, latest, buffers)
    return replace(content, shape=shape, source=source, offset=0)


def _minus_exponential(content: Content, latest: Latest, buffers: Buffers) -> Content:
    """−e^x of each number x, as F32."""
    kind = block_type("F32")

    async def make() -> bytes:
        data = buffers.to_bytes(await content.source.read(content.offset, content.bytes))
        values = dequantize(content.type.name, data, content.shape)
        with np.errstate(over="ignore"):  # what is infinite is found where logits are
            return (-np.exp(values)).astype("<f4").tobytes()

    length = kind.tensor_bytes(content.shape)
    source = Computed(content.source.name, length, make, latest, buffers)
    return replace(content, type=kind, source=source, offset=0)

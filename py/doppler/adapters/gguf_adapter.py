"""GGUF adapters: NAME.lora_a and NAME.lora_b beside adapter.lora.alpha, as llama.cpp has them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from doppler.adapters.lora_config import MOST_RANK, invocation_tokens
from doppler.adapters.mapping import Layout, Pair, deltas_of, of_experts
from doppler.adapters.peft import ReadAdapter
from doppler.config.model import ModelConfig
from doppler.errors import FormatError, UnsupportedError
from doppler.formats.architecture import Architecture
from doppler.formats.architectures import of_config
from doppler.formats.content import Content
from doppler.formats.gguf import Gguf, read_gguf
from doppler.formats.tensor_names import is_of_text_model, our_name
from doppler.inputs.buffers import Buffers
from doppler.inputs.fields import Fields, shown
from doppler.inputs.source import Source

_SIDE = re.compile(r"(.+)\.(lora_[ab])")
_STACK = re.compile(r"(blk\.[0-9]{1,6}\.ffn_(?:gate|up|down))_exps\.weight")
_TOKENS = "adapter.alora.invocation_tokens"


async def read_gguf_adapter(source: Source, base: ModelConfig, buffers: Buffers) -> ReadAdapter:
    """An adapter of a model of that config. Raises as read_peft does."""
    gguf = await read_gguf(source, buffers)
    fields, architecture = (
        Fields(gguf.metadata, gguf.name),
        of_config(base.architecture, "the base"),
    )
    _check_kind(fields, architecture)
    alpha = fields.number("adapter.lora.alpha", 0.0)
    modules = _modules(gguf)
    pairs: list[Pair] = []
    for name, (a, b) in modules.items():
        pairs += _pairs(base, architecture, name, (a, b), alpha)
    layout = Layout(architecture.gguf_pairs, architecture.gguf_tiled)
    deltas = await deltas_of(base, pairs, layout, buffers)
    return ReadAdapter(deltas, invocation_tokens(fields, _TOKENS))


def _check_kind(fields: Fields, architecture: Architecture) -> None:
    kind = fields.text("general.type", "model")
    if kind != "adapter":
        raise FormatError(f"{fields.where} is no adapter: its general.type is {shown(kind)}")
    if fields.text("adapter.type", "") != "lora":
        raise UnsupportedError(
            f"{fields.where}: adapter.type is {shown(fields.get('adapter.type'))}; Doppler reads "
            "lora alone"
        )
    if (of := fields.text("general.architecture")) != architecture.gguf_name:
        raise FormatError(
            f"{fields.where} is an adapter of a model of architecture {shown(of)}; the base is "
            f"{architecture.gguf_name}"
        )


def _modules(gguf: Gguf) -> dict[str, tuple[Content, Content]]:
    """A and B by the name of the matrix that they are of."""
    found: dict[str, dict[str, Content]] = {}
    for name, t in gguf.tensors.items():
        match = _SIDE.fullmatch(name)
        if match is None:
            raise FormatError(
                f"{gguf.name}: tensor {shown(name)} is none of an adapter, whose names end in "
                ".lora_a and .lora_b"
            )
        content = Content(name, t.type, t.shape, t.source, t.offset)
        found.setdefault(match[1], {})[match[2]] = content
    for name, sides in found.items():
        for side in ("lora_a", "lora_b"):
            if side not in sides:
                raise FormatError(
                    f"{gguf.name}: {shown(name)} has no {side}, without which the other is "
                    "nothing; the adapter is incomplete"
                )
        if not is_of_text_model(name):
            raise UnsupportedError(
                f"{gguf.name}: {shown(name)} is of what sees or hears, which Doppler does not adapt"
            )
    return {name: (sides["lora_a"], sides["lora_b"]) for name, sides in found.items()}


def _pairs(
    base: ModelConfig,
    architecture: Architecture,
    name: str,
    sides: Sequence[Content],
    alpha: float,
) -> list[Pair]:
    """That of a matrix, or of each expert of a stack. Without an alpha nothing is scaled."""
    a, b = sides
    rank = b.shape[-1]
    if rank > MOST_RANK:
        raise FormatError(f"{a.source.name}: {shown(name)} has rank {rank}, above {MOST_RANK}")
    pair = Pair(our_name(architecture, name), name, a, b, alpha / rank if alpha else 1.0)
    match = _STACK.fullmatch(name)
    if match is None:
        return [pair]
    if base.experts is None:
        raise FormatError(
            f"{a.source.name}: {shown(name)} is of experts, which the base does not have: the "
            "adapter is of another model"
        )
    stacked = Pair(f"{match[1]}.*.weight", name, a, b, pair.scale)
    return of_experts(stacked, base.experts.count)

"""Which tensors become one matrix on the GPU: those that multiply the same activations.

One matrix is one dispatch. The matrices of all experts of a layer are one too, so that kernels find
an expert's by its number.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from doppler.errors import UnsupportedError
from doppler.store.manifest import Manifest, Tensor

STACKS: Mapping[str, tuple[str, ...]] = {
    "attn_qkv": (
        *("attn_q", "attn_k", "attn_v"),
        *("attn_qkv", "attn_gate", "ssm_beta", "ssm_alpha"),  # of Gated DeltaNet, the gate of both
    ),
    "ffn_gate_up": ("ffn_gate", "ffn_up"),
    "ffn_gate_inp": ("ffn_gate_inp", "ffn_gate_inp_shexp"),
}
EXPERT_STACKS: Mapping[str, tuple[str, ...]] = {
    "ffn_gate_up_exps": ("ffn_gate", "ffn_up"),
    "ffn_down_exps": ("ffn_down",),
}
# What a type becomes, without loss, where it is stacked with that: a few more bits for some
# matrices spare a dispatch a layer.
WIDER: Mapping[str, str] = {"Q4_0": "Q5_0", "Q5_0": "Q8_0"}


@dataclass(frozen=True)
class Run:
    """Tensors that lie one below another in one matrix; those of each of `experts` together."""

    tensors: tuple[Tensor, ...]
    experts: int = 0

    @property
    def first(self) -> str:
        """Name of the first tensor, by which the matrix goes."""
        return self.tensors[0].name

    @property
    def type(self) -> str:
        """The block type of the matrix."""
        return _common_type(self.tensors) or self.tensors[0].type

    @property
    def rows(self) -> int:
        """Of the matrix."""
        return sum(tensor.shape[0] for tensor in self.tensors)

    def places(self) -> Iterator[tuple[Tensor, int]]:
        """Each tensor and its first row."""
        heights = (tensor.shape[0] for tensor in self.tensors)
        return zip(self.tensors, itertools.accumulate(heights, initial=0), strict=False)


def stacks(
    manifest: Manifest, slots: Mapping[int, int] = MappingProxyType({})
) -> Iterator[tuple[str, list[Run]]]:
    """Each stack's name ("blk.0.attn_qkv") and its runs, as few as types allow.

    Of layers that have `slots`, their experts' have the first so many only.
    Raises UnsupportedError where the experts of a layer have different types.
    """
    config = manifest.config
    present = {tensor.name for tensor in manifest.tensors}
    for index in range(len(config.layers)):
        prefix = f"blk.{index}"
        for name, members in STACKS.items():
            names = (f"{prefix}.{member}.weight" for member in members)
            if parts := [manifest.tensor(it) for it in names if it in present]:
                yield f"{prefix}.{name}", _runs(parts)
        if numbers := config.expert_numbers(index):
            for name, members in EXPERT_STACKS.items():
                each = [
                    [manifest.tensor(f"{prefix}.{m}.{expert}.weight") for m in members]
                    for expert in numbers
                ]
                count = slots.get(index, len(each))
                yield f"{prefix}.{name}", _expert_runs(each, manifest.name, count)


def _runs(parts: Sequence[Tensor]) -> list[Run]:
    runs: list[list[Tensor]] = []
    agree = _common_type(parts) is not None
    for tensor in parts:
        # Relayout starts at words, so what stands above must be a multiple of four rows.
        fits = runs and (agree or runs[-1][0].type == tensor.type)
        if fits and runs[-1][-1].shape[0] % 4 == 0:
            runs[-1].append(tensor)
        else:
            runs.append([tensor])
    return [Run(tuple(run)) for run in runs]


def _expert_runs(parts: Sequence[Sequence[Tensor]], where: str, count: int) -> list[Run]:
    """Of the first `count`: one run, or one for each member where the types of an expert's matrices
    differ.
    """
    for alike in zip(*parts, strict=True):
        other = next((tensor for tensor in alike if tensor.type != alike[0].type), None)
        if other is not None:
            raise UnsupportedError(
                f"{where}: tensor {other.name} has block type {other.type} and {alike[0].name} "
                f"{alike[0].type}; the experts of a layer must be quantised alike"
            )
    first = parts[:count]
    if _common_type(parts[0]) is not None:
        return [Run(tuple(tensor for expert in first for tensor in expert), count)]
    return [Run(alike, count) for alike in zip(*first, strict=True)]


def _common_type(tensors: Sequence[Tensor]) -> str | None:
    """The type that all of them are, or can become without loss."""
    types = {tensor.type for tensor in tensors}
    if len(types) == 1:
        return types.pop()
    return next((wide for own, wide in WIDER.items() if types == {own, wide}), None)

"""Float tensors of a checkpoint as sources of quantised blocks, computed as they are read.

So a conversion that quantises differs from one that does not only in where its bytes come from.
Weights go through Python here, in the page too, a piece at a time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from doppler.errors import FormatError, RequestError
from doppler.inputs.buffers import Buffer, Buffers
from doppler.quantization.block_types import BLOCK_TYPES, QUANTS, BlockType, Quant
from doppler.quantization.dequantize import Bytes, dequantize
from doppler.quantization.quantize import quantize
from doppler.store.byte_layout import Place

PIECE = 1 << 15  # blocks computed at once: 4 MiB of float32, and a few times that
_ROUTER = "ffn_gate_inp"  # picks a mixture's experts: small, and an error takes other experts
# These become Q8_0 always. With SmolLM2 135M and Gemma 3 270M, a head in Q4_0 alone costs 0.08 nats
# of KL divergence (all else in Q4_0: 0.3); GGML gives it more bits, too. An untied embedding costs
# 0.01 to 0.02, and a token reads one row of it, so that its bits cost room and no time.
_OUTER = ("token_embd.weight", "output.weight")
# So do the few rows that say how fast a memory fades and learns: what is wrong there adds up.
_RATES = (".ssm_alpha.weight", ".ssm_beta.weight")


def quantized(
    places: Mapping[str, Place],
    shapes: Mapping[str, tuple[int, ...]],
    quant: Quant,
    buffers: Buffers,
) -> Mapping[str, Place]:
    """The places of a model's tensors, by GGUF name, with quantised ones in place of floats.

    That is for matrices whose rows are whole blocks. Vectors, a mixture's routers, other matrices
    and what has blocks already stay. Raises RequestError where `quant` is not one of QUANTS.
    """
    if quant not in QUANTS:
        raise RequestError(f"quant {quant!r} is not one of {', '.join(QUANTS)}")
    if quant == "none":
        return places
    return {
        name: _place(name, place, shapes[name], quant, buffers) for name, place in places.items()
    }


def _place(
    name: str, place: Place, shape: tuple[int, ...], quant: Quant, buffers: Buffers
) -> Place:
    is_fine = name in _OUTER or name.endswith(_RATES)
    target = BLOCK_TYPES["Q8_0" if is_fine else quant.upper()]
    whole = len(shape) == 2 and shape[1] % target.elements == 0
    if not whole or place[2].elements > 1 or _ROUTER in name:
        return place
    return QuantizedSource(name, place, math.prod(shape), target, buffers), 0, target


class QuantizedSource:
    """The blocks of one tensor, made of a float tensor that lies elsewhere.

    Rows are whole blocks, so that the tensor is a run of `weights` / 32 of them. A read computes
    the blocks that it touches; only one that two reads share is computed twice.
    """

    def __init__(
        self, tensor: str, place: Place, weights: int, target: BlockType, buffers: Buffers
    ) -> None:
        self._source, self._offset, self._float = place
        self._count = weights // target.elements
        self._target, self._buffers = target, buffers
        self.name = f"tensor {tensor!r} of {self._source.name}"

    async def size(self) -> int:
        return self._count * self._target.bytes

    async def read(self, offset: int, length: int) -> Buffer:
        """Raises FormatError, too: for weights that cannot be quantised."""
        size = self._target.bytes
        first, end = offset // size, -(-(offset + length) // size)
        assert end <= self._count, f"{self.name} has {self._count} blocks"
        data = self._buffers.empty((end - first) * size)
        for start in range(first, end, PIECE):
            blocks = await self._blocks(start, min(start + PIECE, end))
            at = (start - first) * size
            self._buffers.put(data, at, self._buffers.from_bytes(blocks.tobytes()))
        skipped = offset - first * size
        return self._buffers.part(data, skipped, skipped + length)

    async def _blocks(self, start: int, end: int) -> Bytes:
        """Blocks start .. end - 1, [end - start, bytes of one]."""
        width = self._target.elements * self._float.bytes
        data = await self._source.read(self._offset + start * width, (end - start) * width)
        shape = (end - start, self._target.elements)
        weights = dequantize(self._float.name, self._buffers.to_bytes(data), shape)
        try:
            return quantize(self._target.name, weights)
        except FormatError as error:
            raise FormatError(f"{self.name}: {error}") from error

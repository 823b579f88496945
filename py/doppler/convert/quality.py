"""What a model lost when it was quantised: its next-token distributions against those from before.

The measure works on logits. Weights are read and dequantised a tensor at a time, when the forward
pass in references.py asks for them, so that memory holds the largest of them, not the model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from doppler.inputs.buffers import Buffers
from doppler.quantization.dequantize import Floats, dequantize
from doppler.store.byte_layout import Place

PIECE = 1 << 20  # weights dequantised at once: a whole number of blocks of every type
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Quality:
    """Of `tokens` predictions. KL divergences of the quantised model from the other, in nats."""

    tokens: int
    kl_mean: float
    kl_median: float
    kl_p99: float  # 99th percentile
    agreement: float  # share of predictions with the same likeliest token
    perplexity_before: float  # of the text, by the model that was not quantised
    perplexity: float

    def described(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"KL divergence {self.kl_mean:.4f} nats (median {self.kl_median:.4f}, 99th percentile "
            f"{self.kl_p99:.4f}), top-1 agreement {100 * self.agreement:.1f} %, "
            f"perplexity {self.perplexity_before:.2f} -> {self.perplexity:.2f}"
        )


def compare(before: Floats, after: Floats, following: Sequence[int]) -> Quality:
    """Logits [n, vocab] of two models at the same positions, and the token that followed each."""
    rows = np.array([_position(*row) for row in zip(before, after, following, strict=True)])
    divergence, same, loss_before, loss = rows.T
    return Quality(
        tokens=len(rows),
        kl_mean=float(divergence.mean()),
        kl_median=float(np.median(divergence)),
        kl_p99=float(np.percentile(divergence, 99)),
        agreement=float(same.mean()),
        perplexity_before=math.exp(loss_before.mean()),
        perplexity=math.exp(loss.mean()),
    )


def _position(before: Floats, after: Floats, token: int) -> tuple[float, float, float, float]:
    """KL(before ‖ after), whether both choose the same, and -log of what each gave to `token`."""
    p, q = _log_softmax(before), _log_softmax(after)
    divergence = float(np.exp(p) @ (p - q))
    return divergence, float(p.argmax() == q.argmax()), float(-p[token]), float(-q[token])


def _log_softmax(logits: Floats) -> Doubles:
    shifted = logits.astype(np.float64) - logits.max()
    out: Doubles = shifted - np.log(np.exp(shifted).sum())
    return out


async def read_weights(weights: Floats, place: Place, buffers: Buffers) -> None:
    """Fills float32 `weights` with a tensor; of its bytes, memory holds a piece at a time."""
    source, offset, block = place
    flat = weights.reshape(-1)
    for start in range(0, flat.size, PIECE):
        part = flat[start : start + PIECE]
        at, length = block.row_bytes(start), block.row_bytes(part.size)
        data = buffers.to_bytes(await source.read(offset + at, length))
        part[:] = dequantize(block.name, data, part.shape)

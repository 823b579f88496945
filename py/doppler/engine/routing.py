"""Which experts the tokens of a text use: for traces, of which policies are judged."""

from __future__ import annotations

from collections.abc import Sequence

from doppler.config.model import ModelConfig
from doppler.engine.protocol import Chunk
from doppler.engine.runner import GpuRunner

CHUNK = 16  # tokens: what all layers' routers choose for them is read back at once

Routes = list[list[list[int]]]  # of each token, of each layer; nothing where there is no router


async def routes(runner: GpuRunner, config: ModelConfig, ids: Sequence[int], batch: int) -> Routes:
    """Of every id, in order, by running them anew in chunks of `batch` tokens at most."""
    size, layers, found = min(CHUNK, batch), range(len(config.layers)), Routes()
    used = config.experts.used if config.experts else 0
    for start in range(0, len(ids), size):
        piece = ids[start : start + size]
        await runner.bring(piece)
        chosen = await runner.routes(Chunk(piece, start, size, is_end=False))
        for at in range(0, used * len(piece), used):
            found.append([list(chosen.get(layer, ()))[at : at + used] for layer in layers])
    return found

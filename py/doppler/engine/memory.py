"""What a running model keeps on the GPU besides its weights, and how the host writes and reads it.

Allocated once when a model is loaded: activations for the largest batch, the KV cache for the
whole context, or for what a layer's window makes of it, rope tables, the state that decode steps
share, and the ring of sampled ids.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from doppler.config import ModelConfig, Rope
from doppler.errors import DeviceError, DopplerError
from doppler.gpu.device import Gpu, GpuBuffer, MemoryKind, Slice
from doppler.gpu.kernels import Kernels
from doppler.gpu.step import Step
from doppler.plan.arena import share
from doppler.plan.bindings import Memory, Widths
from doppler.plan.decode import MOST_SPLITS
from doppler.plan.moe import CPU_TILE, most_tiles
from doppler.sampling import Sampling, blocks_of
from doppler.weights.placement import aligned

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

RING = 256  # sampled ids kept on the GPU (kernels/sample.wgsl)
BROKEN = 0xFFFFFFFE  # in the ring, in place of an id: a logit was infinite or NaN
RING_AT = 256  # bytes into the buffer that state and ring share
MOST_AHEAD = RING // 4  # tokens queued at once: two such batches may be unread
HEAD_ROWS = 16  # positions whose logits are computed at once when all are asked for
ROPE_STEP = 64  # positions in the fine rope table (kernels/rope.wgsl)
CAPACITY_STEP = 64  # positions by which the cache of a layer with a window grows


def capacity_of(window: int, context: int, batch: int) -> int:
    """Positions that the cache of a layer with that window (0: none) holds.

    A batch is written before its first token looks back: that one's window must still be there. It
    must be, too, where an answer ended and what was queued behind it has been run.
    """
    if not window:
        return context
    return min(context, aligned(window + max(batch, 2 * MOST_AHEAD), CAPACITY_STEP))


def rope_table(rope: Rope, head_dim: int, context: int) -> array[float]:
    """(cos, sin) [64 + ceil(context/64), head_dim/2, 2]: positions 0..63, then multiples of 64.

    The second have the magnitude that the rope gives cos and sin. Angles are exact in float64; the
    kernel joins the two by the addition theorem, since WGSL's own sine is not accurate for large
    angles.
    """
    frequencies = rope.inverse_frequencies(head_dim)
    table = array("f")
    fine = [(position, 1.0) for position in range(ROPE_STEP)]
    coarse = [(position, rope.magnitude) for position in range(0, context, ROPE_STEP)]
    for position, magnitude in fine + coarse:
        for frequency in frequencies:
            angle = position * frequency
            table.extend((magnitude * math.cos(angle), magnitude * math.sin(angle)))
    return table


@dataclass(frozen=True)
class Reading:
    """A copy of state and ring that the GPU makes after what was queued before it."""

    data: Awaitable[bytes]

    async def tokens(self, known: int) -> list[int]:
        """Ids sampled in this generation after the first `known`, as far as logits were numbers.

        Raises DopplerError where the next one's were not.
        """
        words = array("I", await self.data)
        sampled, ring = words[2], words[RING_AT // 4 :]
        ids = [ring[index % RING] for index in range(known, sampled)]
        if ids[:1] == [BROKEN]:
            raise DopplerError(
                f"token {known + 1} of the answer has logits that are infinite "
                "or NaN: the model's numbers overflow, or its weights are damaged; load it with "
                "precision f32 and keys and values in f32, or use another file of it"
            )
        return list(takewhile(lambda token: token != BROKEN, ids))


class EngineMemory:
    """The buffers of one loaded model.

    `token` is what plans for one token bind, `slices` what plans for a batch do: the same but for
    the activations.
    """

    def __init__(
        self, gpu: Gpu, config: ModelConfig, context: int, batch: int, half_cache: bool
    ) -> None:
        self.context, self.batch, self.half_cache = context, batch, half_cache
        self.capacities = tuple(capacity_of(it.window, context, batch) for it in config.layers)
        self._config = config
        self._widths = Widths.of(config)
        self._owned: list[GpuBuffer] = []
        self._logits_rows: Slice | None = None
        try:
            self.token = self._allocate(gpu)
        except BaseException:
            self.destroy()
            raise
        self.slices = self.token

    def add_batch(self, gpu: Gpu, plan: Callable[[Memory], Sequence[Step]]) -> None:
        """Allocates the activations of a batch for a plan, of which `plan` shows the steps."""
        rows = aligned(self.batch, HEAD_ROWS)
        sizes = {name: 4 * rows * width for name, width in self._widths.by_buffer().items()}
        sizes["logits"] = self.token.logits.size  # a batch's activations are done with by then
        apart: dict[str, Any] = {name: _stand_in(size) for name, size in sizes.items()}
        groups = share(plan(replace(self.token, **apart)), apart)
        if not self._widths.are_whole:
            # What is beyond a row's end must stay zero: no other activation may lie there.
            groups = [[name] for group in groups for name in group]
        shared: dict[str, Any] = {}
        for group in groups:
            part = self._own(gpu, sizes[group[0]], "activations", " and ".join(group))
            shared |= {name: Slice(part.buffer, 0, aligned(sizes[name], 16)) for name in group}
        self.slices = replace(self.token, **shared)
        self.token = replace(self.token, logits=self.slices.logits)

    def write_tables(self, gpu: Gpu) -> None:
        """Fills what never changes: the rope tables."""
        for rope, angles in zip(self._config.ropes, self.token.angles, strict=True):
            table = rope_table(rope, self._config.head_dim, self.context)
            gpu.write(angles.buffer, 0, table.tobytes())

    def destroy(self) -> None:
        """Gives every buffer back."""
        for buffer in self._owned:
            buffer.destroy()
        self._owned.clear()

    def _allocate(self, gpu: Gpu) -> Memory:
        c, rows = self._config, aligned(self.batch, HEAD_ROWS)
        activations = {
            name: self._own(gpu, 4 * width, "activations", f"{name} of a token")
            for name, width in self._widths.by_buffer().items()
        }
        control = self._own(gpu, RING_AT + 4 * RING, "activations", "state and ring")
        logits = 4 * aligned(c.vocab, 4)
        angles = 4 * c.head_dim * (ROPE_STEP + -(-self.context // ROPE_STEP))
        return Memory(
            **activations,
            logits=self._own(gpu, logits, "activations", "logits")
            if self.batch == 1
            else _stand_in(logits),
            angles=tuple(self._own(gpu, angles, "activations", "rope table") for _ in c.ropes),
            keys=self._cache(gpu, "keys"),
            values=self._cache(gpu, "values"),
            parts=self._own(gpu, 4 * MOST_SPLITS * c.q_width, "activations", "parts"),
            marks=self._own(gpu, 8 * MOST_SPLITS * c.heads, "activations", "marks"),
            tokens=self._own(gpu, 4 * rows, "activations", "tokens"),
            state=Slice(control.buffer, 0, 16),
            control=control,
            seen=self._own(gpu, 4 * -(-c.vocab // 32), "activations", "seen"),
            sampling=self._own(gpu, 32, "activations", "sampling"),
            tops=self._own(gpu, 4 * blocks_of(c.vocab), "activations", "tops"),
            top_ids=self._own(gpu, 4 * blocks_of(c.vocab), "activations", "top ids"),
            history=self._own(gpu, 4 * self.context, "activations", "history"),
            walk=self._own(gpu, 4, "activations", "walk"),
            **self._slots(gpu, rows),
        )

    def _slots(self, gpu: Gpu, rows: int) -> dict[str, Slice]:
        """What says which experts the tokens of a batch use; nothing where there are none."""
        experts = self._config.experts
        if experts is None:
            return {}
        slots = rows * experts.used
        sizes = {"chosen": 4 * slots, "shares": 4 * slots, "order": 4 * slots}
        sizes["tiles"] = 16 * most_tiles(slots, experts.count, CPU_TILE)
        return {name: self._own(gpu, size, "activations", name) for name, size in sizes.items()}

    def _cache(self, gpu: Gpu, label: str) -> tuple[Slice, ...]:
        each = (2 if self.half_cache else 4) * self._config.kv_width
        return tuple(
            self._own(gpu, each * capacity, "kv", f"{label} {index}")
            for index, capacity in enumerate(self.capacities)
        )

    def _own(self, gpu: Gpu, size: int, kind: MemoryKind, label: str) -> Slice:
        most = gpu.limits["maxStorageBufferBindingSize"]
        if size > most:  # it is bound whole
            raise DeviceError(
                f"{label}: {size} bytes are more than the {most} that this adapter binds at once; "
                "use a smaller model, context or batch"
            )
        buffer = gpu.buffer(aligned(size, 16), kind, label)
        self._owned.append(buffer)
        return Slice(buffer, 0, buffer.size)

    def write_batch(self, gpu: Gpu, ids: Sequence[int], position: int, seed: int) -> None:
        """Sets the batch that the next recording runs on, and starts a new generation."""
        gpu.write(self.slices.tokens.buffer, 0, array("I", ids).tobytes())
        state = array("I", (position, len(ids), 0, seed))
        gpu.write(self.slices.state.buffer, 0, state.tobytes())

    def write_count(self, gpu: Gpu, count: int) -> None:
        """Sets how many tokens of the batch there are."""
        gpu.write(self.slices.state.buffer, 4, array("I", (count,)).tobytes())

    def write_sampling(
        self, gpu: Gpu, kernels: Kernels, sampling: Sampling, ids: Sequence[int]
    ) -> None:
        """Sets how tokens are chosen, and the ids so far, which count as seen: the prompt's."""
        vocab = self._config.vocab
        packed = kernels.pack("sample", sampling.params(vocab))
        gpu.write(self.slices.sampling.buffer, 0, packed)
        bits = bytearray(self.slices.seen.size)
        for token in ids:
            bits[token >> 3] |= 1 << (token & 7)
        gpu.write(self.slices.seen.buffer, 0, bits)
        gpu.write(self.slices.history.buffer, 0, array("I", ids).tobytes())

    def start_read(self, gpu: Gpu) -> Reading:
        """Queues a copy of state and ring now; await its tokens later."""
        return Reading(gpu.start_read(Slice(self.slices.state.buffer, 0, RING_AT + 4 * RING)))

    def head_rows(self, gpu: Gpu, row: int) -> tuple[Slice, Slice]:
        """(normed states from `row` on, room for their logits), for HEAD_ROWS positions."""
        if self._logits_rows is None:
            size = 4 * HEAD_ROWS * aligned(self._config.vocab, 4)
            self._logits_rows = self._own(gpu, size, "activations", "logits of all positions")
        normed, stride = self.slices.normed, 4 * self._widths.hidden
        return Slice(normed.buffer, row * stride, HEAD_ROWS * stride), self._logits_rows

    async def read_logits(self, gpu: Gpu, logits: Slice, rows: int) -> npt.NDArray[np.float32]:
        """The first `rows` rows of a logits buffer, without padding: [rows, vocab]."""
        import numpy as np  # the page has it only once logits are asked for

        stride = aligned(self._config.vocab, 4)
        data = await gpu.start_read(Slice(logits.buffer, 0, 4 * rows * stride))
        values = np.frombuffer(data, dtype=np.float32).reshape(rows, stride)
        return values[:, : self._config.vocab]


def _stand_in(size: int) -> Slice:
    """What a plan binds that is only looked at."""
    return Slice(GpuBuffer(None, size, "activations", None), 0, size)

"""The running state of a model on the GPU: allocated once, then written and read by the host.

plan/bindings.py says what there is: activations for the largest batch, the KV cache for the whole
context, or for what a layer's window makes of it, the recurrent state of layers that have one, and
copies of it, rope tables, the state that decode steps share, and the ring of sampled ids.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, takewhile
from typing import TYPE_CHECKING

from doppler.config.rope import Rope
from doppler.errors import DeviceError, DopplerError
from doppler.gpu.binder import Binder
from doppler.gpu.device import MemoryKind
from doppler.gpu.step import View
from doppler.plan import bindings
from doppler.plan.bindings import RING, RING_AT, ROPE_STEP, MemoryLayout
from doppler.sampling import Sampling
from doppler.weights.placement import aligned

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

BROKEN = 0xFFFFFFFE  # in the ring, in place of an id: a logit was infinite or NaN


def rope_table(rope: Rope, head_dim: int, context: int) -> array[float]:
    """(cos, sin) [64 + ceil(context/64), head_dim/2, 2]: positions 0..63, then multiples of 64.

    The second have the magnitudes that the rope gives cos and sin. Angles are exact in float64; the
    kernel joins the two by the addition theorem, since WGSL's own sine is not accurate for large
    angles.
    """
    frequencies = rope.inverse_frequencies(head_dim, context)
    table, magnitudes = array("f"), rope.magnitudes(head_dim)
    fine = [(position, [1.0] * len(frequencies)) for position in range(ROPE_STEP)]
    coarse = [(position, magnitudes) for position in range(0, context, ROPE_STEP)]
    for position, scales in fine + coarse:
        for frequency, magnitude in zip(frequencies, scales, strict=True):
            angle = position * frequency
            table.extend((magnitude * math.cos(angle), magnitude * math.sin(angle)))
    return table


@dataclass(frozen=True)
class Halt:
    """A plan that was halted at the router of `layer`, after `sampled` tokens."""

    layer: int
    sampled: int


@dataclass(frozen=True)
class Reading:
    """A copy of state and ring that the GPU makes after what was queued before it."""

    data: Awaitable[bytes]

    async def halt(self) -> Halt | None:
        """Why nothing was computed any more, if so."""
        words = array("I", await self.data)
        return Halt(words[4] - 1, words[2]) if words[4] else None

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


@dataclass(frozen=True)
class Demand:
    """What a batch wants of a layer: its experts, with the pairs of each; and when each of all was
    used last, by a clock, and how often so far, of this layer and the next.
    """

    wanted: Mapping[int, int]
    uses: Mapping[int, tuple[Sequence[int], Sequence[int]]]


@dataclass(frozen=True)
class Watch(Reading):
    """A reading of a mixture that may be halted, which has what was missed, too: a halt waits for
    one answer of the GPU, not for two.
    """

    layout: MemoryLayout

    async def demand(self, layer: int) -> Demand:
        """Of the layer that halted the plan."""
        layout = self.layout
        words, views = array("I", await self.data), layout.watched
        ends = accumulate(view.size // 4 for view in views)
        _, counts, uses = (
            words[end - it.size // 4 : end] for it, end in zip(views, ends, strict=True)
        )
        layers = [it for it in (layer, layer + 1) if it in layout.slots]
        return Demand(
            {expert: count for expert, count in enumerate(counts) if count},
            {it: layout.split_uses(it, uses) for it in layers},
        )


class EngineMemory:
    """The running state of one loaded model, in buffers that its binder has."""

    def __init__(self, binder: Binder, layout: MemoryLayout) -> None:
        self._binder, self._layout = binder, layout
        self._config, self._shared = layout.config, layout.of_token

    def allocate(self, groups: Iterable[Sequence[str]]) -> None:
        """Makes every buffer; of a batch's activations, each group is one (plan/arena.py)."""
        layout = self._layout
        for name, size in layout.activations.items():
            self._own([name], size, "activations")
        for name, size in (layout.cache | layout.states).items():
            self._own([name], size, "kv")
        for group in groups:
            self._own(group, layout.batch_activations[group[0]], "activations")

    def write_tables(self) -> None:
        """Fills what never changes: the rope tables."""
        for index, rope in enumerate(self._config.ropes):
            table = rope_table(rope, self._config.rope_dim(index), self._layout.context)
            self._write(bindings.rope_table(index), table)

    def _own(self, names: Sequence[str], size: int, kind: MemoryKind) -> None:
        most = self._binder.device.gpu.limits["maxStorageBufferBindingSize"]
        if size > most:  # it is bound whole
            raise DeviceError(
                f"{' and '.join(names)}: {size} bytes are more than the {most} that this adapter "
                "binds at once; use a smaller model, context or batch"
            )
        self._binder.allocate(names, aligned(size, 16), kind)

    def write_batch(self, ids: Sequence[int], position: int, seed: int, step: int = 0) -> None:
        """Sets the batch that the next recording runs on, and starts a new generation; or goes on
        with one of which `step` tokens were sampled before.
        """
        self._write("tokens", array("I", ids))
        self._write("state", array("I", (position, len(ids), step, seed, 0)))

    def write_count(self, count: int) -> None:
        """Sets how many tokens of the batch there are."""
        self._write("state", array("I", (count,)), at=4)

    def halt(self, cause: int) -> None:
        """Stops what is queued from here on; `cause` is not 0."""
        self.write_count(0)
        self._write("state", array("I", (cause,)), at=16)

    def end_halt(self, count: int) -> None:
        """Lets what is queued from here on run again; the batch has `count` tokens."""
        self.write_count(count)
        self._write("state", array("I", (0,)), at=16)

    def write_sampling(self, sampling: Sampling, ids: Sequence[int]) -> None:
        """Sets how tokens are chosen, and the ids so far, which count as seen: the prompt's."""
        vocab = self._config.vocab
        packed = self._binder.device.kernels.pack("sample", sampling.params(vocab))
        self._binder.write(self._shared["sampling"], packed)
        bits = bytearray(self._shared["seen"].size)
        for token in ids:
            bits[token >> 3] |= 1 << (token & 7)
        self._binder.write(self._shared["seen"], bits)
        self._write("history", array("I", ids))

    def write_mask(self, mask: bytes) -> None:
        """Sets which tokens masked samples choose from: a bit each, in whole words."""
        self._binder.write(self._shared["mask"], mask)

    def start_read(self) -> Reading:
        """Queues a copy of state and ring now; await its tokens later."""
        return Reading(self._binder.start_read(self._shared["control"]))

    def start_read_routes(self, layer: int, size: int, count: int) -> Awaitable[bytes]:
        """Queues a copy of the experts that the router of a layer has chosen for the first `count`
        tokens of a chunk of `size`: u32 [count, used].
        """
        layout, used = self._layout, self._layout.widths.used
        view = (layout.of_token if size == 1 else layout.of_batch)[
            "routed" if layer in layout.slots else "topk_ids"
        ]
        return self._binder.start_read(View(view.buffer, view.offset, 4 * count * used))

    def start_watch(self) -> Watch:
        """Queues a copy of state, ring and what lookups found now."""
        return Watch(self._binder.start_join(self._layout.watched), self._layout)

    def start_read_expected(self) -> Awaitable[bytes]:
        """Queues a copy of what a layer is expected to use: u32 experts, the likeliest first."""
        return self._binder.start_read(self._shared["expected"])

    async def read_pairs(self) -> int:
        """Of a token and an expert that it uses: all that lookups have found since the start."""
        return sum(map(sum, (await self.read_uses()).values()))

    async def read_uses(self) -> dict[int, Sequence[int]]:
        """How often lookups have found each expert since the start, by the layers with slots."""
        words = array("I", await self._binder.start_read(self._shared["uses"]))
        return {layer: self._layout.split_uses(layer, words)[1] for layer in self._layout.slots}

    def write_pass_table(self, table: bytes) -> None:
        """Sets which experts the next pass has, and where."""
        self._write("pass table", array("I", table))

    def head_rows(self, row: int) -> tuple[View, View]:
        """(normed states from `row` on, room for their logits), for HEAD_ROWS positions."""
        logits = self._layout.rows_of_logits
        if logits.buffer not in self._binder:
            self._own([logits.buffer], logits.size, "activations")
        return self._layout.normed_rows(row), logits

    async def read_logits(self, logits: View, rows: int) -> npt.NDArray[np.float32]:
        """The first `rows` rows of a logits buffer, without padding: [rows, vocab]."""
        import numpy as np  # the page has it only once logits are asked for

        stride = aligned(self._config.vocab, 4)
        data = await self._binder.start_read(View(logits.buffer, 0, 4 * rows * stride))
        values = np.frombuffer(data, dtype=np.float32).reshape(rows, stride)
        return values[:, : self._config.vocab]

    def _write(self, name: str, data: array[int] | array[float], at: int = 0) -> None:
        self._binder.write(self._shared[name], data.tobytes(), at)

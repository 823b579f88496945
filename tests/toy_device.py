"""A device of which a sequence notices nothing but that it is a toy: for tests of the loop.

Its model has no weights: the next id is a hash of the ids that the KV cache holds where each layer
looks. So an id that was not run, or was overwritten, makes the answer wrong. Work is queued, and
computed when something is awaited; steps take time by a clock of its own.
"""

from __future__ import annotations

import asyncio
import functools
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from doppler import references
from doppler.config.layer import Layer
from doppler.engine.chunks import ChunkSizes
from doppler.engine.memory import BROKEN, Reading
from doppler.engine.prefix_cache import PrefixCache
from doppler.engine.protocol import Chunk
from doppler.engine.sequence import Session
from doppler.engine.speculate import StepTimes
from doppler.errors import DeviceError
from doppler.plan.bindings import MOST_AHEAD, RING, RING_AT, capacity_of
from doppler.plan.draft import DRAFTS, LONGEST
from doppler.sampling import Sampling


@dataclass(frozen=True)
class ToyModel:
    """Layers with these windows (0: none). `memory`: how many of the last ids it goes by.

    Where it `recurs`, it goes by a state, too: a hash of all ids that were run, in their order.

    From `breaks_at` ids on, its logits are NaN. With a mask, the id is the next that is
    allowed, from there on.
    """

    windows: tuple[int, ...] = (0,)
    memory: int = 4096
    vocab: int = 11
    breaks_at: int = 1 << 31
    recurs: bool = False

    def next(self, seen: Sequence[Sequence[int]], seed: int, mask: bytes | None = None) -> int:
        """The id after those that each layer sees, the latest last."""
        if len(seen[-1]) >= self.breaks_at:
            return BROKEN
        digest = seed + 1
        for ids in seen:
            for token in ids[-self.memory :]:
                digest = references.pcg(digest * 31 + token & 0xFFFFFFFF)
        bits = -1 if mask is None else int.from_bytes(mask, "little")
        ids = ((digest + more) % self.vocab for more in range(self.vocab))
        return next(token for token in ids if bits >> token & 1)

    def answer(
        self,
        prompt: Sequence[int],
        count: int,
        seed: int = 0,
        mask: Callable[[Sequence[int]], bytes | None] = lambda ids: None,
    ) -> list[int]:
        """`count` ids after `prompt`, of those that `mask` allows each time; without any cache."""
        ids, state = list(prompt), functools.reduce(advanced, prompt, 0)
        for _ in range(count):
            seen = [ids[-window:] for window in self.windows]
            if self.recurs:
                seen.append([state])
            ids.append(self.next(seen, seed, mask(ids[len(prompt) :])))
            state = advanced(state, ids[-1])
        return ids[len(prompt) :]


def advanced(state: int, token: int) -> int:
    """A recurrent state after one more token."""
    return references.pcg(state * 31 + token + 1 & 0xFFFFFFFF)


class ToyDevice:
    """A Runner. Times are milliseconds: of a token in prefill, of a step, of one with drafts."""

    def __init__(
        self,
        model: ToyModel,
        context: int = 4096,
        batch: int = 64,
        token_ms: float = 0.1,
        step_ms: float = 1.0,
        batch_ms: float = 2.0,
        slots: int = 6,
    ) -> None:
        self.now = 0.0
        self.ran = 0  # decode steps
        self.chunks: list[int] = []  # sizes of those that were queued
        self.drafts_ready: asyncio.Future[None] | None = None
        self.brought: list[int] | None = None  # ids; None: nothing need be
        self.fails_in: int | None = None  # so many pieces of work
        self._model, self._context = model, context
        self._token_ms, self._step_ms, self._batch_ms = token_ms, step_ms, batch_ms
        self._capacities = [capacity_of(window, context, batch) for window in model.windows]
        self._cells = [[-1] * capacity for capacity in self._capacities]
        self._history = [-1] * context
        self._ring = array("I", [0] * RING)
        self._tokens: list[int] = []
        self._position = self._first = self._step = self._seed = 0
        self.can_mask = False  # compiled
        self._queue: deque[Callable[[], object]] = deque()
        self._state = 0xDEAD  # of a model that recurs; what it is before position 0 is nothing
        self._checkpoints = [0xDEAD] * (slots if model.recurs else 0)
        layers = [Layer(window) for window in model.windows]
        cache = PrefixCache(layers, self._capacities, context, len(self._checkpoints))
        self.session = Session(self, context, model.vocab, cache, ChunkSizes(batch), StepTimes())

    def begin(self, ids: Sequence[int], sampling: Sampling) -> None:
        def write() -> None:
            self._history[: len(ids)] = ids

        self._queue.append(write)

    @property
    def is_fed(self) -> bool:
        return self.brought is not None

    @property
    def most_ahead(self) -> int:
        return MOST_AHEAD

    @property
    def can_draft(self) -> bool:
        return self.brought is None

    async def bring(self, ids: Sequence[int]) -> None:
        if self.brought is not None:
            self._queue.append(lambda: setattr(self, "brought", list(ids)))

    async def prefill(self, chunk: Chunk) -> None:
        assert 1 <= len(chunk.ids) <= chunk.size
        self.chunks.append(chunk.size)

        def run() -> None:
            self._position, self._step, self._seed = chunk.position, chunk.step, chunk.seed
            self._tokens = list(chunk.ids)
            assert self.brought in (None, self._tokens)
            self._run(self._token_ms * chunk.size)

        self._queue.append(run)

    def keep(self, slot: int) -> None:
        self._queue.append(lambda: self._checkpoints.__setitem__(slot, self._state))

    def restore(self, slot: int) -> None:
        self._queue.append(lambda: setattr(self, "_state", self._checkpoints[slot]))

    def sample(self, size: int, mask: bytes | None = None) -> None:
        assert size == self.chunks[-1]
        assert mask is None or self.can_mask
        self._queue.append(lambda: self._sample(len(self._tokens) - 1, len(self._tokens), mask))

    async def decode(self, steps: int, end: int, mask: bytes | None = None) -> None:
        assert mask is None or self.can_mask

        def run() -> None:
            assert self._position < end
            assert self.brought in (None, self._tokens[:1])
            self._step_once([], self._step_ms, mask)

        self._queue.extend([run] * steps)

    def draft(self, steps: int) -> None:
        assert not self._model.recurs
        assert self.drafts_ready is not None
        assert self.drafts_ready.done()

        def run() -> None:
            length = min(self._position + 1, self._context)
            most = min(DRAFTS, self._context - length)
            drafts = references.draft(self._history[:length], LONGEST, most)
            self._step_once(drafts, self._batch_ms)

        self._queue.extend([run] * steps)

    def compile_drafts(self) -> asyncio.Future[None]:
        if self.drafts_ready is None:
            self.drafts_ready = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_soon(self.drafts_ready.set_result, None)
        return self.drafts_ready

    async def compile_masked(self) -> None:
        await asyncio.sleep(0)
        self.can_mask = True

    def start_read(self) -> Reading:
        data: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._queue.append(lambda: data.set_result(self._control()))
        return Reading(asyncio.ensure_future(self._arrived(data)))

    async def done(self) -> None:
        await asyncio.sleep(0)
        while self._queue:
            self._compute()

    async def _arrived(self, data: asyncio.Future[bytes]) -> bytes:
        await asyncio.sleep(0)
        while not data.done():
            self._compute()
        return data.result()

    def _compute(self) -> None:
        """The next piece of work; where it fails, nothing that is queued is computed any more."""
        work = self._queue.popleft()
        if self.fails_in == 0:
            self._queue.clear()
            self.fails_in = None
            raise DeviceError("the toy broke")
        if self.fails_in is not None:
            self.fails_in -= 1
        work()

    def _control(self) -> bytes:
        state = array("I", (self._position, len(self._tokens), self._step, self._seed))
        return state.tobytes().ljust(RING_AT, b"\0") + self._ring.tobytes()

    def _step_once(self, drafts: Sequence[int], ms: float, mask: bytes | None = None) -> None:
        self.ran += 1
        self._tokens[1:] = drafts
        self._run(ms)
        tokens = list(self._tokens)
        for row in range(len(tokens)):
            if self._sample(row, 1, mask) != tokens[row + 1 : row + 2]:
                break

    def _run(self, ms: float) -> None:
        """Writes the cache for all tokens of a batch, and only then looks back."""
        self.now += ms
        for row, token in enumerate(self._tokens):
            self._state = advanced(self._state if self._position + row else 0, token)
            if self._position + row < self._context:
                for cells, capacity in zip(self._cells, self._capacities, strict=True):
                    cells[(self._position + row) % capacity] = token
        self._first = self._position

    def _sample(self, row: int, moved: int, mask: bytes | None) -> list[int]:
        """Samples after row `row` of what was run, and moves on; the id, as a list."""
        end = min(self._first + row + 1, self._context)
        seen = [
            [cells[position % len(cells)] for position in range(max(end - window, 0), end)]
            if window
            else cells[:end]
            for window, cells in zip(self._model.windows, self._cells, strict=True)
        ]
        if self._model.recurs:
            assert row == len(self._tokens) - 1
            seen.append([self._state])
        token = self._model.next(seen, self._seed, mask)
        self._ring[self._step % RING] = token
        self._step += 1
        self._position += moved
        if self._position < self._context:
            self._history[self._position] = token
        self._tokens = [token]
        return [token]

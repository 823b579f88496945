"""What a sequence asks of a device, whatever runs a model there."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from doppler.sampling import Sampling


@dataclass(frozen=True)
class Chunk:
    """`ids` of a prompt, the first of them at `position` of the cache, run as a batch of `size`.

    A token can be sampled after one that `is_end` of its prompt: number `step` of the answer, from
    0, where so many were generated before and stand in what is run. `seed` is what it is drawn by.
    """

    ids: Sequence[int]
    position: int
    size: int
    seed: int = 0
    is_end: bool = True
    step: int = 0


class Sampled(Protocol):
    """The ids that were sampled when it was queued."""

    async def tokens(self, known: int) -> list[int]:
        """Those of this generation after the first `known`.

        Raises DopplerError where a logit of the next was no number.
        """


class Runner(Protocol):
    """What a sequence asks of a device. Raises DeviceError, at once or when something is awaited.

    All but `done`, `bring`, `prefill`, `decode` and the tokens of a reading only queue.
    """

    def begin(self, ids: Sequence[int], sampling: Sampling) -> None:
        """Tokens are chosen by `sampling` from now on; `ids`, the prompt, count as seen."""

    @property
    def is_fed(self) -> bool:
        """Whether tokens can only be run after they were brought."""

    @property
    def most_ahead(self) -> int:
        """Steps that are worth queueing behind those that are read, at most."""

    @property
    def can_draft(self) -> bool:
        """Whether batches with drafts can be run."""

    async def bring(self, ids: Sequence[int]) -> None:
        """Queues what the host has of the tokens that are run next, where it has something."""

    async def prefill(self, chunk: Chunk) -> None:
        """Runs it."""

    def keep(self, slot: int) -> None:
        """Copies the recurrent state, as it is after what was queued, into that checkpoint."""

    def restore(self, slot: int) -> None:
        """Goes on from that checkpoint: the next tokens are those behind what it was kept after."""

    def sample(self, size: int, mask: bytes | None = None) -> None:
        """Samples the token after a chunk of `size`, which was just run.

        It is one of those that `mask` allows, as rules.py gives it (None: every token).
        """

    async def decode(self, steps: int, end: int, mask: bytes | None = None) -> None:
        """Runs the last token and samples the next, `steps` times, with the same mask; the last of
        them goes at most to the place before `end` in the cache.
        """

    def draft(self, steps: int) -> None:
        """The same of batches with drafts: 1 to 1 + DRAFTS tokens come of each."""

    def compile_drafts(self) -> asyncio.Future[None]:
        """Compiles, once, what drafts need; they can be queued when it is done."""

    async def compile_masked(self) -> None:
        """Compiles, unless it is there, what samples with a mask."""

    def start_read(self) -> Sampled:
        """Copies what was sampled so far; await its tokens later."""

    async def done(self) -> None:
        """Returns when everything queued so far has been computed."""

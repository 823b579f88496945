"""One generation as a state machine: the prompt in chunks, then token after token.

Decoding never waits for a token before it queues the next: the sampled id stays on the GPU, where
the same recorded list reads it back in, and ids arrive here a few tokens late. What was queued
beyond the end of an answer costs its time, and never a wrong answer.

Only rules that say what may come next make it wait: a step is queued when they have seen the id
before it.
"""

from __future__ import annotations

from collections import abc
from dataclasses import dataclass
from time import perf_counter
from typing import Literal

from doppler.engine.checkpoints import TAIL
from doppler.engine.chunks import ChunkSizes
from doppler.engine.generation import Generation, GenerationConfig
from doppler.engine.prefix_cache import PrefixCache
from doppler.engine.protocol import Chunk, Runner
from doppler.engine.rules import allowed
from doppler.engine.speculate import InFlight, Speculation, StepTimes
from doppler.engine.stopping import Cancellation, EndTokens, FinishReason, TokenLimit

AHEAD_MS = 30.0  # of decoding queued before the host looks at what came out
NOTHING = InFlight(0)

Ids = abc.Sequence[int]
State = Literal["prefill", "decode", "done"]


@dataclass(frozen=True)
class Session:
    """What outlives a sequence: the device with its one KV cache, and what is known of both.

    context: tokens that the cache holds. vocab: ids that there are.
    """

    runner: Runner
    context: int
    vocab: int
    cache: PrefixCache
    chunks: ChunkSizes
    times: StepTimes


class Sequence:
    """A prompt and the ids that follow it. One of a session at a time.

    Keys and values of the longest prefix of `prompt` that the cache holds are reused, unless what
    its end sees was overwritten; of a model with a recurrent state, the longest after which that
    was kept. `step` until `state` is "done"; `finish_reason` then says why.

    written: ids that were generated after this prompt before, with the same sampling. They are run
    with the prompt, and count as generated: what follows is what would have followed then.
    """

    def __init__(
        self,
        session: Session,
        prompt: Ids,
        config: GenerationConfig,
        cancellation: Cancellation,
        written: Ids = (),
    ) -> None:
        self.ids: list[int] = list(written)  # generated, the end token too
        self._began = self._first = self._last = perf_counter()  # of the ids
        self._session, self._runner, self._cache = session, session.runner, session.cache
        self._asked, self._written = len(prompt), len(written)
        self._prompt, self._seed = [*prompt, *written], config.sampling.seed  # what is run first
        self._limit = TokenLimit.of(config.max_tokens, session.context - len(prompt))
        self._stop_rules = (EndTokens(config.ends), cancellation, self._limit)
        self._logit_rules = config.rules
        # A recurrent state that drafts have changed could not be cut back.
        is_plain = config.rules or not self._runner.can_draft or self._cache.is_recurrent
        mode = "off" if is_plain else config.speculate
        self._speculation = Speculation(mode, self._prompt, session.times)
        self._in_flight = NOTHING  # what is read next
        self._reused = self._prefilled = self._cache.rewind(self._prompt)
        if (slot := self._cache.checkpoint) is not None:
            self._runner.restore(slot)
        self._runner.begin(self._prompt, config.sampling)
        self.finish_reason: FinishReason | None = self._reason()

    @property
    def state(self) -> State:
        """What the next step does."""
        if self.finish_reason is not None:
            return "done"
        return "prefill" if self._prefilled < len(self._prompt) else "decode"

    @property
    def prefill_progress(self) -> tuple[int, int]:
        """Tokens of the prompt that were run, of how many: those that were not cached."""
        return self._prefilled - self._reused, len(self._prompt) - self._reused

    async def step(self) -> list[int]:
        """Runs a chunk of the prompt, or reads back what is in flight and queues more.

        -> the new ids, in order; an end token is in `ids` only. Raises DeviceError; nothing counts
        as cached after that.
        """
        try:
            if self.state == "prefill":
                await self._prefill()
                return []
            return await self._decode()
        except BaseException:
            self._cache.cut(0)  # what was queued may not have run
            raise

    def stop(self, count: int) -> None:
        """Ends it after the first `count` ids, as if no more had come."""
        del self.ids[count:]
        self._cache.cut(self._asked + max(count - 1, 0))
        self.finish_reason = "stop"

    def result(self) -> Generation:
        """What came of it, once it is done."""
        assert self.finish_reason is not None
        ttft, decoding = self._first - self._began, self._last - self._first
        return Generation(
            ids=self.ids,
            finish_reason=self.finish_reason,
            reused_tokens=self._reused,
            ttft_ms=1000 * ttft,
            prefill_tok_s=(len(self._prompt) - self._reused) / ttft if ttft else 0.0,
            decode_tok_s=(len(self.ids) - self._written - 1) / decoding if decoding else 0.0,
            batches=self._speculation.batches,
            batch_tokens=self._speculation.batch_tokens,
        )

    async def _prefill(self) -> None:
        """Queues a chunk and waits for it; the last is only queued, and a token after it."""
        start, chunks, began = self._prefilled, self._session.chunks, perf_counter()
        end = len(self._prompt)
        stop = self._cache.stop(end)
        size = chunks.size(stop - start)
        ids = self._prompt[start : min(start + size, stop)]
        is_end = start + len(ids) == end
        await self._runner.bring(ids)
        await self._runner.prefill(Chunk(ids, start, size, self._seed, is_end, self._written))
        self._cache.extend(ids)
        if (slot := self._cache.keep(end)) is not None:
            self._runner.keep(slot)
        self._prefilled += len(ids)
        if end - self._prefilled > TAIL:  # what is less is queued behind it at once
            await self._runner.done()
            chunks.note(size, len(ids), 1000 * (perf_counter() - began))
        elif is_end and self._logit_rules:
            await self._runner.compile_masked()
        elif is_end and self._speculation.mode == "on":
            await self._runner.compile_drafts()
        self.finish_reason = self._reason()
        if self.state == "decode":
            self._runner.sample(size, self._mask())
            self._in_flight = InFlight(1)

    async def _decode(self) -> list[int]:
        """Reads one flight while the next one runs; ids beyond what is wanted go nowhere."""
        flight = self._in_flight
        if not flight.steps:
            await self._runner.bring(self.ids[-1:])
            flight = await self._queue(1, NOTHING)
        reading = self._runner.start_read()
        self._in_flight = await self._queue(0, flight)
        before = len(self.ids)
        self._take(await reading.tokens(before))
        self._last = perf_counter()
        if before == self._written:
            self._first = self._last
        if not self._logit_rules:  # with them the host's time is in it
            self._speculation.note(flight, self.ids[before:], self._last)
        # The last id may not have been run; those before the first of these are in the prompt.
        self._cache.extend(self.ids[max(before - 1, self._written) : -1])
        return self.ids[before : -1 if self.finish_reason == "stop" else None]

    def _take(self, sampled: Ids) -> None:
        """Adds ids up to the one after which a rule ends the sequence."""
        for token in sampled:
            self.ids.append(token)
            self.finish_reason = self._reason()
            if self.finish_reason is not None:
                break

    def _reason(self) -> FinishReason | None:
        return next((why for rule in self._stop_rules if (why := rule.reason(self.ids))), None)

    def _mask(self) -> bytes | None:
        """What the rules allow after the ids so far, all of which must have been read."""
        return allowed(self._logit_rules, self.ids, self._session.vocab)

    async def _queue(self, least: int, behind: InFlight) -> InFlight:
        """Queues `least` steps behind those, or as many as the host has time to look away for."""
        drafts = self._carries_drafts()
        most = self._limit.most - len(self.ids) - behind.steps
        flight = InFlight(max(min(self._ahead(drafts), most), least), drafts)
        if flight.steps > 0:
            end = self._asked + len(self.ids) + behind.most + flight.most
            self._cache.mark(end)
            if drafts:
                self._runner.draft(flight.steps)
            else:
                await self._runner.decode(flight.steps, end, self._mask())
                # The id that is sampled last is not run.
                if (slot := self._cache.keep_of_answer(end - 1, flight.steps)) is not None:
                    self._runner.keep(slot)
        return flight

    def _ahead(self, drafts: bool) -> int:
        """Steps to queue behind those being read; none where a step alone takes long, or where the
        rules or the host must see what is read first.
        """
        if self._logit_rules or self._runner.is_fed:
            return 0
        most = self._runner.most_ahead // InFlight(1, drafts).most
        return min(self._session.times.steps_within(AHEAD_MS, drafts), most)

    def _carries_drafts(self) -> bool:
        """Whether the next steps carry drafts: they are wanted, and their kernels compiled."""
        if not self._speculation.wanted:
            return False
        compiling = self._runner.compile_drafts()
        return compiling.done() and compiling.result() is None  # or raises what went wrong

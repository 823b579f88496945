"""Speculative decoding by prompt lookup: what comes next may be what came next before.

A batch is the last token and up to DRAFTS that followed where the last ids stood before, which the
GPU looks up itself (draft.wgsl). The model runs once over all of them, and the tokens are
sampled in order as if each had come alone, up to the first that is not its draft: the same tokens
as without drafts, as far as logits that were added up in another order are the same.

Whether that pays depends on device and text. `Speculation` knows the one by the clock, and the
other by doing the look-up itself while there are no drafts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from doppler.plan.draft import DRAFTS, LONGEST

Speculate = Literal["auto", "on", "off"]
MODES = get_args(Speculate)

MEMORY = 8  # steps that a time is the average of
RECENT = 16  # tokens that say how a text repeats itself
DOUBT = 2  # batches of one token each, with which that begins
PROMISING = 1.5  # tokens a batch, from which it is worth a try
TRIAL = 2  # batches queued at once until their time is known
GAIN = 1.05  # by which tokens must come faster
FORGET = 64  # generations after which a batch's time counts as unknown: what did not pay may now


@dataclass(frozen=True)
class InFlight:
    """Decoding steps queued together and not yet read: of a token each, or batches with drafts."""

    steps: int
    drafts: bool = False

    @property
    def most(self) -> int:
        """Tokens that come of it, at most."""
        return self.steps * (1 + DRAFTS if self.drafts else 1)


class History:
    """Ids so far, in which drafts are looked up as draft.wgsl does it."""

    def __init__(self, ids: Sequence[int]) -> None:
        self._text = "".join(map(chr, ids))  # an id a character: nothing is searched as fast

    def append(self, token: int) -> None:
        """One more."""
        self._text += chr(token)

    def drafts(self, most: int) -> list[int]:
        """Up to `most` ids that may follow: none where the last id is new."""
        text = self._text
        for count in range(min(LONGEST, len(text) - 1), 0, -1):
            at = text.rfind(text[-count:], 0, -1)
            if at >= 0:
                follows = text[at + count : at + count + most]
                return [ord(follows[i % len(follows)]) for i in range(most)]
        return []


@dataclass
class StepTimes:
    """Milliseconds that a device takes for a step, 0 while unknown; they outlive a generation."""

    plain_ms: float = 0.0
    batch_ms: float = 0.0
    is_warm: bool = False  # batches were run before: the first ones take longer
    age: int = 0  # generations begun since batches were run

    def begin(self) -> None:
        """A generation begins."""
        self.age += 1
        if self.age > FORGET:
            self.batch_ms = 0.0

    def steps_within(self, ms: float, drafts: bool) -> int:
        """Steps that take `ms` milliseconds at most, as far as known; 0 while nothing is."""
        if not drafts or self.batch_ms:
            each = self.batch_ms if drafts else self.plain_ms
            return int(ms / each) if each else 0
        guess = PROMISING * self.plain_ms
        return min(int(ms / guess), TRIAL) if guess else 0

    def note(self, flight: InFlight, each: float) -> None:
        """Steps of this kind took `each` milliseconds."""
        if not flight.drafts:
            self.plain_ms = _average(self.plain_ms, each, flight.steps)
            return
        if self.is_warm:
            self.batch_ms = _average(self.batch_ms, each, flight.steps)
        self.is_warm, self.age = True, 0


class Speculation:
    """Whether the next steps of one generation carry drafts; `times` is told how long they take."""

    def __init__(self, mode: Speculate, prompt: Sequence[int], times: StepTimes) -> None:
        self.batches = self.batch_tokens = 0  # that were run, and the tokens that came of them
        self._recent_tokens = self._recent_batches = float(DOUBT)  # as they came, or would have
        self.mode, self._times, self._last = mode, times, 0.0
        self._history = History(prompt)
        self._drafts: list[int] = []  # of the batch that there would be
        self._right = 0  # of them
        times.begin()

    @property
    def tokens_a_batch(self) -> float:
        """Of late."""
        return self._recent_tokens / self._recent_batches

    @property
    def wanted(self) -> bool:
        """Whether drafts pay, or promise to where a batch's time is not known."""
        if self.mode != "auto":
            return self.mode == "on"
        if not self._times.batch_ms:
            return self.tokens_a_batch >= PROMISING
        return self.tokens_a_batch * self._times.plain_ms > GAIN * self._times.batch_ms

    def note(self, flight: InFlight, tokens: Sequence[int], now: float) -> None:
        """A flight was read back, `now` on a clock of seconds; the first one of a generation, which
        waited for what came before it, tells no time.
        """
        if self._last:
            self._times.note(flight, 1000 * (now - self._last) / flight.steps)
        self._last = now
        if flight.drafts:
            self.batches += flight.steps
            self.batch_tokens += len(tokens)
            self._count(flight.steps, len(tokens))
            for token in tokens:
                self._history.append(token)
            self._drafts, self._right = [], 0
        elif self.mode == "auto":
            for token in tokens:
                self._look_up(token)

    def _count(self, batches: int, tokens: int) -> None:
        """What batches brought, or would have; what was long ago counts less and less."""
        kept = (1 - 1 / RECENT) ** tokens
        self._recent_tokens = kept * self._recent_tokens + tokens
        self._recent_batches = kept * self._recent_batches + batches

    def _look_up(self, token: int) -> None:
        """Counts what a batch would have brought, of which `token` would have been the next."""
        self._history.append(token)
        if self._drafts[self._right : self._right + 1] == [token]:
            self._right += 1
            return
        self._count(1, self._right + 1)
        self._drafts, self._right = self._history.drafts(DRAFTS), 0


def _average(before: float, now: float, steps: int) -> float:
    """Of about the last MEMORY steps, of which the latest `steps` took `now` each."""
    return now + (before - now) * (1 - 1 / MEMORY) ** steps if before else now

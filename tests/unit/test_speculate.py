"""When drafts are used: the look-up and the policy, on CPython."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from doppler import references
from doppler.engine.speculate import (
    FORGET,
    MODES,
    History,
    InFlight,
    Speculate,
    Speculation,
    StepTimes,
)
from doppler.plan.draft import DRAFTS, LONGEST


def test_history_drafts_as_the_kernel_does() -> None:
    rng = random.Random(0)
    for vocab in (1, 2, 3, 30, 70_000):
        for _ in range(200):
            ids = [rng.randrange(vocab) for _ in range(rng.randrange(1, 40))]
            ids += ids[:5] * rng.randrange(2)  # those of large vocabularies repeat themselves too
            most = rng.randrange(9)
            history = History(ids[:1])
            for token in ids[1:]:
                history.append(token)
            assert history.drafts(most) == references.draft(ids, LONGEST, most)


PROMPT = list(range(100, 160))
COPY = PROMPT * 5  # the prompt again and again
NEWS = list(range(1000, 1300))
MIXED = [*NEWS[:100], *COPY[:100], *NEWS[100:200]]


@dataclass
class Device:
    """How long steps take, and how far ahead of the host they are queued: milliseconds."""

    plain_ms: float
    batch_ms: float
    ahead_ms: float = 0
    times: StepTimes = field(default_factory=lambda: StepTimes(plain_ms=1.0))

    def decode(self, out: Sequence[int], mode: Speculate = "auto") -> tuple[Speculation, float]:
        """One generation whose ids are `out`, and the milliseconds from the first on."""
        speculation, now, done = Speculation(mode, PROMPT, self.times), 1.0, 1
        speculation.note(InFlight(1), out[:1], now)
        while done < len(out):
            drafts, start = speculation.wanted, done
            flight = InFlight(max(self.times.steps_within(self.ahead_ms, drafts), 1), drafts)
            for _ in range(flight.steps):
                done += 1 + (self._right(out, done) if drafts else 0)
                now += (self.batch_ms if drafts else self.plain_ms) / 1000
            done = min(done, len(out))
            speculation.note(flight, out[start:done], now)
        return speculation, 1000 * (now - 1)

    def _right(self, out: Sequence[int], done: int) -> int:
        """How many drafts are right."""
        drafts = references.draft([*PROMPT, *out[:done]], LONGEST, DRAFTS)
        pairs = enumerate(zip(drafts, out[done:], strict=False))
        return next((n for n, (draft, token) in pairs if draft != token), len(drafts))


@pytest.mark.parametrize("ahead_ms", [0, 16])
def test_drafts_are_used_where_they_are_faster(ahead_ms: float) -> None:
    speculation, took = Device(1.0, 2.0, ahead_ms).decode(COPY)
    assert took < 0.5 * len(COPY)
    assert speculation.batch_tokens > 0.8 * len(COPY)
    assert speculation.batch_tokens / speculation.batches > 4


@pytest.mark.parametrize("ahead_ms", [0, 16])
def test_drafts_are_given_up_where_they_are_slower(ahead_ms: float) -> None:
    """A batch that takes as long as nine tokens cannot pay: two flights tell, once for all."""
    device = Device(1.0, 9.0, ahead_ms)
    speculation, took = device.decode(COPY)
    assert speculation.batches == (4 if ahead_ms else 2)
    assert took < len(COPY) + 4 * 9 + ahead_ms
    again, _ = device.decode(COPY)
    assert again.batches == 0


def test_what_did_not_pay_is_tried_again_at_times() -> None:
    device = Device(1.0, 9.0)
    device.decode(COPY)
    device.batch_ms = 2.0  # it was measured while the machine was busy
    batches = [device.decode(COPY)[0].batches for _ in range(FORGET + 1)]
    assert batches[:-1] == [0] * FORGET
    assert batches[-1] > 20


def test_text_without_repetition_never_sees_a_batch() -> None:
    speculation, took = Device(1.0, 1.5).decode(NEWS)
    assert took == pytest.approx(len(NEWS) - 1)
    assert speculation.batches == 0


def test_drafts_come_and_go_with_the_text() -> None:
    """Of three parts only the middle one repeats the prompt."""
    speculation, took = Device(1.0, 2.0).decode(MIXED)
    assert not speculation.wanted
    assert 12 < speculation.batches < 60
    assert took < 0.85 * len(MIXED)


@pytest.mark.parametrize("mode", MODES)
def test_modes(mode: Speculate) -> None:
    slow, _ = Device(1.0, 100.0).decode(NEWS, mode)
    assert (slow.batches > 0) == slow.wanted == (mode == "on")
    fast, _ = Device(1.0, 1.0).decode(COPY, mode)
    assert (fast.batches > 0) == fast.wanted == (mode != "off")


def test_step_times_are_known_a_flight_late() -> None:
    times = StepTimes()
    speculation = Speculation("on", PROMPT, times)

    def steps() -> list[int]:
        return [times.steps_within(31, drafts) for drafts in (False, True)]

    assert steps() == [0, 0]
    speculation.note(InFlight(1), [1], 5.0)  # waited for prefill
    assert steps() == [0, 0]
    speculation.note(InFlight(4), [1, 2, 3, 4], 5.008)  # 2 ms each
    assert steps() == [15, 2]  # a few batches, until their time is known
    speculation.note(InFlight(2, drafts=True), [1, 2, 3], 6.0)  # the first of their kind
    assert steps() == [15, 2]
    speculation.note(InFlight(2, drafts=True), [1, 2, 3], 6.006)
    assert steps() == [15, 10]
    assert StepTimes(plain_ms=30.0).steps_within(31, drafts=True) == 0


def test_flights() -> None:
    assert InFlight(3).most == 3
    assert InFlight(3, drafts=True).most == 3 * (1 + DRAFTS)

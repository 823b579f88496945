"""When drafts are used: the look-up and the policy, on CPython."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest

from doppler import references
from doppler.speculate import DRAFTS, LONGEST, MODES, Flight, History, Speculate, Speculation


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


def decoded(
    speculation: Speculation,
    prompt: Sequence[int],
    out: Sequence[int],
    plain_ms: Callable[[int], float],
    batch_ms: float,
    ahead_ms: float = 0,
) -> float:
    """Milliseconds that a device with these times takes for `out`, which looks `ahead_ms` ahead."""
    now, done = 1.0, 1
    speculation.note(Flight(1), out[:1], now)
    while done < len(out):
        drafts, start = speculation.wanted, done
        flight = Flight(max(speculation.steps_within(ahead_ms, drafts), 1), drafts)
        for _ in range(flight.steps):
            right = 0
            if flight.drafts:
                ids = references.draft([*prompt, *out[:done]], LONGEST, DRAFTS)
                pairs = zip(ids, out[done:], strict=False)
                right = next((n for n, (a, b) in enumerate(pairs) if a != b), len(ids))
            now += (batch_ms if flight.drafts else plain_ms(done)) / 1000
            done = min(done + 1 + right, len(out))
        speculation.note(flight, out[start:done], now)
    return 1000 * (now - 1)


def always(ms: float) -> Callable[[int], float]:
    return lambda _: ms


PROMPT = list(range(100, 160))
COPY = PROMPT * 5  # the prompt again and again
NEWS = list(range(1000, 1300))
MIXED = [*NEWS[:100], *COPY[:100], *NEWS[100:200]]


@pytest.mark.parametrize("ahead_ms", [0, 16])
def test_drafts_are_used_where_they_are_faster(ahead_ms: float) -> None:
    speculation = Speculation("auto", PROMPT, 1.0)
    took = decoded(speculation, PROMPT, COPY, always(1.0), 2.0, ahead_ms)
    assert took < 0.5 * len(COPY)
    assert speculation.batch_tokens > 0.8 * len(COPY)
    assert speculation.batch_tokens / speculation.batches > 4


@pytest.mark.parametrize("ahead_ms", [0, 16])
def test_drafts_are_given_up_where_they_are_slower(ahead_ms: float) -> None:
    """A batch that takes as long as nine tokens cannot pay: two flights tell."""
    speculation = Speculation("auto", PROMPT, 1.0)
    took = decoded(speculation, PROMPT, COPY, always(1.0), 9.0, ahead_ms)
    assert speculation.batches == (4 if ahead_ms else 2)
    assert took < len(COPY) + 4 * 9


def test_text_without_repetition_never_sees_a_batch() -> None:
    speculation = Speculation("auto", PROMPT, 1.0)
    assert decoded(speculation, PROMPT, NEWS, always(1.0), 1.5) == pytest.approx(len(NEWS) - 1)
    assert speculation.batches == 0


def test_drafts_come_and_go_with_the_text() -> None:
    """Of three parts only the middle one repeats the prompt."""
    speculation = Speculation("auto", PROMPT, 1.0)
    took = decoded(speculation, PROMPT, MIXED, always(1.0), 2.0)
    assert not speculation.wanted
    assert 12 < speculation.batches < 60
    assert took < 0.85 * len(MIXED)


def test_a_device_that_slows_down_for_tokens_only_is_noticed() -> None:
    """Long contexts cost a token more, and what did not pay at first pays then."""
    speculation = Speculation("auto", PROMPT, 1.0)
    decoded(speculation, PROMPT, COPY, lambda done: 1.0 if done < 150 else 3.0, 9.0)
    assert speculation.wanted
    assert speculation.batch_tokens > 0.4 * len(COPY)


@pytest.mark.parametrize("mode", MODES)
def test_modes(mode: Speculate) -> None:
    speculation = Speculation(mode, PROMPT, 1.0)
    decoded(speculation, PROMPT, NEWS, always(1.0), 100.0)
    assert (speculation.batches > 0) == (mode == "on")
    assert speculation.wanted == (mode == "on")
    speculation = Speculation(mode, PROMPT, 1.0)
    decoded(speculation, PROMPT, COPY, always(1.0), 1.0)
    assert speculation.wanted == (mode != "off")


def test_times_are_known_a_flight_late() -> None:
    speculation = Speculation("on", PROMPT, 0.0)

    def steps() -> tuple[int, int]:
        return tuple(speculation.steps_within(31, drafts) for drafts in (False, True))

    assert steps() == (0, 0)
    speculation.note(Flight(1), [1], 5.0)  # waited for prefill
    assert steps() == (0, 0)
    speculation.note(Flight(4), [1, 2, 3, 4], 5.008)  # 2 ms each
    assert steps() == (15, 2)  # a few batches, until their time is known
    speculation.note(Flight(2, drafts=True), [1, 2, 3], 6.0)  # the first of their kind
    assert steps() == (15, 2)
    speculation.note(Flight(2, drafts=True), [1, 2, 3], 6.006)
    assert steps() == (15, 10)
    slow = Speculation("on", PROMPT, 30.0)
    assert slow.steps_within(31, drafts=True) == 0


def test_flights() -> None:
    assert Flight(3).most == 3
    assert Flight(3, drafts=True).most == 3 * (1 + DRAFTS)

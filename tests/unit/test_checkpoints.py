"""What a prompt goes on from where layers have a state that cannot be cut back."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import pytest

from doppler.config.layer import Layer
from doppler.engine.checkpoints import LEAST, SPACING, TAIL, Checkpoints
from doppler.engine.generation import Generation, GenerationConfig
from doppler.engine.prefix_cache import PrefixCache
from doppler.engine.sequence import Sequence as Generating
from doppler.engine.speculate import MODES
from doppler.engine.stopping import Cancellation
from doppler.errors import DeviceError
from doppler.plan.bindings import capacity_of
from doppler.sampling import Sampling
from toy_device import ToyDevice, ToyModel

MODEL = ToyModel(memory=20, recurs=True, vocab=50)
WINDOWED = ToyModel((20, 0), memory=20, recurs=True, vocab=50)
PROMPT = [*range(40), *range(30), *range(25), *range(5)]  # 100


made: list[ToyDevice] = []  # by the last one's clock the loop goes


def toy(model: ToyModel, **options: Any) -> ToyDevice:
    made.append(ToyDevice(model, **options))
    return made[-1]


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """How many steps are queued ahead follows from the time that they take."""
    monkeypatch.setattr("doppler.engine.sequence.perf_counter", lambda: made[-1].now / 1000)


def run(
    device: ToyDevice, prompt: Sequence[int], count: int, ends: frozenset[int] = frozenset()
) -> Generation:
    async def steps() -> Generation:
        asked = GenerationConfig(Sampling(), count, ends, "on")  # which is no use here
        sequence = Generating(device.session, prompt, asked, Cancellation())
        while sequence.state != "done":
            await sequence.step()
        return sequence.result()

    return asyncio.run(steps())


@pytest.mark.parametrize("model", [MODEL, WINDOWED])
@pytest.mark.parametrize("count", [1, 2, 40])
def test_ids_are_the_models(model: ToyModel, count: int) -> None:
    device = toy(model)
    assert run(device, PROMPT, count).ids == model.answer(PROMPT, count)
    assert device.chunks == [64, 64, 16]


def test_the_tail_of_a_prompt_is_queued_without_waiting() -> None:
    """It takes a chunk of its own, but not the time to look at what came before."""
    device = toy(MODEL)
    asked = GenerationConfig(Sampling(), 2, speculate="off")
    sequence = Generating(device.session, PROMPT, asked, Cancellation())
    seen = []

    async def steps() -> None:
        while sequence.state == "prefill":
            await sequence.step()
            seen.append((sequence.prefill_progress[0], round(device.now, 3)))

    asyncio.run(steps())
    assert seen == [(64, 6.4), (100 - TAIL, 6.4), (100, 6.4)]


def test_the_same_prompt_again() -> None:
    """Runs its tail alone; what was queued behind the answer's end has changed the state."""
    device = toy(MODEL)
    ids = run(device, PROMPT, 40).ids
    end = next(token for token in ids[5:] if token not in ids[:5])
    for _ in range(2):
        again = run(device, PROMPT, 300, frozenset({end}))
        assert again.reused_tokens == 100 - TAIL
        assert again.ids == ids[: ids.index(end) + 1]


@pytest.mark.parametrize(("count", "again"), [(20, 20), (90, 64), (300, 128)])
@pytest.mark.parametrize("step_ms", [0.3, 1, 100])
def test_a_conversation_runs_little_again(count: int, again: int, step_ms: float) -> None:
    """Of an answer that is short all of it; else what came after a checkpoint in it."""
    device, prompt, end = toy(MODEL, step_ms=step_ms), list(PROMPT), 0
    for _ in range(5):
        result = run(device, prompt, count)
        assert result.ids == MODEL.answer(prompt, count)
        assert len(prompt) - 3 - again - TAIL <= max(result.reused_tokens, 110 - again)
        assert result.reused_tokens >= end
        end = len(prompt) - TAIL
        prompt += [*result.ids, 1, 2, 3]
    assert result.reused_tokens > 0


@pytest.mark.parametrize("step_ms", [0.1, 0.3, 1, 5, 100])
def test_an_answer_ends_anywhere(step_ms: float) -> None:
    """Whatever was queued behind its end: one of the two states in it is before that."""
    ids = MODEL.answer(PROMPT, 600)
    for length in range(450, 600, 11):
        device = toy(MODEL, step_ms=step_ms)
        run(device, PROMPT, 5)  # from now on the time of a step is known
        asked = GenerationConfig(Sampling(), 600, speculate="off")
        sequence = Generating(device.session, PROMPT, asked, Cancellation())

        async def steps(sequence: Generating, length: int) -> None:
            while len(sequence.ids) < length:
                await sequence.step()

        asyncio.run(steps(sequence, length))
        sequence.stop(length)
        longer = [*PROMPT, *ids[:length], 1, 2]
        result = run(device, longer, 9)
        assert result.ids == MODEL.answer(longer, 9)
        assert result.reused_tokens > len(PROMPT) + length - 4 * 64


def test_a_thought_that_is_left_out_of_the_next_prompt() -> None:
    """With the mark that the prompt ended with, and that began it."""
    device = toy(MODEL)
    ids = run(device, PROMPT, 60).ids
    longer = [*PROMPT[:-2], *ids[30:], 7, 8]
    result = run(device, longer, 20)
    assert (result.reused_tokens, result.ids) == (100 - TAIL, MODEL.answer(longer, 20))


def test_the_last_message_is_edited() -> None:
    """It goes on from the end of the prompt before; the first one, from nothing."""
    device = toy(MODEL)
    first = [*PROMPT, *run(device, PROMPT, 30).ids]
    longer = [*first, *range(45)]
    run(device, longer, 20)
    edited = [*first, 9, *range(40)]
    result = run(device, edited, 20)
    assert (result.reused_tokens, result.ids) == (100 - TAIL, MODEL.answer(edited, 20))
    anew = [*PROMPT[:80], 9, *range(40)]
    result = run(device, anew, 20)
    assert (result.reused_tokens, result.ids) == (0, MODEL.answer(anew, 20))


def test_a_long_prompt_is_edited() -> None:
    """It goes on from the end of a chunk before that."""
    prompt = PROMPT * 50
    for back in (30, 900, 2500):
        device = toy(MODEL, context=9000, batch=256)
        run(device, prompt, 5)
        edited = [*prompt[:-back], 9, *prompt[-back:]]
        result = run(device, edited, 5)
        assert result.ids == MODEL.answer(edited, 5)
        assert 0.4 * (5000 - back) < result.reused_tokens <= 5000 - back
        assert result.reused_tokens % 256 == 64  # the first chunk had 64


def test_a_window_that_was_overwritten() -> None:
    """Then all of it is run again."""
    device, prompt = toy(WINDOWED), PROMPT * 10
    run(device, prompt, 2)
    edited = [*prompt[:400], 9]
    result = run(device, edited, 20)
    assert (result.reused_tokens, result.ids) == (0, WINDOWED.answer(edited, 20))
    longer = [*edited, *result.ids, 5]
    again = run(device, longer, 20)
    assert (again.reused_tokens, again.ids) == (401 - TAIL, WINDOWED.answer(longer, 20))


def test_short_prompts_keep_nothing() -> None:
    device, prompt = toy(MODEL), PROMPT[: LEAST + TAIL - 1]
    run(device, prompt, 2)
    assert device.chunks == [64]
    assert run(device, prompt, 2).reused_tokens == 0


def test_after_an_error_anywhere_the_next_answer_is_right() -> None:
    prompt = PROMPT * 4
    answer = MODEL.answer(prompt, 40)
    for work in range(200):
        device = toy(MODEL)
        run(device, prompt[:90], 5)
        device.fails_in = work
        try:
            run(device, prompt, 40)
        except DeviceError:
            again = run(device, prompt, 40)
            assert (again.reused_tokens, again.ids) == (0, answer)
        else:
            break
    assert 10 < work < 199


@pytest.mark.parametrize("seed", range(6))
def test_whatever_is_asked_one_after_another(seed: int) -> None:
    """Continued, edited, stopped, with four slots or more: answers are the model's."""
    chance = random.Random(seed)
    model = ToyModel(chance.choice([(0,), (5, 30, 0)]), memory=50, recurs=True, vocab=60)
    device = toy(model, context=1500, step_ms=chance.choice([1, 5, 100]), slots=4 + seed % 3)
    ids, reused = list(PROMPT), 0
    for _ in range(40):
        result = run(device, ids, chance.randrange(1, 60), frozenset({chance.randrange(60)}))
        assert result.ids == model.answer(ids, len(result.ids))
        reused += result.reused_tokens > 0
        kept = chance.choice([0, 1, 3, 20, 100, 400])
        ids = [*ids, *result.ids][: max(len(ids) + len(result.ids) - kept, 0)]
        ids = [*ids, *(chance.randrange(60) for _ in range(chance.choice([1, 5, 300])))][:1300]
    assert reused > 15
    assert device.drafts_ready is None


@pytest.mark.parametrize("mode", MODES)
def test_drafts_are_off(mode: str) -> None:
    asked = GenerationConfig(Sampling(), 20, speculate=mode)  # type: ignore[arg-type]
    device = toy(ToyModel(memory=1, recurs=True))
    sequence = Generating(device.session, PROMPT, asked, Cancellation())

    async def steps() -> None:
        while sequence.state != "done":
            await sequence.step()

    asyncio.run(steps())
    assert sequence.result().batches == 0


def test_those_that_are_given_up() -> None:
    """They stay spread over a long prompt; the last one stays, whatever comes."""
    kept = Checkpoints(6)
    slots: dict[int, int] = {}
    for at in range(512, 33000, 512):
        slot = kept.keep(at, 40_000)
        assert slot is not None
        slots = {position: own for position, own in slots.items() if own != slot} | {at: slot}
        assert kept.last == (at, slot)
    assert sorted(slots.values()) == [0, 1, 2, 3]
    first, second, before, last = sorted(slots)
    assert (before, last) == (32256, 32768)
    assert 5_000 < first < second < 30_000
    kept.cut(second)
    assert kept.last == (second, slots[second])


def test_where_they_are_kept() -> None:
    kept = Checkpoints(4)
    assert bool(kept)
    assert kept.stop(0, LEAST + TAIL - 1) == LEAST + TAIL - 1
    assert kept.stop(0, LEAST + TAIL) == LEAST
    assert kept.keep(LEAST - 1, 1000) is None
    assert kept.keep(SPACING - 1, 1000) is None
    assert kept.keep(SPACING, 1000) is not None
    assert kept.stop(SPACING, 1000) == 1000 - TAIL
    assert kept.keep(1000, 1000) is None  # whoever asks again would run no token
    assert kept.keep(1000 - TAIL, 1000) is not None
    assert kept.stop(1000 - TAIL, 1000) == 1000
    kept.cut(1000 - TAIL - 1)
    assert kept.last[0] == SPACING


def test_slots_of_answers() -> None:
    """They take turns, and leave those of prompts alone."""
    kept = Checkpoints(4)
    first = kept.keep(SPACING, 1000)
    assert kept.keep_of_answer(SPACING + LEAST - 1, 1) is None
    assert kept.keep_of_answer(SPACING + 99, 50) is None
    slots = [kept.keep_of_answer(SPACING + 100 * n, 50) for n in range(1, 6)]
    assert [slots[n] == slots[0] for n in range(5)] == [True, False] * 2 + [True]
    assert {first, *slots} <= {0, 1, 2, 3}
    assert len({first, *slots}) == 3
    assert kept.last == (SPACING + 500, slots[0])
    kept.cut(SPACING + 499)
    assert kept.last == (SPACING + 400, slots[1])
    kept.cut(SPACING + 399)
    assert kept.last == (SPACING, first)
    assert kept.stop(SPACING, 2 * SPACING) == 2 * SPACING - TAIL


def test_models_without_a_state_keep_none() -> None:
    none = PrefixCache([Layer()], [capacity_of(0, 1000, 16)], 1000)
    none.extend(range(600))
    assert not none.is_recurrent
    assert (none.stop(900), none.keep(900), none.checkpoint) == (900, None, None)
    assert none.rewind([*range(500), 7, 7]) == 500

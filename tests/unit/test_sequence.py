"""The loop of a generation on a toy device: how it ends, what it reuses, drafts, errors."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest

from doppler.engine.generation import Generation, GenerationConfig
from doppler.engine.rules import LogitRule, allowed
from doppler.engine.sequence import Sequence as Generating
from doppler.engine.speculate import MODES, Speculate
from doppler.engine.stopping import Cancellation
from doppler.errors import DeviceError, DopplerError
from doppler.plan.bindings import MOST_AHEAD, RING
from doppler.sampling import Sampling
from toy_device import ToyDevice, ToyModel

FULL = ToyModel()
WINDOWED = ToyModel((3, 20, 0))
REPEATING = ToyModel(memory=2)  # goes by two ids, so that drafts come true
PROMPT = [*range(7), *range(5), *range(9), *range(7)]
SLOW, QUICK = 100.0, 1.0  # milliseconds a step

DeviceMaker = Callable[..., ToyDevice]
During = Callable[[Generating, Cancellation], None]  # what happens after each step


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> DeviceMaker:
    """Makes a device, by whose clock the loop then goes."""

    def make(model: ToyModel = FULL, **options: Any) -> ToyDevice:
        device = ToyDevice(model, **options)
        monkeypatch.setattr("doppler.engine.sequence.perf_counter", lambda: device.now / 1000)
        return device

    return make


def config(
    max_tokens: int, speculate: Speculate = "off", ends: Set[int] = frozenset()
) -> GenerationConfig:
    return GenerationConfig(Sampling(), max_tokens, ends, speculate)


def run(
    device: ToyDevice,
    prompt: Sequence[int],
    config: GenerationConfig,
    during: During = lambda sequence, cancellation: None,
    written: Sequence[int] = (),
) -> Generation:
    """One generation. Its steps must give all ids but an end token, and those `written` before."""

    async def steps() -> Generation:
        cancellation = Cancellation()
        sequence = Generating(device.session, prompt, config, cancellation, written)
        given = list(written)
        while sequence.state != "done":
            given += await sequence.step()
            assert given == [token for token in sequence.ids if token not in config.ends]
            during(sequence, cancellation)
        return sequence.result()

    return asyncio.run(steps())


def cancel_after(count: int) -> During:
    """Cancels once more than `count` ids have come."""

    def cancel(sequence: Generating, cancellation: Cancellation) -> None:
        if len(sequence.ids) > count:
            cancellation.ask()

    return cancel


@pytest.mark.parametrize("model", [FULL, WINDOWED])
@pytest.mark.parametrize("step_ms", [SLOW, QUICK, 0.01])
@pytest.mark.parametrize("count", [1, 2, 3, 40])
def test_ids_are_the_models(toy: DeviceMaker, model: ToyModel, step_ms: float, count: int) -> None:
    result = run(toy(model, step_ms=step_ms), PROMPT, config(count))
    assert result.ids == model.answer(PROMPT, count)
    assert result.finish_reason == "length"


@pytest.mark.parametrize("speculate", MODES)
def test_what_the_host_brings_is_there_for_every_token(
    toy: DeviceMaker, speculate: Speculate
) -> None:
    """The device has it of the tokens that it runs, and of no others: one step at a time."""
    device = toy(REPEATING, batch=16, step_ms=QUICK)
    device.brought = []
    ids = run(device, PROMPT, config(40, speculate)).ids
    assert ids == REPEATING.answer(PROMPT, 40, 0)
    assert device.ran == 39


@pytest.mark.parametrize("model", [WINDOWED, REPEATING, ToyModel(recurs=True)])
@pytest.mark.parametrize("speculate", MODES)
@pytest.mark.parametrize("cut", [1, 2, 37, RING, 299])
def test_an_answer_that_was_cut_off_goes_on_as_if_it_had_not_been(
    toy: DeviceMaker, model: ToyModel, speculate: Speculate, cut: int
) -> None:
    """On a new device, and on one whose cache has it still."""
    asked = GenerationConfig(Sampling(seed=5), 300, speculate=speculate)
    memory = 0 if model is REPEATING else 5
    asked = asked if memory else config(300, speculate)
    ids = model.answer(PROMPT, 300, memory)
    device, limit = toy(model), []
    for reused in (False, True):
        result = run(device, PROMPT, asked, lambda it, _: limit.append(len(it.ids)), ids[:cut])
        assert (result.ids, result.finish_reason) == (ids, "length")
        if not reused or model is REPEATING:  # others may have to look too far back
            assert result.reused_tokens == reused * (len(PROMPT) + cut - 1)
        assert min(limit) == cut
    longer = [*PROMPT, *ids, 1, 2]
    again = run(device, longer, config(10))
    assert again.ids == model.answer(longer, 10)
    assert again.reused_tokens == len(PROMPT) + 299 or model.recurs


def test_an_answer_that_had_ended_does_not_go_on(toy: DeviceMaker) -> None:
    ids = FULL.answer(PROMPT, 20)
    device = toy(context=len(PROMPT) + 20)
    for asked, reason in (
        (config(20), "length"),
        (config(30), "context"),
        (config(30, ends={ids[-1]}), "stop"),
    ):
        result = run(device, PROMPT, asked, written=ids)
        assert (result.ids, result.finish_reason) == (ids, reason)
    assert device.chunks == []


def test_the_seed_is_the_samplings(toy: DeviceMaker) -> None:
    asked = GenerationConfig(Sampling(seed=5), 20, speculate="off")
    ids = run(toy(), PROMPT, asked).ids
    assert ids == FULL.answer(PROMPT, 20, seed=5) != FULL.answer(PROMPT, 20)


def test_more_ids_than_the_ring_holds(toy: DeviceMaker) -> None:
    model = ToyModel(memory=40)
    assert run(toy(model), PROMPT, config(2 * RING)).ids == model.answer(PROMPT, 2 * RING)


@pytest.mark.parametrize(("step_ms", "most"), [(SLOW, 1), (QUICK, 30), (0.01, MOST_AHEAD)])
def test_a_slow_device_has_one_step_at_a_time_and_a_quick_one_many(
    toy: DeviceMaker, step_ms: float, most: int
) -> None:
    counts = [0]
    device = toy(step_ms=step_ms)
    run(device, PROMPT, config(300), lambda sequence, _: counts.append(len(sequence.ids)))
    assert max(after - before for before, after in pairwise(counts)) == most


def test_times_are_the_devices(toy: DeviceMaker) -> None:
    """A chunk of 64 tokens at 0.1 ms each, and steps of 1 ms."""
    result = run(toy(), PROMPT, config(50))
    assert result.ttft_ms == pytest.approx(6.4)
    assert result.prefill_tok_s == pytest.approx(len(PROMPT) / 0.0064)
    assert result.decode_tok_s == pytest.approx(1000)


def test_chunks_grow_with_what_is_known_of_the_device(toy: DeviceMaker) -> None:
    device = toy(batch=512, token_ms=0.1)
    prompt = PROMPT * 40
    progress: list[tuple[int, int]] = []
    run(device, prompt, config(1), lambda it, _: progress.append(it.prefill_progress))
    assert device.chunks == [64, 512, 512, 64]
    total = len(prompt)
    assert progress == [(64, total), (576, total), (1088, total), (total, total), (total, total)]


@pytest.mark.parametrize("at", [0, 1, 2, 10, 39])
@pytest.mark.parametrize("speculate", ["off", "on"])
def test_an_end_token_in_what_was_queued_ahead(
    toy: DeviceMaker, at: int, speculate: Speculate
) -> None:
    """Those behind it are computed in vain: the next answer goes on as if they never were."""
    model = ToyModel((20, 0), memory=3)
    ids = model.answer(PROMPT, 40)
    end = ids[at]
    first = ids.index(end)
    device = toy(model)
    result = run(device, PROMPT, config(300, speculate, {end}))
    assert (result.ids, result.finish_reason) == (ids[: first + 1], "stop")
    longer = [*PROMPT, *result.ids, 1, 2]
    again = run(device, longer, config(10))
    assert again.reused_tokens == len(PROMPT) + first
    assert again.ids == model.answer(longer, 10)


def test_an_end_token_leaves_work_in_vain_behind(toy: DeviceMaker) -> None:
    device = toy()
    ids = FULL.answer(PROMPT, 20)
    end = next(token for token in ids[5:] if token not in ids[:5])
    run(device, PROMPT, config(300))
    before = device.ran
    result = run(device, PROMPT, config(300, ends={end}))
    asyncio.run(device.done())
    assert device.ran - before > len(result.ids)


@pytest.mark.parametrize("count", [1, 2, 7, 30])
def test_a_stop_text_ends_it_in_the_middle_of_a_step(toy: DeviceMaker, count: int) -> None:
    """Also where the sequence had ended by itself, a few ids later."""
    device = toy(WINDOWED)
    came: list[int] = []

    def stop(sequence: Generating, _: Cancellation) -> None:
        if len(sequence.ids) >= count:
            came.append(len(sequence.ids))
            sequence.stop(count)

    result = run(device, PROMPT, config(32), stop)
    assert came == [{1: 1, 2: 2, 7: 32, 30: 32}[count]]
    assert result.finish_reason == "stop"
    assert result.ids == WINDOWED.answer(PROMPT, count)
    longer = [*PROMPT, *result.ids, 1]
    again = run(device, longer, config(5))
    assert again.reused_tokens == len(PROMPT) + count - 1
    assert again.ids == WINDOWED.answer(longer, 5)


@pytest.mark.parametrize("chunks", [1, 2])
def test_cancel_during_prefill(toy: DeviceMaker, chunks: int) -> None:
    """What was run stays in the cache."""
    device, prompt = toy(WINDOWED), PROMPT * 8

    def cancel(sequence: Generating, cancellation: Cancellation) -> None:
        if sequence.prefill_progress[0] == 64 * chunks:
            cancellation.ask()

    result = run(device, prompt, config(9), cancel)
    assert (result.ids, result.finish_reason) == ([], "cancelled")
    assert (result.ttft_ms, result.prefill_tok_s, result.decode_tok_s) == (0, 0, 0)
    assert len(device.chunks) == chunks + 1  # it is heard within a chunk
    again = run(device, prompt, config(9))
    assert again.reused_tokens == 64 * (chunks + 1)
    assert again.ids == WINDOWED.answer(prompt, 9)


def test_cancel_during_decode(toy: DeviceMaker) -> None:
    """It is heard within a token, whatever was queued ahead."""
    device = toy(WINDOWED)
    result = run(device, PROMPT, config(300), cancel_after(20))
    assert (len(result.ids), result.finish_reason) == (32 + 1, "cancelled")  # 30 came at once
    assert result.ids == WINDOWED.answer(PROMPT, len(result.ids))
    assert run(device, PROMPT, config(50)).ids == WINDOWED.answer(PROMPT, 50)


def test_a_cancel_that_comes_first_runs_nothing_and_a_forgotten_one_is_none(
    toy: DeviceMaker,
) -> None:
    device, cancellation = toy(), Cancellation()
    cancellation.ask()
    early = Generating(device.session, PROMPT, config(5), cancellation)
    assert (early.state, early.result().finish_reason) == ("done", "cancelled")
    assert device.chunks == []
    cancellation.forget()
    assert Generating(device.session, PROMPT, config(5), cancellation).state == "prefill"


def test_no_tokens_and_one(toy: DeviceMaker) -> None:
    device = toy()
    none = run(device, PROMPT, config(0))
    assert (none.ids, none.finish_reason, device.chunks) == ([], "length", [])
    one = run(device, PROMPT, config(1))
    assert (one.ids, one.finish_reason, device.ran) == (FULL.answer(PROMPT, 1), "length", 0)


@pytest.mark.parametrize("room", [1, 2, 3, 8, 9, 30])
@pytest.mark.parametrize("speculate", MODES)
@pytest.mark.parametrize("model", [REPEATING, WINDOWED])
def test_the_context_ends_it(
    toy: DeviceMaker, room: int, speculate: Speculate, model: ToyModel
) -> None:
    """One more id than it has room for would never be run, so as many come as it has."""
    device = toy(model, context=len(PROMPT) + room)
    for max_tokens, reason in ((100, "context"), (room + 1, "context"), (room, "length")):
        result = run(device, PROMPT, config(max_tokens, speculate))
        assert (result.ids, result.finish_reason) == (model.answer(PROMPT, room), reason)


@pytest.mark.parametrize("speculate", MODES)
@pytest.mark.parametrize("batch_ms", [0.5, 2.0, 50.0])
@pytest.mark.parametrize("model", [REPEATING, ToyModel((20, 0), memory=3)])
def test_drafts_change_no_id(
    toy: DeviceMaker, speculate: Speculate, batch_ms: float, model: ToyModel
) -> None:
    device = toy(model, batch_ms=batch_ms)
    for count in (300, 301, 7):
        result = run(device, PROMPT, config(count, speculate))
        assert result.ids == model.answer(PROMPT, count)
        assert result.batch_tokens <= {"on": count - 1, "auto": count - 1, "off": 0}[speculate]
        assert result.batch_tokens == count - 1 or speculate != "on"


def test_drafts_are_used_where_they_pay(toy: DeviceMaker) -> None:
    device = toy(REPEATING)
    plain, drafted = (run(device, PROMPT, config(300, mode)) for mode in ("off", "auto"))
    assert drafted.batches < drafted.batch_tokens < 300
    assert drafted.decode_tok_s > 1.5 * plain.decode_tok_s


def test_drafts_wait_until_they_are_compiled(toy: DeviceMaker) -> None:
    """An answer that could do with them goes on without, and then with them."""
    device = toy(REPEATING)
    compiling: list[bool] = []

    async def steps() -> Generation:
        device.drafts_ready = asyncio.get_running_loop().create_future()
        sequence = Generating(device.session, PROMPT, config(400, "auto"), Cancellation())
        while sequence.state != "done":
            await sequence.step()
            if len(sequence.ids) > 200 and not device.drafts_ready.done():
                compiling.append(True)
                device.drafts_ready.set_result(None)
        return sequence.result()

    result = asyncio.run(steps())
    assert compiling == [True]
    assert 0 < result.batch_tokens < 200
    assert result.ids == REPEATING.answer(PROMPT, 400)


@pytest.mark.parametrize("speculate", ["auto", "on"])
def test_drafts_that_do_not_compile_are_an_error(toy: DeviceMaker, speculate: Speculate) -> None:
    device = toy(REPEATING)

    async def steps() -> None:
        device.drafts_ready = asyncio.get_running_loop().create_future()
        device.drafts_ready.set_exception(DeviceError("draft.wgsl"))
        sequence = Generating(device.session, PROMPT, config(300, speculate), Cancellation())
        while sequence.state != "done":
            await sequence.step()

    with pytest.raises(DeviceError, match=r"draft\.wgsl"):
        asyncio.run(steps())
    assert run(device, PROMPT, config(20)).ids == REPEATING.answer(PROMPT, 20)


@pytest.mark.parametrize("speculate", ["off", "on"])
def test_after_an_error_anywhere_the_next_answer_is_right(
    toy: DeviceMaker, speculate: Speculate
) -> None:
    """The device drops what was queued: what was only queued must not count as cached."""
    model = ToyModel((20, 0), memory=40)
    prompt = PROMPT * 6
    answer = model.answer(prompt, 40)
    for work in range(200):
        device = toy(model)
        run(device, prompt[:90], config(5))
        device.fails_in = work
        try:
            run(device, prompt, config(40, speculate))
        except DeviceError:
            assert run(device, prompt, config(40)).ids == answer
        else:
            break
    assert 10 < work < 199


def test_logits_that_are_nan_are_an_error_only_where_the_answer_gets_to(toy: DeviceMaker) -> None:
    """What was queued behind the end of an answer goes nowhere, NaN or not."""
    model = ToyModel(vocab=10_000, breaks_at=len(PROMPT) + 50)
    ids = model.answer(PROMPT, 50)
    device = toy(model, step_ms=0.01)
    for max_tokens in (49, 50):
        assert run(device, PROMPT, config(max_tokens)).ids == ids[:max_tokens]
    assert run(device, PROMPT, config(100, ends={ids[47]})).ids == ids[:48]
    with pytest.raises(DopplerError, match="token 51 of the answer has logits"):
        run(device, PROMPT, config(51))
    assert run(device, PROMPT, config(9)).reused_tokens == 0


@dataclass
class Every:
    """Allows the ids that leave `len(ids) % by` when they are divided by `by`: others each time."""

    by: int = 2
    asked: list[tuple[int, ...]] = field(default_factory=list)

    def mask(self, ids: Sequence[int]) -> bytes | None:
        self.asked.append(tuple(ids))
        return sum(1 << t for t in range(len(ids) % self.by, 64, self.by)).to_bytes(8, "little")


class Free:
    """Allows everything."""

    def mask(self, ids: Sequence[int]) -> bytes | None:
        return None


@dataclass
class Until:
    """Allows everything before `count` ids, and then does as it is told."""

    count: int
    then: Callable[[], bytes]

    def mask(self, ids: Sequence[int]) -> bytes | None:
        return None if len(ids) < self.count else self.then()


def ruled(max_tokens: int, *rules: LogitRule, speculate: Speculate = "off") -> GenerationConfig:
    return GenerationConfig(Sampling(), max_tokens, speculate=speculate, rules=rules)


def no_token() -> bytes:
    """Bits of ids that are not in the vocabulary are none."""
    return b"\0\xf8\xff\xff"


def rule_breaks() -> bytes:
    raise LookupError("a rule's own mistake")


@pytest.mark.parametrize("speculate", MODES)
@pytest.mark.parametrize("step_ms", [SLOW, 0.01])
def test_a_rule_is_asked_once_for_each_id_and_obeyed(
    toy: DeviceMaker, speculate: Speculate, step_ms: float
) -> None:
    """Also where a prompt is half cached, drafts would pay, and steps are quick."""
    device = toy(REPEATING, step_ms=step_ms)
    run(device, PROMPT, config(50, speculate))  # its times are known from now on
    rule = Every()
    result = run(device, [*PROMPT, 3], ruled(40, rule, speculate=speculate))
    assert result.ids == REPEATING.answer([*PROMPT, 3], 40, mask=Every().mask)
    assert [token % 2 for token in result.ids] == [0, 1] * 20
    assert rule.asked == [tuple(result.ids[:n]) for n in range(40)]
    assert result.batches == 0


def test_with_rules_a_step_is_queued_when_the_id_before_it_was_read(toy: DeviceMaker) -> None:
    """So nothing is run in vain behind an end token, and ids come one at a time."""
    device = toy(step_ms=0.01)
    run(device, PROMPT, config(100))
    asyncio.run(device.done())
    end = FULL.answer(PROMPT, 9, mask=Every().mask)[-1]
    before, counts = device.ran, [0]
    asked = GenerationConfig(Sampling(), 100, {end}, rules=(Every(),))
    result = run(device, PROMPT, asked, lambda sequence, _: counts.append(len(sequence.ids)))
    asyncio.run(device.done())
    assert result.finish_reason == "stop"
    assert device.ran - before == len(result.ids) - 1
    assert {after - before for before, after in pairwise(counts)} <= {0, 1}


def test_times_with_rules_are_not_the_devices(toy: DeviceMaker) -> None:
    device = toy()
    run(device, PROMPT, ruled(40, Every()))
    assert device.session.times.plain_ms == 0


def test_rules_are_combined(toy: DeviceMaker) -> None:
    for rules in ((Every(2), Every(3)), (Free(), Every(6)), (Every(2), Free(), Every(3))):
        result = run(toy(), PROMPT, ruled(20, *rules))
        assert result.ids == FULL.answer(PROMPT, 20, mask=Every(6).mask)
    assert run(toy(), PROMPT, ruled(20, Free(), Free())).ids == FULL.answer(PROMPT, 20)


def test_a_rule_holds_for_its_answer_only(toy: DeviceMaker) -> None:
    device = toy()
    for _ in range(2):
        run(device, PROMPT, ruled(9, Every()))
        assert run(device, PROMPT, config(20)).ids == FULL.answer(PROMPT, 20)


def test_a_mask_is_cut_and_filled_to_the_vocabulary() -> None:
    def whole(mask: bytes, vocab: int) -> bytes | None:
        return allowed([Until(0, lambda: mask)], [], vocab)

    assert whole(b"\xff" * 9, 33) == b"\xff\xff\xff\xff\x01\0\0\0"
    assert whole(b"\x80", 33) == b"\x80" + bytes(7)
    assert whole(b"\xff" * 4, 32) == b"\xff" * 4
    assert allowed([Free()], [], 33) is None


@pytest.mark.parametrize("room", [1, 2, 9])
def test_rules_end_with_the_context(toy: DeviceMaker, room: int) -> None:
    rule = Every()
    result = run(toy(context=len(PROMPT) + room), PROMPT, ruled(100, rule))
    assert (len(result.ids), result.finish_reason) == (room, "context")
    assert len(rule.asked) == room


def test_rules_are_not_asked_after_a_cancel(toy: DeviceMaker) -> None:
    device, rule = toy(WINDOWED), Every()
    result = run(device, PROMPT, ruled(100, rule), cancel_after(20))
    assert (len(result.ids), result.finish_reason) == (22, "cancelled")
    assert len(rule.asked) == 22
    assert run(device, PROMPT, config(50)).ids == WINDOWED.answer(PROMPT, 50)


@pytest.mark.parametrize("count", [0, 1, 5])
@pytest.mark.parametrize(
    ("then", "error", "words"),
    [
        (no_token, DopplerError, r"token {} of the answer: its rules \(Until, Free\) allow none"),
        (rule_breaks, LookupError, "a rule's own mistake"),
    ],
)
def test_a_rule_that_allows_nothing_or_breaks_ends_it_with_an_error(
    toy: DeviceMaker, count: int, then: Callable[[], bytes], error: type[Exception], words: str
) -> None:
    device = toy(WINDOWED)
    with pytest.raises(error, match=words.format(count + 1)):
        run(device, PROMPT, ruled(100, Until(count, then), Free()))
    again = run(device, PROMPT, config(20))
    assert (again.reused_tokens, again.ids) == (0, WINDOWED.answer(PROMPT, 20))


def test_with_rules_logits_that_are_nan_are_an_error_as_well(toy: DeviceMaker) -> None:
    model = ToyModel(breaks_at=len(PROMPT) + 5)
    with pytest.raises(DopplerError, match="token 6 of the answer has logits"):
        run(toy(model), PROMPT, ruled(9, Every()))


def test_a_conversation_goes_on_from_what_is_cached(toy: DeviceMaker) -> None:
    device, prompt = toy(WINDOWED), list(PROMPT)
    for _ in range(5):
        result = run(device, prompt, config(30))
        assert result.ids == WINDOWED.answer(prompt, 30)
        prompt += [*result.ids, 1, 2, 3]
    assert result.reused_tokens == len(prompt) - 30 - 3 - 4


def test_what_a_window_overwrote_is_run_again(toy: DeviceMaker) -> None:
    """An edit far back: a layer with a window has lost what it would see there."""
    for model, reused in ((FULL, 40), (WINDOWED, 0)):
        device = toy(model)
        prompt = PROMPT * 20
        run(device, prompt, config(2))
        edited = [*prompt[:40], 9, 9]
        result = run(device, edited, config(20))
        assert (result.reused_tokens, result.ids) == (reused, model.answer(edited, 20))


def test_what_was_queued_in_vain_counts_as_overwritten(toy: DeviceMaker) -> None:
    """Behind the end of an answer 128 more steps were run: they are what the ring's places hold."""
    model = ToyModel((20, 0), vocab=10_000)
    prompt = PROMPT * 10
    ids = model.answer(prompt, 100)
    end = next(token for token in ids[70:] if token not in ids[:70])
    device = toy(model, step_ms=0.01)
    run(device, prompt, config(5))  # its times are known from now on
    length = len(prompt) + len(run(device, prompt, config(500, ends={end})).ids)
    for back, is_there in ((10, True), (100, False)):
        edited = [*[*prompt, *ids][: length - back], 1, 2]
        result = run(device, edited, config(20))
        assert (result.reused_tokens > 0) == is_there
        assert result.ids == model.answer(edited, 20)


@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_asked_one_after_another(toy: DeviceMaker, seed: int) -> None:
    """Continued, edited, stopped, cancelled, with drafts or without: answers are the model's."""
    chance = random.Random(seed)
    model = ToyModel((5, 30, 0), memory=chance.choice([2, 3, 50]))
    device = toy(model, context=500, step_ms=chance.choice([QUICK, 5.0, SLOW]))
    ids = list(PROMPT)
    reused = 0
    for _ in range(25):
        asked = config(chance.randrange(1, 60), chance.choice(MODES), {chance.randrange(40)})
        result = run(device, ids, asked, cancel_after(chance.randrange(120)))
        assert result.ids == model.answer(ids, len(result.ids))
        reused += result.reused_tokens > 0
        kept = chance.choice([0, 1, 3, 20])
        ids = [*ids, *result.ids][: len(ids) + len(result.ids) - kept]
        ids = [*ids, *(chance.randrange(9) for _ in range(5))][-400:]
    assert reused > 10

"""Cases of drafts and of sampling: the samplers and their twin share integer arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from doppler import references
from doppler.engine.memory import BROKEN
from doppler.plan.bindings import RING, RING_AT
from doppler.sampling import Sampling, block_of, blocks_of
from doppler.workbench.case import (
    ROUNDING,
    Array,
    Arrays,
    Case,
    Expected,
    Launch,
    Rng,
    Trial,
    inside,
    named,
)
from doppler.workbench.cases.inputs import case, control, fours, state

NONE = 0xFFFFFFFF  # verify_row: the batch is done
MOST = 30.0  # of the logits that `cap` leaves
WRITTEN = ("seen", "tokens", "control", "history")
BLOCKS = ("logits", "seen", "tops", "ids")  # that both samplers bind


@dataclass(frozen=True)
class Text:
    """Ids of which the last is to be continued with drafts. counted: what the state takes for their
    number (default: it).
    """

    ids: Sequence[int]
    longest: int = 3
    most: int = 7
    context: int = 2000
    counted: int | None = None

    def drafts(self) -> list[int]:
        """Those that its twin makes; none where the context is full."""
        most = max(min(self.most, self.context - self.length), 0)
        return references.draft(self.ids, self.longest, most) if most else []

    @property
    def length(self) -> int:
        return len(self.ids) if self.counted is None else self.counted


def drafted(rng: Rng, text: Text) -> Trial:
    """What follows the latest earlier place of the last ids."""
    history = np.full(text.context, 77, np.uint32)  # what a longer text left there
    history[: len(text.ids)] = text.ids
    arrays = {
        "history": history,
        "tokens": np.full(16, 88, np.uint32),
        "verify_row": np.array([NONE], np.uint32),
        "state": state(1, text.length - 1, 5, 6),
    }
    drafts = text.drafts()
    after = state(1 + len(drafts), text.length - 1, 5, 6)
    right = {
        "tokens": inside(arrays["tokens"], np.s_[1 : 1 + len(drafts)], np.array(drafts), 0.0, 1.0),
        "state": Expected(after),
    }
    if text.counted is None:
        right["verify_row"] = Expected(np.array([0]))
    params = {"context": text.context, "most": text.most}
    launch = Launch("draft", {"LONGEST": text.longest}, params, named(arrays))
    return Trial(arrays, [launch], list(right), lambda _: right)


def _bits(vocab: int, ids: Sequence[int]) -> Array:
    """A bit for each id of the vocabulary, in words."""
    bits = np.zeros(-(-vocab // 32) * 32, np.uint8)
    bits[list(ids)] = 1
    return np.packbits(bits, bitorder="little").view(np.uint32)


def _tops(vocab: int) -> dict[str, Array]:
    """Room for what sample_blocks gives."""
    blocks = fours(blocks_of(vocab))
    return {"tops": np.zeros(blocks, np.float32), "ids": np.zeros(blocks, np.uint32)}


@dataclass(frozen=True)
class Draw:
    """One token to be sampled, in the middle of a generation."""

    logits: Array
    sampling: Sampling
    seen: tuple[int, ...] = ()
    step: int = 0
    context: int = 20
    allowed: tuple[int, ...] | None = None  # by a mask

    position, count = 10, 4

    @property
    def choice(self) -> references.Choice:
        """What its twin samples."""
        return references.sample(self.logits, self.seen, self.sampling, self.step, self.allowed)

    @property
    def arrays(self) -> dict[str, Array]:
        """Before."""
        vocab = len(self.logits)
        words = state(self.count, self.position, self.step, self.sampling.seed)
        mask = {} if self.allowed is None else {"mask": _bits(vocab, self.allowed)}
        return {
            **mask,
            "logits": np.pad(self.logits, (0, -vocab % 4)),
            "seen": _bits(vocab, self.seen),
            **_tops(vocab),
            "state": words,
            "tokens": np.array([7, 8, 9, 10], np.uint32),
            "history": np.full(self.context, 5, np.uint32),
            "control": control(words, np.arange(1000, 1256, dtype=np.uint32)),
        }

    def launches(self) -> list[Launch]:
        """Both kernels."""
        vocab = len(self.logits)
        masked, params = self.allowed is not None, self.sampling.params(vocab)
        constants = {"BLOCK": block_of(vocab), "VERIFIES": 0, "MASKED": int(masked)}
        lanes, bound = (1, 2, 32)[self.step % 3], (*BLOCKS, *(["mask"] * masked))
        return [
            Launch(
                "sample_blocks", {**constants, "LANES": lanes}, params, named((*bound, "state"))
            ),
            Launch("sample", constants, params, named((*bound, *WRITTEN[1:]))),
        ]

    def trial(self) -> Trial:
        """The token is the twin's; what else is written goes with the token that is, if that was
        among those to be drawn from.
        """
        arrays, choice = self.arrays, self.choice

        def twin(got: Arrays) -> dict[str, Expected]:
            given = int(got["tokens"][0])
            token = given if given in choice.kept else choice.token
            tokens = np.array([choice.token, 8, 9, 10])
            return {"tokens": Expected(tokens), **self._written(arrays, token)}

        return Trial(arrays, self.launches(), WRITTEN, twin)

    def _written(self, arrays: Arrays, token: int) -> dict[str, Expected]:
        words = state(1, self.position + self.count, self.step + 1, self.sampling.seed)
        ring = arrays["control"][RING_AT // 4 :].copy()
        ring[self.step % RING] = token
        history = arrays["history"].copy()
        history[self.position + self.count : self.position + self.count + 1] = token
        return {
            "seen": Expected(_bits(len(self.logits), (*self.seen, token))),
            "control": Expected(control(words, ring)),
            "history": Expected(history),
        }


def broken(rng: Rng, draw: Draw) -> Trial:
    """Logits that are no numbers give no token: the ring says so, and nothing else is written but
    the step.
    """
    arrays = draw.arrays
    after = {name: arrays[name].copy() for name in WRITTEN}
    after["control"][RING_AT // 4 + draw.step] = BROKEN
    after["control"][2] += 1
    right = {name: Expected(values) for name, values in after.items()}
    return Trial(arrays, draw.launches(), WRITTEN, lambda _: right)


def padding(rng: Rng) -> Trial:
    """What lies beyond the vocabulary may hold anything."""
    draw = Draw(np.array([1.0, 3.0, 2.0], np.float32), Sampling(greedy=True))
    arrays = {name: draw.arrays[name] for name in (*BLOCKS, "state")}
    arrays["logits"][3] = np.nan

    def twin(got: Arrays) -> dict[str, Expected]:
        ids = got["ids"].copy()  # those beyond the only block are free
        ids[0] = 1
        return {"ids": Expected(ids)}

    return Trial(arrays, draw.launches()[:1], ["ids"], twin)


@dataclass(frozen=True)
class Batch:
    """A batch that ran through the model: logits [rows, vocab], drafts, what samplers see."""

    logits: Array
    drafts: tuple[int, ...]
    sampling: Sampling
    seen: tuple[int, ...]
    step: int

    position = 10

    def sampled(self) -> list[int]:
        """The tokens that come of it: sampled one after another, as without drafts."""
        out: list[int] = []
        for row in range(1 + len(self.drafts)):
            seen = (*self.seen, *out)
            choice = references.sample(self.logits[row], seen, self.sampling, self.step + row)
            out.append(choice.token)
            if self.drafts[row : row + 1] != (out[-1],):
                break
        return out

    def trial(self) -> Trial:
        """Both kernels once a row, and once more."""
        rows, vocab = self.logits.shape
        words = state(1 + len(self.drafts), self.position, self.step, self.sampling.seed)
        arrays = {
            "logits": np.pad(self.logits, ((0, 0), (0, -vocab % 4))),
            "seen": _bits(vocab, self.seen),
            **_tops(vocab),
            "state": words,
            "tokens": np.array([3, *self.drafts], np.uint32),
            "history": np.full(20, 55, np.uint32),
            "verify_row": np.array([0], np.uint32),
            "control": control(words, np.full(RING, 66, np.uint32)),
        }
        constants = {"BLOCK": block_of(vocab), "VERIFIES": 1, "MASKED": 0}
        params = self.sampling.params(vocab)
        bound = named((*BLOCKS, "verify_row"))
        step = [
            Launch("sample_blocks", {**constants, "LANES": 32}, params, named((*bound, "state"))),
            Launch("sample", constants, params, named((*bound, *WRITTEN[1:]))),
        ]
        outputs = [*WRITTEN, "verify_row"]
        return Trial(arrays, step * (rows + 1), outputs, lambda got: self._expected(arrays, got))

    def _expected(self, arrays: Arrays, got: Arrays) -> dict[str, Expected]:
        tokens, ring = self.sampled(), arrays["control"][RING_AT // 4 :].copy()
        n, history = len(tokens), arrays["history"].copy()
        ring[(self.step + np.arange(n)) % RING] = tokens
        history[self.position + 1 : self.position + 1 + n] = tokens
        words = state(1, self.position + n, self.step + n, self.sampling.seed)
        first = got["tokens"].copy()  # the next batch begins with the last; the rest is free
        first[0] = tokens[-1]
        return {
            "tokens": Expected(first),
            "verify_row": Expected(np.array([NONE])),
            "control": Expected(control(words, ring)),
            "history": Expected(history),
            "seen": Expected(_bits(self.logits.shape[1], (*self.seen, *tokens))),
        }


def logits(rng: Rng, vocab: int, spread: float = 2.0) -> Array:
    """Random ones."""
    return (rng.standard_normal(vocab) * spread).astype(np.float32)


MASKED = (
    Sampling(greedy=True),
    Sampling(greedy=True, repetition_penalty=1.6),
    Sampling(),
    Sampling(top_k=5),
    Sampling(top_p=0.8),
    Sampling(min_p=0.1),
    Sampling(temperature=0.7, top_k=40, top_p=0.9, min_p=0.05, repetition_penalty=1.3),
)
SETTINGS = (
    Sampling(),
    Sampling(temperature=0.6),
    Sampling(top_k=1),
    Sampling(top_k=5),
    Sampling(top_p=0.8),
    Sampling(top_p=0.001),
    Sampling(min_p=0.1),
    Sampling(min_p=1.0),
    Sampling(temperature=1.5, top_k=40, top_p=0.9, min_p=0.05, repetition_penalty=1.3),
    Sampling(temperature=0.7, top_k=4000, top_p=0.95, repetition_penalty=0.8),
)
LARGE = (
    Sampling(greedy=True),
    Sampling(top_k=64, top_p=0.95),
    Sampling(top_k=3, repetition_penalty=1.4),
    Sampling(top_p=0.9, temperature=0.5),
    Sampling(min_p=0.2),
)
WALKS = (
    Sampling(greedy=True),
    Sampling(greedy=True, repetition_penalty=1.5),
    Sampling(seed=4),
    Sampling(temperature=0.7, top_k=20, top_p=0.9, repetition_penalty=1.3, seed=5),
)


def drawn(rng: Rng, vocab: int, spread: float, sampling: Sampling, step: int, seen: range) -> Trial:
    """A token of random logits."""
    return Draw(logits(rng, vocab, spread), sampling, tuple(seen), step).trial()


def masked(rng: Rng, vocab: int, which: str, sampling: Sampling, step: int) -> Trial:
    """Only what the mask allows is sampled."""
    values = logits(rng, vocab)
    order = np.argsort(-values).tolist()
    allowed = {
        "all but the best": tuple(sorted(order[1:])) or (0,),
        "every third": tuple(range(0, vocab, 3)),
        "the worst": (order[-1],),
        "the last": (vocab - 1,),
    }[which]
    return Draw(values, sampling, tuple(range(0, vocab, 5)), step, allowed=allowed).trial()


def lowest(rng: Rng, value: float, sampling: Sampling, step: int) -> Trial:
    """What is allowed comes before the rest, however low it is."""
    allowed = ((5,), (299,), (5, 298))[step]
    values = np.full(300, value, np.float32)
    return Draw(values, sampling, step=step, allowed=allowed).trial()


def greedy(rng: Rng, vocab: int, which: str) -> Trial:
    """Exactly NumPy's argmax after the penalty; the lowest id of equal ones."""
    values = logits(rng, vocab)
    tied = values.copy()
    tied[[vocab // 3, vocab // 2, vocab - 1]] = values.max() + 1
    best, plain = int(np.argmax(values)), Sampling(greedy=True)
    penalised = Sampling(greedy=True, repetition_penalty=1.7)
    some = tuple({0, vocab // 2})
    return {
        "the best": Draw(values, plain),
        "temperature 0": Draw(values, Sampling(temperature=0), step=255),
        "the best was seen": Draw(values, penalised, seen=(best,), step=256),
        "negative, some seen": Draw(-np.abs(values) - 1, penalised, seen=some),
        "all equal": Draw(np.zeros(vocab, np.float32), plain),
        "some equal": Draw(tied, plain),
        "a full context": Draw(values, plain, context=14),
        "zeros of both signs": Draw(np.array([-1.0, -0.0, 0.0, -0.0], np.float32), plain),
    }[which].trial()


def walked(rng: Rng, vocab: int, sampling: Sampling, good: int | None) -> Trial:
    """Four rows of which the drafts of the first `good` are right, or without drafts: what is
    sampled is what it would be if tokens came alone.
    """
    rows = (rng.standard_normal((4, vocab)) * 2).astype(np.float32)
    # A penalty decides: what was sampled before is the best of the next row as well.
    rows[1] = rows[0]
    batch = Batch(rows, (), sampling, tuple(range(0, vocab, 5)), step=253)
    right: list[int] = []
    while len(right) < 4:  # what a perfect draft would say
        right = replace(batch, drafts=(*right, NONE)).sampled()
    if good is None:
        return batch.trial()
    drafts = right[:good] + [(right[good] + 1) % vocab] * (good < 3)
    return replace(batch, drafts=tuple(drafts)).trial()


def _texts() -> list[Case]:
    rng = np.random.default_rng(0)
    texts = {
        "one id": Text([1]),
        "the id 0": Text([0]),
        "two ids 0": Text([0, 0]),
        "no id twice": Text([1, 2, 3, 4]),
        "one id again and again": Text([3, 8, 8]),
        "two ids in turn": Text([1, 2, 1, 2, 1]),
        "the latest of equal places": Text([5, 1, 5, 2, 5]),
        "two ids before a later one": Text([1, 5, 2, 9, 5, 3, 1, 5]),
        "large ids": Text([262143, 0, 7, 262143, 0], most=3),
        "one id counts": Text([4, 5, 6, 7, 4, 5, 6], longest=1),
        "15 drafts": Text([4, 5, 6, 7, 4, 5, 6], most=15),
        "0 after 300 ids": Text([*range(300), 0], most=15),
        "its only place is the first": Text([9, *range(10, 1500), 9]),
        "past the context": Text([1, 2, 1, 2], context=4, counted=7),
    }
    again = [1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3]
    for left in (0, 1, 2, 7, 8):
        texts[f"{left} places left"] = Text(again, context=len(again) + left)
    for vocab in (1, 2, 3, 20):
        for length in (2, 3, 5, 255, 256, 257, 258, 513, 1999):
            ids = rng.integers(0, vocab, length).tolist()
            texts[f"{length} of {vocab} ids"] = Text(ids, longest=int(rng.integers(1, 6)))
    return [case("draft", name, drafted, text) for name, text in texts.items()]


def _greedy() -> list[Case]:
    names = (
        "the best",
        "temperature 0",
        "the best was seen",
        "negative, some seen",
        "all equal",
        "some equal",
    )
    sizes = [(vocab, which) for vocab in (1, 3, 257, 1030, 5001) for which in names]
    sizes += [(9, "a full context"), (4, "zeros of both signs")]
    return [case("sample", f"greedy, {vocab} ids: {it}", greedy, vocab, it) for vocab, it in sizes]


def _broken() -> list[Case]:
    """A logit that is no number, wherever it stands."""
    found: list[Case] = []
    for vocab, at in ((1, 0), (257, 256), (5001, 77)):
        for number in (np.nan, -np.nan, np.inf, -np.inf):
            for setting in (Sampling(greedy=True), Sampling(top_k=5, repetition_penalty=1.3)):
                values = np.full(vocab, 1.0, np.float32)
                values[at] = number
                draw = Draw(values, setting, seen=(0,), step=len(found))
                found.append(case("sample", f"no number {len(found)}", broken, draw))
    return found


def _draws() -> list[Case]:
    """The twin's token for the same seed, but where exp's last bit decides.

    A draw lies within a few weights of a boundary in one of 10^4 cases or fewer.
    """
    found: list[Case] = []
    for index, setting in enumerate(SETTINGS):
        for vocab in (3, 257, 1030, 5001):
            for seed in (0, 1, 2**32 - 1):
                changed, seen = replace(setting, seed=seed), range(0, vocab, 3)
                name = f"draw {len(found)}, {vocab} ids"
                args = vocab, 2.0, changed, 17 * index, seen
                found.append(case("sample", name, drawn, *args))
    # The same where blocks are left out, and where too many remain for that.
    for vocab, spread in ((33_333, 3.0), (70_001, 3.0), (70_001, 0.01)):
        for setting in LARGE:
            number = len(found)
            changed, seen = replace(setting, seed=number), range(5, vocab, 11)
            args = vocab, spread, changed, number, seen
            found.append(case("sample", f"draw {number}, {vocab} ids", drawn, *args))
    return found


def _masked() -> list[Case]:
    """Also where blocks are left out."""
    found: list[Case] = []
    for vocab in (1, 3, 31, 257, 1030, 5001, 70_001):
        for which in ("all but the best", "every third", "the worst", "the last"):
            for setting in MASKED:
                number = len(found)
                name = f"mask {number}, {vocab} ids, {which}"
                args = vocab, which, replace(setting, seed=number), number
                found.append(case("sample", name, masked, *args))
    return found


def _lowest() -> list[Case]:
    settings = (Sampling(greedy=True), Sampling(), Sampling(top_k=2, top_p=0.5))
    return [
        case("sample", f"mask over {value:g}, {number}.{step}", lowest, value, setting, step)
        for value in (float(np.finfo(np.float32).min), 0.0)
        for number, setting in enumerate(settings)
        for step in range(3)
    ]


def _walks() -> list[Case]:
    found = []
    for vocab in (3, 257, 1030):
        for number, setting in enumerate(WALKS):
            for good in (0, 1, 2, 3, None):
                drafts = "no drafts" if good is None else f"{good} drafts right"
                name = f"walk {number}, {vocab} ids, {drafts}"
                found.append(case("sample", name, walked, vocab, setting, good))
    return found


DRAWS = (*_draws(), *_masked())


def capped(rng: Rng) -> Trial:
    """Logits that are small, large and far too large."""
    logits = (40 * rng.standard_normal(700)).astype(np.float32)
    logits[:3] = (1e30, -1e30, 0.0)
    exact = references.cap(logits.astype(np.float64), MOST)
    return _cap(logits, Expected(exact, ROUNDING, np.full(len(logits), MOST)))


def uncapped(rng: Rng) -> Trial:
    """Those that are no numbers stay so: their bits do."""
    bits = np.array([np.nan, np.inf, -np.inf], np.float32).view(np.uint32)
    return _cap(bits, Expected(bits))


def _cap(logits: Array, right: Expected) -> Trial:
    arrays = {"logits": logits, "state": state(1)}
    params = {"size": len(logits), "most": MOST}
    launch = Launch("cap", {}, params, named(arrays))
    return Trial(arrays, [launch], ["logits"], lambda _: {"logits": right})


CASES: tuple[Case, ...] = (
    case("cap", "within 30", capped),
    case("cap", "infinite and NaN", uncapped),
    *_texts(),
    case("sample_blocks", "anything beyond the vocabulary", padding),
    *_greedy(),
    *_broken(),
    *DRAWS,
    *_lowest(),
    *_walks(),
)

"""Drafts and the walk over a batch's rows, in the browser against NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from doppler import references
from doppler.plan.bindings import RING
from doppler.sampling import Sampling, block_of, blocks_of
from gpu_page import Case, GpuPage
from test_kernels_sample import control

Array = npt.NDArray[Any]
NONE = 0xFFFFFFFF


@dataclass(frozen=True)
class Text:
    """Ids of which the last is to be continued with drafts."""

    ids: Sequence[int]
    longest: int = 3
    most: int = 7
    context: int = 2000

    def case(self) -> Case:
        history = np.full(self.context, 77, np.uint32)  # what a longer text left there
        history[: len(self.ids)] = self.ids
        arrays = {
            "history": history,
            "tokens": np.full(16, 88, np.uint32),
            "verify_row": np.array([NONE], np.uint32),
            "state": np.array([len(self.ids) - 1, 1, 5, 6, 0], np.uint32),
        }
        params = {"context": self.context, "most": self.most}
        return Case(
            "draft", {"LONGEST": self.longest}, arrays, params, ["tokens", "verify_row", "state"]
        )

    def expected(self) -> list[int]:
        most = min(self.most, self.context - len(self.ids))
        return references.draft(self.ids, self.longest, most)


def assert_drafts(gpu_page: GpuPage, texts: Sequence[Text]) -> None:
    for text, result in zip(texts, gpu_page.run([text.case() for text in texts]), strict=True):
        wanted = text.expected()
        tokens = np.full(16, 88)
        tokens[1 : 1 + len(wanted)] = wanted
        np.testing.assert_array_equal(result["tokens"], tokens)
        assert list(result["state"]) == [len(text.ids) - 1, 1 + len(wanted), 5, 6, 0]
        assert result["verify_row"][0] == 0


def test_reference_of_drafts() -> None:
    """By hand, so that kernel and reference cannot be wrong alike."""
    assert references.draft([4, 5, 6, 7, 4, 5, 6], 3, 4) == [7, 4, 5, 6]
    assert references.draft([1, 5, 2, 9, 5, 3, 1, 5], 3, 2) == [2, 9]  # two ids, not the latest one
    assert references.draft([5, 1, 5, 2, 5], 3, 2) == [2, 5]  # of equal ones the latest
    assert references.draft([1, 2, 3, 4], 3, 4) == []
    assert references.draft([1], 3, 4) == []
    assert references.draft([3, 8, 8], 3, 4) == [8, 8, 8, 8]
    assert references.draft([1, 2, 1, 2, 1], 3, 4) == [2, 1, 2, 1]


def test_drafts(gpu_page: GpuPage) -> None:
    rng = np.random.default_rng(0)
    texts = [
        Text([1]),
        Text([0]),
        Text([0, 0]),
        Text([1, 2, 3, 4]),
        Text([3, 8, 8]),
        Text([1, 2, 1, 2, 1]),
        Text([5, 1, 5, 2, 5]),
        Text([1, 5, 2, 9, 5, 3, 1, 5]),
        Text([262143, 0, 7, 262143, 0], most=3),
        Text([4, 5, 6, 7, 4, 5, 6], longest=1),
        Text([4, 5, 6, 7, 4, 5, 6], most=15),
        Text([*range(300), 0], most=15),
        Text([9, *range(10, 1500), 9]),  # its only place is the first
    ]
    for left in (0, 1, 2, 7, 8):  # places in the context
        ids = [1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3]
        texts.append(Text(ids, context=len(ids) + left))
    for vocab in (1, 2, 3, 20):
        for length in (2, 3, 5, 255, 256, 257, 258, 513, 1999):
            ids = rng.integers(0, vocab, length).tolist()
            texts.append(Text(ids, longest=int(rng.integers(1, 6))))
    assert_drafts(gpu_page, texts)


def test_past_the_context_there_are_no_drafts(gpu_page: GpuPage) -> None:
    """Steps that were queued behind the last one that counts."""
    case = Text([1, 2, 1, 2], context=4).case()
    state = np.array([6, 1, 5, 6, 0], np.uint32)
    (result,) = gpu_page.run([Case(**{**vars(case), "arrays": {**case.arrays, "state": state}})])
    assert list(result["tokens"]) == [88] * 16
    assert list(result["state"]) == [6, 1, 5, 6, 0]


@dataclass
class Batch:
    """A batch that ran through the model: logits of its rows, and what the samplers see."""

    logits: Array  # [rows, vocab]
    drafts: list[int]
    sampling: Sampling
    seen: tuple[int, ...]
    step: int
    position: int = 10

    def first(self) -> dict[str, Array]:
        """What is there before the first row is sampled."""
        vocab = self.logits.shape[1]
        bits = np.zeros(-(-vocab // 32) * 32, np.uint8)
        bits[list(self.seen)] = 1
        blocks = -(-blocks_of(vocab) // 4) * 4
        count = 1 + len(self.drafts)
        return {
            "logits": np.pad(self.logits, ((0, 0), (0, -vocab % 4))),
            "seen": np.packbits(bits, bitorder="little").view(np.uint32),
            "tops": np.zeros(blocks, np.float32),
            "ids": np.zeros(blocks, np.uint32),
            "tokens": np.array([3, *self.drafts], np.uint32),
            "history": np.full(20, 55, np.uint32),
            "verify_row": np.array([0], np.uint32),
            "state": np.zeros(5, np.uint32),
            "control": control(
                (self.position, count, self.step, self.sampling.seed), np.full(RING, 66)
            ),
        }

    def expected(self) -> list[int]:
        """The tokens that come of it: sampled one after another, as without drafts."""
        out: list[int] = []
        for row in range(1 + len(self.drafts)):
            seen = (*self.seen, *out)
            choice = references.sample(self.logits[row], seen, self.sampling, self.step + row)
            out.append(choice.token)
            if self.drafts[row : row + 1] != [choice.token]:
                break
        return out


BOUND = {
    "sample_blocks": ("logits", "seen", "tops", "ids", "verify_row", "state"),
    "sample": ("logits", "seen", "tops", "ids", "verify_row", "tokens", "control", "history"),
}
CHANGED = {
    "sample_blocks": ["tops", "ids"],
    "sample": ["seen", "tokens", "control", "history", "verify_row"],
}


def walked(gpu_page: GpuPage, batches: Sequence[Batch], rows: int) -> list[dict[str, Array]]:
    """Everything after both kernels ran `rows` times on each batch."""
    now = [batch.first() for batch in batches]
    for _ in range(rows):
        for kernel, names in BOUND.items():
            cases = []
            for batch, arrays in zip(batches, now, strict=True):
                vocab = batch.logits.shape[1]
                constants = {"BLOCK": block_of(vocab), "VERIFIES": 1, "MASKED": 0}
                if kernel == "sample_blocks":
                    constants["LANES"] = 32
                given = {name: arrays[name] for name in names}
                params = batch.sampling.params(vocab)
                cases.append(Case(kernel, constants, given, params, CHANGED[kernel]))
            for arrays, result in zip(now, gpu_page.run(cases), strict=True):
                arrays |= result
    return now


def test_walk_samples_as_if_tokens_came_alone(gpu_page: GpuPage) -> None:
    rng = np.random.default_rng(3)
    settings = (
        Sampling(greedy=True),
        Sampling(greedy=True, repetition_penalty=1.5),
        Sampling(seed=4),
        Sampling(temperature=0.7, top_k=20, top_p=0.9, repetition_penalty=1.3, seed=5),
    )
    batches = []
    for vocab in (3, 257, 1030):
        for setting in settings:
            rows = (rng.standard_normal((4, vocab)) * 2).astype(np.float32)
            # A penalty decides: what was sampled before is the best of the next row as well.
            rows[1] = rows[0]
            seen = tuple(range(0, vocab, 5))
            batch = Batch(rows, [], setting, seen, step=253)
            right: list[int] = []
            while len(right) < 4:  # what a perfect draft would say
                right = Batch(rows, [*right, NONE], setting, seen, step=253).expected()
            for good in range(4):  # drafts that are right, before one that is not
                drafts = right[:good] + [(right[good] + 1) % vocab] * (good < 3)
                batches.append(Batch(rows, drafts, setting, seen, step=253))
            batches.append(batch)  # with no draft at all
    for batch, after in zip(batches, walked(gpu_page, batches, 5), strict=True):
        tokens = batch.expected()
        n = len(tokens)
        assert after["tokens"][0] == tokens[-1]
        assert after["verify_row"][0] == NONE
        ring, history = np.full(RING, 66), np.full(20, 55)
        ring[(253 + np.arange(n)) % 256] = tokens
        history[11 : 11 + n] = tokens
        state = (10 + n, 1, 253 + n, batch.sampling.seed)
        np.testing.assert_array_equal(after["control"], control(state, ring))
        np.testing.assert_array_equal(after["history"], history)
        marked = np.flatnonzero(np.unpackbits(after["seen"].view(np.uint8), bitorder="little"))
        assert set(marked) == {*batch.seen, *tokens}

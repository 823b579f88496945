"""Answers of the loaded model, in the page, that go by a logit rule."""

from __future__ import annotations

import json

from playwright.sync_api import Page

from app_page import RUN

BY = 7
FREE = 3  # every third id may be any

CODE = """
import json
from doppler.engine.generation import GenerationConfig
from doppler.page import bridge
from doppler.sampling import Sampling

class Classes:
    # The n-th id leaves n % by when it is divided by `by`; but every `free`-th is free.
    def mask(self, ids):
        n = len(ids)
        if n % {free} == {free} - 1:
            return None
        bits = sum(1 << token for token in range(n % {by}, engine.config.vocab, {by}))
        return bits.to_bytes(engine.config.vocab // 8 + 1, "little")

async def answer(sampling):
    asked = GenerationConfig(sampling, {count}, speculate="on", rules=(Classes(),))
    sequence = engine.start({ids}, asked)
    while sequence.state != "done":
        await sequence.step()
    return sequence.result().ids

engine = bridge.api._model.engine
drawn = Sampling(temperature=2.0, top_k=20, top_p=0.95, repetition_penalty=1.2, seed=5)
json.dumps([await answer(Sampling(greedy=True)), await answer(drawn)])
"""


def allows(count: int, token: int) -> bool:
    """Whether the rule allows `token` after `count` ids."""
    return count % FREE == FREE - 1 or token % BY == count % BY


def ruled_answers(page: Page, ids: list[int], count: int) -> tuple[list[int], list[int]]:
    """`count` ids after `ids` that `allows`: greedy ones, and drawn ones."""
    code = CODE.format(ids=ids, count=count, by=BY, free=FREE)
    greedy, drawn = json.loads(page.evaluate(RUN, code))
    return greedy, drawn

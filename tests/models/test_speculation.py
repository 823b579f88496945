"""Answers with drafts are those without: in the real page, on real text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from in_page import open_client
from playwright.sync_api import BrowserContext

from doppler.command.generate import Client
from doppler.command.server import Server
from doppler.errors import RequestError
from doppler.plan.bindings import RING
from doppler.store.manifest import MANIFEST_FILE
from visited import Visited

GREEDY = {"greedy": True}
SAMPLINGS = (
    GREEDY,
    {"temperature": 0.6, "top_p": 0.95, "seed": 1},
    {"temperature": 0.8, "top_k": 40, "top_p": 0.9, "seed": 2, "repetition_penalty": 1.05},
    {"temperature": 1.0, "min_p": 0.1, "seed": 3},
)
TEXT = """1. The river rises in the hills above the town.
2. It runs past the old mill and the church.
3. It joins the sea near the lighthouse.

The same lines again:

1. The river rises in the hills"""


@pytest.fixture(scope="module")
def tiny(context: BrowserContext, visited: Visited, tiny_models: Path) -> Iterator[Client]:
    """The page on a server with the two tiny models."""
    with Server(tiny_models, visited.port) as server:
        yield open_client(context, server.url)


def load(client: Client, name: str, **args: Any) -> None:
    stored = client.call("download", {"url": f"models/{name}/{MANIFEST_FILE}"})
    client.call("load", {"id": stored["id"], "batch": 64, **args})


def answer(client: Client, speculate: str, **args: Any) -> dict[str, Any]:
    given = {"ignore_eos": True, "speculate": speculate, **args}
    found: dict[str, Any] = client.call("complete", given)
    return found


def assert_same(client: Client, sampling: dict[str, Any], count: int = 20, **args: Any) -> int:
    """Drafts on and off give the same `count` ids; the number of batches with drafts."""
    args = {"max_tokens": count, "sampling": sampling, **args}
    plain, fast = answer(client, "off", **args), answer(client, "on", **args)
    assert fast["generated_ids"] == plain["generated_ids"], sampling
    assert plain["drafts"] == {"batches": 0, "tokens": 0}
    batches: int = fast["drafts"]["batches"]
    assert 0 < batches < count - 1
    return batches


def test_answers_are_the_same(shipped: Client) -> None:
    """The lines are copied, so most drafts are right."""
    load(shipped, "smollm2-135m-instruct", context=128)
    assert assert_same(shipped, GREEDY, 10, prompt=TEXT) <= 4


@pytest.mark.parametrize("name", ["tiny-chat", "tiny-base"])
def test_answers_are_the_same_however_tokens_are_drawn(tiny: Client, name: str) -> None:
    load(tiny, name, context=256)
    for sampling in SAMPLINGS:
        assert_same(tiny, sampling, prompt_ids=[*range(3, 60), *range(3, 40)])


@pytest.mark.shipped_matrix
@pytest.mark.parametrize("name", ["gemma-3-270m", "smollm2-135m-instruct"])
def test_answers_of_shipped_models_are_the_same(shipped: Client, name: str) -> None:
    load(shipped, name, context=256)
    for sampling in SAMPLINGS:
        batches = assert_same(shipped, sampling, prompt=TEXT)
        assert sampling != GREEDY or batches <= 7


@pytest.mark.parametrize("room", [0, 1, 2, 7, 8, 9, 30])
def test_answers_end_with_the_context(tiny: Client, room: int) -> None:
    """Batches that are cut short, or come when all is full, change nothing."""
    ids = [*range(3, 40), *range(3, 20)]
    load(tiny, "tiny-chat", context=len(ids) + 1 + room)
    args = {"prompt_ids": ids, "max_tokens": 100, "sampling": GREEDY}
    plain, fast = answer(tiny, "off", **args), answer(tiny, "on", **args)
    assert len(fast["generated_ids"]) == 1 + room
    assert fast["generated_ids"] == plain["generated_ids"]
    assert fast["finish_reason"] == plain["finish_reason"] == "context"


def test_what_drafts_left_in_the_cache_is_never_read(tiny: Client) -> None:
    """The next answer goes on from the same cache, where a wrong draft's keys may lie."""
    load(tiny, "tiny-base", context=512)
    ids = [*range(100), *range(90)]
    sampling = {"temperature": 1.5, "seed": 9}
    args = {"max_tokens": 40, "sampling": sampling}
    first = answer(tiny, "on", prompt_ids=ids, **args)
    longer = [*ids, *first["generated_ids"][:30], 5, 6]
    reused = answer(tiny, "on", prompt_ids=longer, **args)
    assert reused["reused_tokens"] == len(ids) + 30
    load(tiny, "tiny-base", context=512)
    assert first["generated_ids"] == answer(tiny, "off", prompt_ids=ids, **args)["generated_ids"]
    load(tiny, "tiny-base", context=512)
    fresh = answer(tiny, "off", prompt_ids=longer, **args)
    assert fresh["reused_tokens"] == 0
    assert reused["generated_ids"] == fresh["generated_ids"]


def test_more_ids_than_the_ring_holds(tiny: Client) -> None:
    load(tiny, "tiny-chat", context=1024, batch=2)
    count = RING + 44
    args = {"prompt_ids": [*range(3, 60)], "max_tokens": count, "sampling": GREEDY}
    plain, fast = answer(tiny, "off", **args), answer(tiny, "on", **args)
    assert len(fast["generated_ids"]) == count
    assert fast["generated_ids"] == plain["generated_ids"]
    assert fast["drafts"]["batches"] < count // 2


def test_drafts_are_tried_where_the_text_repeats_itself(tiny: Client) -> None:
    """Whether they are kept is up to the clock; plain tokens and batches follow each other."""
    load(tiny, "tiny-chat", context=1024)
    args = {"prompt_ids": [*range(3, 60)], "sampling": GREEDY}
    answer(tiny, "on", max_tokens=2, **args)  # compiles what batches need
    plain, auto = (answer(tiny, mode, max_tokens=200, **args) for mode in ("off", "auto"))
    assert auto["generated_ids"] == plain["generated_ids"]
    assert 0 < auto["drafts"]["batches"] < auto["drafts"]["tokens"] < 200


def test_without_room_for_batches_there_are_no_drafts(tiny: Client) -> None:
    load(tiny, "tiny-chat", context=64, batch=1)
    found = answer(tiny, "on", prompt_ids=[*range(3, 30)], max_tokens=20, sampling=GREEDY)
    assert len(found["generated_ids"]) == 20
    assert found["drafts"]["batches"] == 0


def test_unknown_mode_is_refused(tiny: Client) -> None:
    load(tiny, "tiny-chat", context=64)
    with pytest.raises(RequestError, match="speculate is 'maybe'; it must be one of auto, on, off"):
        answer(tiny, "maybe", prompt_ids=[1], max_tokens=1)

"""What a token costs in the real page, counted from outside: calls of WebGPU, and from Python.

No clock decides: the engine is made to queue as many tokens ahead as it ever does.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext

from app_page import App, convert_all
from doppler.command.bench.counters import Counters
from doppler.command.server import Server
from doppler.store.manifest import MANIFEST_FILE
from visited import Visited

FIXTURES = Path(__file__).parents[1] / "fixtures"
PROMPT = list(range(1, 9))
BATCH = 64  # tokens queued and read back at once
READ_BYTES = 1280  # state and ring, once a batch
CROSSINGS_A_BATCH = 12  # to queue it, to read it, to wait for it
# Dispatches of a token at most: what an adapter without subgroups needs.
TINY = {"gemma3-1b-like": 68, "gemma3-4b-like": 124, "llama32-like": 44}
SHIPPED = {"gemma-3-270m": 123, "smollm2-135m-instruct": 184}
# Counts the calls that Python makes of JavaScript, and the objects that it makes for it.
COUNT_CALLS = """
import sys
import doppler.engine.sequence
from pyodide.ffi import JsProxy, create_proxy, to_js

doppler.engine.sequence.AHEAD_MS = 1e12
crossings = 0

def note(code, offset, called, first):
    global crossings
    if isinstance(called, JsProxy) or called in (to_js, create_proxy):
        crossings += 1

monitoring = sys.monitoring
monitoring.use_tool_id(monitoring.PROFILER_ID, "crossings")
monitoring.register_callback(monitoring.PROFILER_ID, monitoring.events.CALL, note)
monitoring.set_events(monitoring.PROFILER_ID, monitoring.events.CALL)
"""


@pytest.fixture(scope="module")
def context(visited: Visited) -> Iterator[BrowserContext]:
    with visited.opened() as context:
        yield context


@pytest.fixture(scope="module")
def tiny(
    context: BrowserContext, visited: Visited, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[App]:
    sources = {name: FIXTURES / name for name in TINY}
    models = convert_all(sources, tmp_path_factory.mktemp("tiny"))
    with Server(models, visited.port) as server:
        yield counted(context, server)


@pytest.fixture(scope="module")
def shipped(context: BrowserContext, site: Server) -> App:
    return counted(context, site)


def counted(context: BrowserContext, server: Server) -> App:
    app = App(context.new_page(), server.url).open()
    app.run(COUNT_CALLS)
    return app


def load(app: App, name: str) -> None:
    stored = app.call("download", url=f"models/{name}/{MANIFEST_FILE}")
    app.call("load", id=stored["id"], context=512, batch=1)


def decoded(app: App, counters: Counters, tokens: int) -> dict[str, int]:
    """Counts of one generation."""
    before = {**counters.now(), "crossings": app.run("crossings")}
    ask = {"prompt_ids": PROMPT, "max_tokens": tokens, "ignore_eos": True}
    app.call("complete", **ask, sampling={"greedy": True})
    after = {**counters.now(), "crossings": app.run("crossings")}
    return {name: after[name] - before[name] for name in after}


def check(app: App, tokens: int, dispatches: int, crossings: int) -> None:
    """What `tokens` more tokens take: `dispatches` and `crossings` are the most a token may.

    Crossings are calls of JavaScript from Python: one tells each token, the rest are a batch's.
    """
    counters = Counters(app.page)
    for _ in range(2):  # the cache is filled, what runs is recorded, the engine knows its pace
        decoded(app, counters, 3)
    held = app.call("memory")
    one, many = decoded(app, counters, 1), decoded(app, counters, 1 + tokens)
    assert app.call("memory") == held
    more = {name: many[name] - one[name] for name in one}
    planned = len(app.call("plan", tokens=len(PROMPT)))
    assert more["dispatches"] == planned * tokens <= dispatches * tokens
    assert many["buffers"] == many["destroyed"] == many["bind_groups"] == more["writes"] == 0
    batches = -(-tokens // BATCH)
    assert more["submits"] <= 2 * batches
    assert more["maps"] <= batches
    assert more["bytes_read"] <= READ_BYTES * batches
    assert more["crossings"] <= crossings * tokens + CROSSINGS_A_BATCH * batches


@pytest.mark.parametrize("name", TINY)
def test_a_token_of_a_tiny_model(tiny: App, name: str) -> None:
    """Over more than two batches, so that whatever a token keeps would show."""
    load(tiny, name)
    check(tiny, 2 * BATCH + 7, TINY[name], 1)


@pytest.mark.parametrize(
    "name",
    [
        "smollm2-135m-instruct",
        pytest.param("gemma-3-270m", marks=pytest.mark.shipped_matrix),  # slower, and no other
    ],
)
def test_a_token_of_a_shipped_model(shipped: App, name: str) -> None:
    """Ids become text here, which takes calls of the tokenizer."""
    load(shipped, name)
    check(shipped, 4, SHIPPED[name], 3)

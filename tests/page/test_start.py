"""The start of the page: Python's image, and the timeline up to a first token."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Playwright, expect

from app_page import App, WatchedServer, watched
from doppler.command.browser import Browser, launched
from doppler.store.manifest import MANIFEST_FILE
from template_cases import BROKEN, LONGER, REFUSED, RENDERED, VALUES

# Restarts the engine; the stages of Python's start that it tells.
RESTART = """async () => {
  const { client } = await import("/app/client.js");
  const stages = [];
  client.on("event", ({ event }) => event.type === "boot" && stages.push(event.stage));
  await client.restart();
  return stages;
}"""
IMAGES = """async () => {
  const cache = await caches.open("doppler-python");
  const sizes = {};
  for (const request of await cache.keys()) {
    sizes[request.url] = (await (await cache.match(request)).blob()).size;
  }
  return sizes;
}"""
DAMAGE = """async (url) => {
  const cache = await caches.open("doppler-python");
  const kept = await cache.match(url);
  const image = new Uint8Array(await kept.arrayBuffer());
  image[image.length >> 1] ^= 1;
  await cache.put(url, new Response(image, { headers: kept.headers }));
}"""
WAIT_FOR_IMAGE = """async (least) => {
  for (;;) {
    const cache = await caches.open("doppler-python");
    for (const request of await cache.keys()) {
      if ((await (await cache.match(request)).blob()).size > least) return;
    }
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}"""
# What is kept of a device: nothing, then two cuts, nothing for other kernels, nothing when damaged.
KEEP_CUTS = """
from js import Uint8Array
from doppler.page.tuned import OpfsCuts
from doppler.page.opfs import OpfsRoot
from doppler.plan.matvec_configs import Cut
class Device:
    info, features = {"vendor": "test"}, frozenset()
kept, seen = OpfsCuts(Device, "kernels"), []
seen.append(await kept.read())
await kept.write({"head": Cut(8, 4, 1), "down": Cut(64, 1, 2)})
seen.append(await OpfsCuts(Device, "kernels").read())
seen.append(await OpfsCuts(Device, "other kernels").read())
folder = await OpfsRoot().tuning()
(name,) = await folder.names()
await folder.truncate(name, 9)
await folder.close()
seen.append(await kept.read())
str(seen == [{}, {"head": Cut(8, 4, 1), "down": Cut(64, 1, 2)}, {}, {}])
"""
# Begins to measure the head of a model, as a load on a GPU does that knows the rest.
BEGIN_TUNING = """
from dataclasses import replace
from doppler.engine import autotune
from doppler.page.tuned import OpfsCuts
from doppler.plan.matvec_configs import Cut, near, unknown
from doppler.page.bridge import api
autotune.near = lambda cut, has_pairs: near(cut, has_pairs)[:2]  # each takes seconds to compile
engine = api._model.engine
kinds = unknown(engine._runner.plans.to_tune(), {})
head = next(kind for kind, steps in kinds.items() if steps[0].label == "head")
others = {kind: Cut.of(steps[0]) for kind, steps in kinds.items() if kind != head}
engine._plan(replace(engine._model, cuts=others))
api._gpu.is_cpu = False
assert engine.can_tune
api._tuner.begin(engine, OpfsCuts(api._gpu, "this test"))
api._gpu.is_cpu = True
"""
# What came of it: the head's cut is one of those near the rule, is used, and is kept.
TUNED = """
step = kinds[head][0]
kept = await OpfsCuts(api._gpu, "this test").read()
used = [s for s in engine.steps(0, 1) if s.label == "head"]
seen = kept == {**others, head: Cut.of(used[0])} and kept[head] in near(Cut.of(step), False)
str(seen and not unknown(engine._runner.plans.to_tune(), kept))
"""
# Steps of a token at the cache's end, as they run while kernels are measured.
LEND = """
import asyncio
from doppler.page.bridge import api
engine = api._model.engine
async with engine._lent(asyncio.Lock()):
    recording = engine.binder.record(engine._runner.plans.to_tune())
    engine.binder.device.kernels.run(*[recording] * 3)
    await engine._gpu.done()
recording.destroy()
"""
LARGE = 10 << 20  # bytes that an image has at least
BUILT = 30 << 20  # bytes of memory that Pyodide is built with


@pytest.fixture(scope="module")
def server(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WatchedServer]:
    with watched(tiny_models, tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(scope="module")
def app(playwright: Playwright, browser: Browser, server: WatchedServer) -> Iterator[App]:
    with launched(playwright, browser, None) as context:
        yield App(context.pages[0], server.url).open()


def load_as_on_a_gpu(app: App, name: str) -> None:
    """With the kernels that are measured there."""
    stored = app.call("download", url=f"models/{name}/{MANIFEST_FILE}")
    adapter = {"is_cpu": False, "subgroup_size": 4}
    app.call("load", id=stored["id"], context=256, batch=32, adapter=adapter)


def test_python_starts_from_its_image(app: App) -> None:
    """One image is kept; a start uses it, and makes another only where it is of no use."""
    app.page.evaluate(WAIT_FOR_IMAGE, LARGE)
    (url,) = app.page.evaluate(IMAGES)
    assert "image" not in app.page.evaluate(RESTART)
    app.page.evaluate(DAMAGE, url)
    stages = app.page.evaluate(RESTART)
    assert stages[-2:] == ["image", "ready"]
    app.page.evaluate(WAIT_FOR_IMAGE, LARGE)
    assert list(app.page.evaluate(IMAGES)) == [url]
    assert app.run("import doppler; doppler.__version__") == "0.1.0"


def test_what_was_measured_of_a_device_is_kept(app: App) -> None:
    assert app.run(KEEP_CUTS) == "True"


def test_kernels_are_measured_beside_their_use(app: App) -> None:
    """After a load, while answers come as before; what is found is used at once, and kept."""
    load_as_on_a_gpu(app, "tiny-chat")
    asked = {"prompt_ids": [5, 6, 7, 8], "max_tokens": 6, "sampling": {"greedy": True}}
    before = app.call("complete", **asked)
    app.run(BEGIN_TUNING)
    assert app.call("complete", **asked)["generated_ids"] == before["generated_ids"]
    app.call("tune")
    assert app.run(TUNED) == "True"
    after = app.call("complete", **asked)
    assert after["generated_ids"] == before["generated_ids"]
    assert after["reused_tokens"] == before["reused_tokens"] + 3  # the cache was not disturbed
    app.run(BEGIN_TUNING)
    app.call("unload")
    app.call("tune")  # nothing is left to wait for


@pytest.mark.parametrize(("name", "reused"), [("tiny-chat", 73), ("tiny-base", 0)])
def test_steps_at_the_end_of_the_cache_disturb_nothing(app: App, name: str, reused: int) -> None:
    """Position 255 lies where 63 does in layers with a window: the prompt is run anew there."""
    load_as_on_a_gpu(app, name)
    asked = {"max_tokens": 6, "ignore_eos": True, "sampling": {"greedy": True}}
    ids = [3 + n % 200 for n in range(68)]
    first = app.call("complete", prompt_ids=ids, **asked)["generated_ids"]
    app.run(LEND)
    after = app.call("complete", prompt_ids=[*ids, *first, 5], **asked)
    assert after["reused_tokens"] == reused
    load_as_on_a_gpu(app, name)
    fresh = app.call("complete", prompt_ids=[*ids, *first, 5], **asked)
    assert after["generated_ids"] == fresh["generated_ids"]


def test_timeline_of_the_start(app: App) -> None:
    """Every stage has its place in time, in the page's panel too; loading again begins anew."""
    app.open()
    app.set(greedy=True, max_tokens="4")
    app.get("tiny-chat")
    app.new_chat()
    app.answer("hello")
    stages = {s["stage"]: s for s in app.page.evaluate("window.doppler.timeline")}
    before = ["page", "worker", "python"]
    assert set(stages) == {*before, "device", "memory", "tokenizer", "weights", "compile"} | {
        "first token"
    }
    assert all(0 <= stage["start"] <= stage["end"] for stage in stages.values())
    ends = [stages[name]["end"] for name in ("page", "worker", "python", "weights")]
    assert ends == sorted(ends)
    loaded = max(stages[name]["end"] for name in ("tokenizer", "weights", "compile"))
    assert stages["first token"]["start"] >= loaded
    assert stages["compile"]["start"] < stages["weights"]["end"], "they should overlap"
    panel = app.page.get_by_test_id("engine")
    panel.get_by_text("Loaded in").click()
    expect(panel).to_contain_text("Weights, verified")
    end = stages["first token"]["end"] / 1000
    expect(panel).to_contain_text(f"{end:.2f} s")


def test_tokenizer_without_shared_memory(app: App, server: WatchedServer) -> None:
    """Where pages cannot share memory, the engine's own worker opens the tokenizer."""
    forced = "Object.defineProperty(self, 'crossOriginIsolated', { value: false });"
    texts = []
    app.ready("tiny-chat")
    for isolated in (True, False):
        assert app.run("import js; js.crossOriginIsolated") is isolated
        app.set(greedy=True, max_tokens="4")
        app.new_chat()
        texts.append(app.answer("hello there"))
        if isolated:
            server.prefixes["/worker.js"] = forced
            app.open()
            app.get("tiny-chat")
    server.prefixes.clear()
    assert texts[0] == texts[1] != ""


# What each of some chat templates gives with the same values, or what is told.
RENDER = """
import json
from doppler.errors import RequestError
from doppler.text.templates import ChatTemplate

def outcome(source, values):
    try:
        return ChatTemplate(source).render(values)
    except RequestError as error:
        return str(error)

def outcomes(given):
    sources, values = json.loads(given)
    return json.dumps([outcome(source, values) for source in sources])
"""


def test_the_page_renders_chat_templates_as_python_does(app: App) -> None:
    sources = [s for s in (*RENDERED, *REFUSED, *BROKEN) if REFUSED.get(s) != LONGER]
    given = json.dumps([sources, VALUES])
    here: dict[str, Any] = {}
    exec(RENDER, here)
    there = json.loads(app.run(f"{RENDER}\noutcomes({given!r})"))
    for source, text in zip(sources, there, strict=True):
        assert text == here["outcome"](source, VALUES), source


def test_the_page_stops_a_chat_template_that_runs_on(app: App) -> None:
    source = next(source for source, told in REFUSED.items() if told == LONGER)
    began = time.monotonic()
    (told,) = json.loads(app.run(f"{RENDER}\noutcomes({json.dumps([[source], VALUES])!r})"))
    assert LONGER in told
    assert time.monotonic() - began < 30  # for so long the page would wait; it would run for days


def test_an_image_that_is_larger_than_pyodide_is_built_for(app: App, server: WatchedServer) -> None:
    """Python that imports more than today begins from its image too, the kept one included."""
    ends = "import doppler.page.bridge`"
    more = "import builtins, doppler.page.bridge; builtins.more = bytearray(b'm') * (12 << 20)`"
    server.replaced["/runtime/python.js"] = (ends, more)
    app.page.evaluate("caches.delete('doppler-python')")
    app.open()
    app.page.evaluate(WAIT_FOR_IMAGE, BUILT + (4 << 20))
    assert "image" not in app.page.evaluate(RESTART)
    assert app.run("more[0], more[-1], len(more)") == [109, 109, 12 << 20]

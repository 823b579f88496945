"""Mixtures whose experts are not all on the GPU: the same logits, bit for bit, and the same ids."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from in_page import GPU, greedy, load, logits

import replay_traces
from app_page import RUN
from doppler.command.client import Client
from doppler.command.generate import save_trace
from doppler.errors import CorruptError, DeviceError, RequestError
from doppler.residency.trace import read
from doppler.store.manifest import MANIFEST_FILE, Manifest
from fixture_sets import reference

MIXTURES = [
    pytest.param(name, adapter, id=name)
    for name, adapter in (
        ("mixtral-like", {}),
        ("gpt-oss-like", GPU),
        ("qwen3moe-like", {}),
        ("gemma4-26b-like", {}),
        ("lfm2moe-like", {}),  # its recurrent state goes into checkpoints
    )
]
ROOM = {"context": 128, "batch": 32}
DECODED = 12  # tokens
# Loads from now on have `slots(used, count)` experts in each layer of a mixture; None: as they fit.
FORCE = """
from doppler.engine import build, fit

slots = {slots}

def forced(gpu, manifest, options):
    count = manifest.config.experts.count
    least = fit._least_slots(manifest)
    yield options, fit.Fit(slots=dict((it, slots(used, count)) for it, used in least.items()))

build.fits = fit.fits if slots is None else forced
"""
# The least bytes in which the loaded model runs, and those in which all of it is there.
BOUNDS = """
import json
from doppler.engine.fit import bounds
from doppler.page import bridge

model = bridge.api._model
json.dumps(bounds(model.engine.binder.device.gpu, model.manifest, model._options))
"""
# Bytes of Python's heap in use, and of the experts in JavaScript's.
HEAP = """
import gc, sys
from doppler.page import bridge

gc.collect()
len(gc.get_objects()) * 100 + bridge.api._model.engine.offloaded.pools.tier.bytes
"""
HALF_HOUR, SETTLED = 1800, 60  # seconds
GREEDY = {"max_tokens": 8, "ignore_eos": True, "sampling": {"greedy": True}}


@pytest.mark.usefixtures("hashing")
@pytest.mark.parametrize(("name", "adapter"), MIXTURES)
def test_experts_that_are_brought(
    tiny: Client, name: str, adapter: dict[str, Any], tmp_path: Path
) -> None:
    """Resident, half of them, and one to spare: in prefill and, of some tokens, in decode."""
    ids = reference(name)[0][:40]
    room = {**ROOM, "adapter": adapter}

    def run() -> tuple[list[Any], dict[str, Any]]:
        asked = ({"prompt_ids": ids, "batch": 32}, {"prompt_ids": ids[:DECODED], "batch": 1})
        rows = [logits(tiny, tmp_path / "l.npy", **each)[1] for each in asked]
        return rows, tiny.call("complete", {**GREEDY, "prompt_ids": ids})

    load(tiny, name, **room)
    wanted, answer = run()
    assert answer["paging"] is None
    tokens = answer["generated_ids"]
    try:
        for slots in ("max(count // 2, used)", "min(used + 1, count - 1)"):
            tiny.page.evaluate(RUN, FORCE.format(slots=f"lambda used, count: {slots}"))
            load(tiny, name, **room)
            found, answer = run()
            assert answer["generated_ids"] == tokens
            for one, other in zip(found, wanted, strict=True):
                assert np.array_equal(one, other)
            paging = answer["paging"]
            assert paging["slots"] < paging["experts"]
            assert paging["misses"] + paging["ahead"] > 0
    finally:
        tiny.page.evaluate(RUN, FORCE.format(slots=None))


def bounds_of(client: Client) -> tuple[int, int]:
    least, whole = json.loads(client.page.evaluate(RUN, BOUNDS))
    return least, whole


def test_a_budget_is_never_exceeded(tiny: Client) -> None:
    """The least with which it runs, and the errors below; smaller batches come before them."""
    ids, name = reference("gpt-oss-like")[0][:12], "gpt-oss-like"
    load(tiny, name, **ROOM)
    tokens = greedy(tiny, ids, 8)
    budget, _ = bounds_of(tiny)
    load(tiny, name, gpu_budget=budget, **ROOM)
    answer = tiny.call("complete", {**GREEDY, "prompt_ids": ids})
    assert answer["generated_ids"] == tokens
    assert answer["memory"]["peak"] <= budget
    assert answer["paging"]["gpu_budget"] == budget
    now = tiny.call("residency", {})
    assert now["memory"]["staging"] < answer["memory"]["staging"]  # what experts went through
    uses = sum(sum(layer["uses"]) for layer in now["layers"])
    assert uses == now["paging"]["hits"] + now["paging"]["misses"]  # also of what ran in passes
    with pytest.raises(DeviceError, match="bytes of GPU memory at least"):
        load(tiny, name, gpu_budget=budget // 2, **ROOM)


# An answer, and a budget that is set when so many of its tokens are there.
BUDGET_MEANWHILE = """async ([asked, budget, count]) => {
  let told, set;
  const answer = await doppler.call("complete", asked, (event) => {
    if (event.type === "token" && event.n === count)
      set = doppler.call("set_budgets", { gpu_budget: budget }).then((result) => (told = result));
  });
  await set;
  return [answer, told];
}"""


def test_the_budget_changes_while_it_is_loaded(tiny: Client) -> None:
    """Less, more, and all of it, between answers and in the middle of one: the same ids, and what
    was run is not run again.
    """
    ids, name = reference("gpt-oss-like")[0][:24], "gpt-oss-like"  # whose experts have biases
    load(tiny, name, **ROOM)
    wanted = tiny.call("complete", {**GREEDY, "prompt_ids": ids})["generated_ids"]
    least, whole = bounds_of(tiny)
    assert tiny.call("set_budgets", {"gpu_budget": whole}) == {"load": False}  # all is there
    assert tiny.call("set_budgets", {"gpu_budget": whole - 1}) == {"load": True}  # with slots
    loaded = load(tiny, name, gpu_budget=least, **ROOM)
    room = []
    for budget in ((least + whole) // 2, least, None):
        told = tiny.call("set_budgets", {"gpu_budget": budget})
        assert told == {"load": False}
        answer = tiny.call("complete", {**GREEDY, "prompt_ids": ids})
        assert answer["generated_ids"] == wanted
        assert answer["reused_tokens"] == (len(ids) - 1 if room else 0)
        paging, memory = answer["paging"], answer["memory"]
        assert paging["gpu_budget"] == budget
        assert memory["peak"] <= (budget or 2 * whole)
        room.append(paging["slots"])
    assert room[1] < room[0] < room[2] == paging["experts"]
    assert paging["misses"] == 0 or memory["total"] > loaded["memory"]["total"]
    with pytest.raises(RequestError, match="bytes of GPU memory at least as it is loaded"):
        tiny.call("set_budgets", {"gpu_budget": least // 2})
    for budget in (least, (least + whole) // 2):
        asked = [{**GREEDY, "prompt_ids": ids}, budget, 2]
        answer, told = tiny.page.evaluate(BUDGET_MEANWHILE, asked)
        assert (answer["generated_ids"], told) == (wanted, {"load": False})
        assert answer["paging"]["gpu_budget"] == budget


def test_which_experts_tokens_use(
    tiny: Client,
    tiny_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same wherever experts are, as often as they count as used; and it can be replayed."""
    ids, name = reference("gpt-oss-like")[0][:20], "gpt-oss-like"
    load(tiny, name, **ROOM)
    tokens = tiny.call("routes", {"prompt_ids": ids})["tokens"]
    assert len({str(token) for token in tokens}) > 10
    load(tiny, name, gpu_budget=bounds_of(tiny)[0], **ROOM)
    assert tiny.call("routes", {"prompt_ids": ids})["tokens"] == tokens
    for layer in tiny.call("residency", {})["layers"]:
        chosen = [expert for token in tokens for expert in token[layer["layer"]]]
        assert layer["uses"] == [chosen.count(expert) for expert in range(len(layer["uses"]))]
    manifest = Manifest.from_json((tiny_folder / name / MANIFEST_FILE).read_text(), name)
    answer = {"prompt_ids": ids[:-1], "generated_ids": [ids[-1], 3]}
    save_trace(tiny, tmp_path / "trace.jsonl", answer, manifest)
    assert [list(map(list, token)) for token in read(tmp_path / "trace.jsonl").tokens] == tokens
    monkeypatch.setattr("sys.argv", ["replay_traces.py", str(tmp_path / "trace.jsonl")])
    replay_traces.main()
    assert f"{manifest.name}, trace.jsonl, a quarter of the experts" in capsys.readouterr().out


DAMAGE = """
import asyncio
from doppler.page import bridge

model = bridge.api._model
store, pools = model.store, model.engine.offloaded.pools
storage, buffers = store.storage, store.buffers

async def damage(change):
    if model._filling is not None:  # it may hold what it read before
        model._filling.cancel()
        await asyncio.gather(model._filling, return_exceptions=True)
    for shard in store.manifest.shards:
        await change(shard)
    pools.tier.release()  # what is read next comes from storage

async def flip(shard):
    for expert in store.manifest.experts:
        at = expert.offset - shard.offset
        if 0 <= at < shard.bytes:
            byte = buffers.to_bytes(await storage.read(shard.name, at, 1))[0]
            await storage.write(shard.name, at, buffers.from_bytes(bytes([byte ^ 1])))
    await storage.flush(shard.name)

async def remove(shard):
    await storage.remove(shard.name)
"""


def test_experts_that_turn_bad_or_go_missing(tiny: Client) -> None:
    """Mended from where the model came, or said; and no wrong token is ever told."""
    ids, name = reference("gpt-oss-like")[0][:12], "gpt-oss-like"
    load(tiny, name, **ROOM)
    tokens = greedy(tiny, ids, 8)
    load(tiny, name, gpu_budget=bounds_of(tiny)[0], **ROOM)
    args = {**GREEDY, "prompt_ids": ids}

    def damaged(code: str) -> dict[str, Any]:
        tiny.page.evaluate(RUN, DAMAGE + code)
        answer: dict[str, Any] = tiny.call("complete", args)
        assert answer["generated_ids"] == tokens
        return answer["paging"]

    assert damaged("await damage(flip)")["bytes"]["remote"] > 0
    with pytest.raises(CorruptError, match=r"block \d+ of shard-\d+\.bin is damaged"):
        damaged(
            "(source,) = store.scheduler.sources\nstore.scheduler.drop(source)\nawait damage(flip)"
        )
    assert damaged("store.scheduler.add(source)")["bytes"]["remote"] > 0
    assert damaged("await damage(remove)")["bytes"]["remote"] > 0


WEIGHTS = """
from doppler.store.budget import SLOTS_FILE
from doppler.page import bridge

storage = bridge.api._model.store.storage
names = [name for name in await storage.names() if name.startswith("shard-") or name == SLOTS_FILE]
sum([await storage.size(name) for name in names])
"""


def test_a_mixture_that_storage_has_no_room_for(tiny: Client) -> None:
    """Its budget there is half of the model, or nothing: what is not there comes over HTTP."""
    ids, name = reference("gpt-oss-like")[0][:12], "gpt-oss-like"
    url = f"models/{name}/manifest.json"
    load(tiny, name, **ROOM)
    tokens = greedy(tiny, ids, 8)
    least, _ = bounds_of(tiny)
    total = tiny.call("residency", {})["bytes"]
    for budget in (total // 2, 0):
        (model,) = [it for it in tiny.call("models", {}) if it["name"] == name]
        tiny.call("delete", {"id": model["id"]})
        tiny.call("download", {"url": url, "storage_budget": budget})
        room = {"storage_budget": budget, "gpu_budget": least, "host_budget": 0, **ROOM}
        tiny.call("load", {"id": model["id"], "kv": "f32", **room})
        for _ in range(2):
            answer = tiny.call("complete", {**GREEDY, "prompt_ids": ids})
            assert answer["generated_ids"] == tokens
            stored = tiny.page.evaluate(RUN, WEIGHTS)
            assert stored <= budget
        (model,) = [it for it in tiny.call("models", {}) if it["name"] == name]
        assert not model["complete"]
        if budget:
            assert stored > budget // 2
        else:
            assert answer["paging"]["bytes"]["remote"] > 0 == answer["paging"]["bytes"]["storage"]


@pytest.mark.paging_half_hour
def test_half_an_hour_of_paging_leaks_nothing(tiny: Client) -> None:
    """What is held on the GPU and by the browser's processes after a minute is held at the end."""
    ids, name = reference("gpt-oss-like")[0], "gpt-oss-like"
    load(tiny, name, **ROOM)
    budget, _ = bounds_of(tiny)
    load(tiny, name, gpu_budget=budget, host_budget=budget // 4, **ROOM)
    began, held, answers = time.monotonic(), list[tuple[float, int]](), 0
    while time.monotonic() - began < HALF_HOUR:
        at = answers % 32
        answer = tiny.call("complete", {**GREEDY, "prompt_ids": ids[at:] + ids[:at]})
        answers += 1
        assert answer["memory"]["peak"] <= budget
        if time.monotonic() - began > SETTLED:
            held.append((answer["memory"]["total"], browser_bytes(tiny)))
    gpu, browser = zip(*held, strict=True)
    print(
        f"{answers} answers, GPU {gpu[0]} to {gpu[-1]}, browser {browser[0]} to {browser[-1]} bytes"
    )
    assert gpu[-1] == gpu[0]
    assert max(browser[-10:]) < 1.1 * max(browser[:10])


def browser_bytes(client: Client) -> int:
    """What the page's heaps hold, after a collection: JavaScript's and Python's."""
    session = client.page.context.new_cdp_session(client.page)
    session.send("HeapProfiler.collectGarbage")
    used: int = session.send("Runtime.getHeapUsage")["usedSize"]
    session.detach()
    python: int = client.page.evaluate(RUN, HEAP)
    return used + python

"""Keys and values that lie in host memory: the same logits, bit for bit, and the same ids."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from in_page import load, logits, open_client
from playwright.sync_api import BrowserContext

from app_page import RUN, convert_all
from doppler.command.client import Client
from doppler.command.server import Server
from doppler.errors import DeviceError
from fixture_sets import FIXTURES
from visited import Visited

NAME = "gemma3-1b-like"  # most of its layers have a window, and rings
ROOM = {"context": 512, "batch": 32}
TALK = {"conversation": "talk-1"}
# Bytes that the model takes with all keys and values in host memory, and of these.
BUDGET = """
import json
from dataclasses import replace
from doppler.engine.footprint import Fit, layout_of, needed
from doppler.page import bridge

model = bridge.api._model
gpu, manifest, options = model.engine.binder.device.gpu, model.manifest, model._options
fit, bytes_ = Fit(hosted=len(manifest.config.layers)), 0
for _ in range(8):  # staging takes a share of it
    bytes_ = needed(gpu, manifest, replace(options, gpu_budget=bytes_), fit)
layout = layout_of(gpu, manifest, options, fit)
json.dumps([bytes_, sum(layout.cache.values())])
"""


@pytest.fixture(scope="module")
def tiny(
    context: BrowserContext, visited: Visited, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("tiny")
    convert_all({NAME: FIXTURES / NAME}, folder)
    with Server(folder, visited.port) as server:
        yield open_client(context, server.url)


def ids_of(count: int, seed: int = 1) -> list[int]:
    found: list[int] = np.random.default_rng(seed).integers(3, 250, count).tolist()
    return found


def ask(client: Client, prompt: list[int], count: int, **args: Any) -> dict[str, Any]:
    asked = {"prompt_ids": prompt, "max_tokens": count, "ignore_eos": True}
    sampling = {"seed": 7, "temperature": 0.8}
    answer: dict[str, Any] = client.call("complete", {**asked, "sampling": sampling, **args})
    return answer


def talk(client: Client) -> list[tuple[int, list[int]]]:
    """A conversation that goes on, and one that is changed in its middle: what was reused of each
    prompt, and the ids that answer it.
    """
    first, found = ids_of(270), []
    prompts = [first, [*first, *ids_of(9, 2)], [*first[:250], *ids_of(9, 3)]]
    for prompt in prompts:
        answer = ask(client, prompt, 6)
        found.append((answer["reused_tokens"], answer["generated_ids"]))
    return found


def test_rows_that_are_brought(tiny: Client, tmp_path: Path) -> None:
    """In chunks and token by token; what is reused; what is saved, and restored to the GPU."""
    ids = ids_of(90)

    def rows() -> list[np.ndarray]:
        return [
            logits(tiny, tmp_path / "l.npy", prompt_ids=ids[:count], batch=batch)[1]
            for batch, count in ((32, 90), (1, 12))
        ]

    load(tiny, NAME, **ROOM)
    wanted, talked = rows(), talk(tiny)
    budget, cache = json.loads(tiny.page.evaluate(RUN, BUDGET))
    loaded = load(tiny, NAME, gpu_budget=budget, host_budget=cache, **ROOM)
    assert loaded["batch"] == ROOM["batch"]
    for one, other in zip(rows(), wanted, strict=True):
        assert np.array_equal(one, other)
    assert talk(tiny) == talked
    prompt = [*ids_of(270), 5]
    answer = ask(tiny, prompt, 6, **TALK)
    paging = answer["paging"]
    assert answer["memory"]["peak"] <= budget
    assert (paging["kv_layers"], paging["layers"]) == (len(loaded["config"]["layers"]), 0)
    assert paging["host_bytes"] == cache
    assert paging["kv_brought"] > paging["kv_read"] > 0
    assert tiny.call("set_budgets", {"host_budget": cache + 1}) == {"load": False}
    with pytest.raises(DeviceError, match=r"needs \d+ bytes of GPU memory at least"):
        tiny.call("set_budgets", {"host_budget": cache - 1, "gpu_budget": 1000})
    assert tiny.call("set_budgets", {"host_budget": cache - 1}) == {"load": True}
    tiny.call("keep", {})
    load(tiny, NAME, **ROOM)
    longer = [*prompt, *answer["generated_ids"], 9]
    there = ask(tiny, longer, 6, **TALK)  # from what was in host memory
    assert there["reused_tokens"] >= len(prompt)
    load(tiny, NAME, gpu_budget=budget, **ROOM)
    again = ask(tiny, longer, 6, **TALK)  # to host memory
    assert again["paging"]["kv_layers"] > 0
    assert (again["reused_tokens"], again["generated_ids"]) == (
        there["reused_tokens"],
        there["generated_ids"],
    )
    tiny.call("forget", TALK)

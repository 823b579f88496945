"""Dense models whose last layers are streamed: the same logits, bit for bit, and the same ids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from in_page import GPU, greedy, load, logits

from app_page import RUN
from doppler.command.client import Client
from fixture_sets import reference

ROOM = {"context": 128, "batch": 16}  # smaller ones are not tried
DECODED = 12  # tokens
# Bytes that a model takes with half of its layers beside those that are streamed, and with none,
# where host memory may hold none of it.
BUDGETS = """
import json
from dataclasses import replace
from doppler.engine.fit import _most_hosted, _most_kept, _tables
from doppler.engine.footprint import Fit, needed
from doppler.page import bridge

model = bridge.api._model
gpu, manifest, options = model.engine.binder.device.gpu, model.manifest, model._options

def budget(kept, host):
    bytes_, allowed = 0, replace(options, host_budget=host)
    hosted = _most_hosted(gpu, manifest, allowed)  # before layers are streamed
    for _ in range(8):  # staging takes a share of it
        fit = Fit(_tables(manifest, options)[-1], kept=kept, hosted=hosted)
        bytes_ = needed(gpu, manifest, replace(allowed, gpu_budget=bytes_), fit)
    return bytes_

most = _most_kept(manifest)
half = min(len(manifest.config.layers) // 2, most)
count = len(manifest.config.layers)
json.dumps([[count - half, budget(half, options.host_budget)], [count, budget(0, 0)]])
"""


@pytest.mark.usefixtures("hashing")
@pytest.mark.parametrize(
    ("name", "adapter"),
    [
        ("gemma3-1b-like", {}),
        (
            "gemma4-e2b-like",
            {},
        ),  # layers of two widths, that share keys, with embeddings of their own
        ("lfm2-like", {}),  # layers of two kinds, one of which keeps a state
        ("qwen2-like", GPU),  # with biases
    ],
)
def test_layers_that_are_brought(
    tiny: Client, name: str, adapter: dict[str, Any], tmp_path: Path
) -> None:
    """Half of the layers, and the least: in prefill and in decode."""
    ids = reference(name)[0][:40]
    room = {**ROOM, "adapter": adapter}

    def run() -> tuple[list[Any], list[int]]:
        asked = ({"prompt_ids": ids, "batch": 16}, {"prompt_ids": ids[:DECODED], "batch": 1})
        rows = [logits(tiny, tmp_path / "l.npy", **each)[1] for each in asked]
        return rows, greedy(tiny, ids, 8)

    load(tiny, name, **room)
    wanted, tokens = run()
    budgets = json.loads(tiny.page.evaluate(RUN, BUDGETS))
    for (streamed, budget), on_host in zip(budgets, (True, False), strict=True):
        host = {} if on_host else {"host_budget": 0}
        load(tiny, name, gpu_budget=budget, **host, **room)
        found, again = run()
        assert again == tokens
        for one, other in zip(found, wanted, strict=True):
            assert np.array_equal(one, other)
        args = {"prompt_ids": [*ids, *tokens[:4]], "max_tokens": 4, "ignore_eos": True}
        answer = tiny.call("complete", {**args, "sampling": {"greedy": True}})
        assert answer["generated_ids"] == tokens[4:]
        assert answer["memory"]["peak"] <= budget
        paging = answer["paging"]
        assert paging["layers"] == streamed
        used, idle = ("host", "storage") if on_host else ("storage", "host")
        assert paging["bytes"][used] > 0
        assert paging["bytes"][idle] == paging["bytes"]["remote"] == 0
        assert (paging["host_bytes"] > 0) == on_host
        assert on_host or paging["kv_layers"] == 0

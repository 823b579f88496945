"""A plan that is halted at every layer in turn, in the page, and goes on with the same tokens."""

from __future__ import annotations

import json
from typing import Any

from playwright.sync_api import Page

from app_page import RUN

CODE = """
import hashlib
from doppler.page import bridge
from doppler.engine.protocol import Chunk
from doppler.engine.plans import Key, Plan
from doppler.plan.segments import Part, Place, steps_of
from doppler.sampling import Sampling

engine = bridge.api._model.engine
runner, memory, binder = engine._runner, engine._memory, engine.binder
ids, count = {ids}, {count}
size, end = len(ids), len(ids) + count
names = sorted(binder._buffers.keys() - engine.weights.buffers.keys())

async def contents():
    await runner.done()
    digests = dict()
    for name in names:
        buffer = binder._buffers[name]
        data = await binder.start_read(View(name, 0, buffer.size))
        digests[name] = hashlib.sha256(data).hexdigest()
    return digests

async def halt(keys, place):
    # Runs up to `place`, and then everything, which does nothing.
    segments = [segment for key in keys for segment in runner.plans.segments(key)]
    last = next(n for n, segment in enumerate(segments) if segment.place == place)
    recording = binder.record(steps_of(segments[: last + 1]))
    binder.device.kernels.run(recording)
    memory.halt(1 + place.layer)
    before = await contents()
    for _ in range(2):
        runner._run(keys)
    after = await contents()
    recording.destroy()
    changed = [name for name in names if before[name] != after[name]]
    assert not changed, f"{{place}}: while it is halted, {{changed}} changed"

async def generate(at=None):
    # `at`: (last place before the halt, place to go on from), once in prefill and once in decode.
    runner.begin(ids, Sampling(greedy=True))
    if at is None:
        await runner.prefill(Chunk(ids, 0, size))
        runner.sample(size)
        await runner.decode(count - 1, end)
    else:
        memory.write_batch(ids, 0, 0)
        await halt(runner.plans.chunk(0, size), at[0])
        runner.resume_prefill(at[1], Chunk(ids, 0, size))
        runner.sample(size)
        await halt(runner.plans.token(runner.plans.bucket(end)), at[0])
        runner.resume_decode(at[1], count - 1, end)
    return await runner.start_read().tokens(0)

async def halts():
    layers, found = engine.config.layers, []
    chosen = range(len(layers))
    if {one_of_a_kind}:
        chosen = [n for n in chosen if layers.index(layers[n]) == n]
    for layer in chosen:
        last, first = Part.ATTENTION, Part.FFN
        if engine.config.mixture(layer) is not None:
            last = first = Part.ROUTER
        found.append(await generate((Place(last, layer), Place(first, layer))))
    wanted = await generate()
    engine._cache.cut(0)
    return json.dumps([wanted, found])

import json
from doppler.gpu.step import View
await halts()
"""


def tokens_after_halts(
    page: Page, ids: list[int], count: int, one_of_a_kind: bool
) -> tuple[list[int], list[list[int]]]:
    """Greedy ids after `ids` without a halt; and with one at each layer, in prefill and in decode.

    one_of_a_kind: of layers that are alike, at the first only.

    Raises where a kernel did something while the plan was halted.
    """
    answer: Any = page.evaluate(RUN, CODE.format(ids=ids, count=count, one_of_a_kind=one_of_a_kind))
    wanted, found = json.loads(answer)
    return wanted, found

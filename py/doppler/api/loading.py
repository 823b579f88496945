"""Stored shards -> a loaded model: weights, kernels, and the engine that runs them."""

from __future__ import annotations

import asyncio

from doppler.api.messages import Emit, ProgressEvent
from doppler.api.model import Model
from doppler.api.progress import Progress
from doppler.api.timeline import Timeline
from doppler.engine.build import build
from doppler.engine.engine import Engine
from doppler.engine.footprint import Options
from doppler.gpu.kernels import Device
from doppler.store.shards import ShardStore
from doppler.weights.upload import prepare_upload, upload_weights


async def load_model(
    device: Device,
    store: ShardStore,
    options: Options,
    emit: Emit[ProgressEvent],
    timeline: Timeline,
) -> Model:
    """Makes room, then uploads verified weights while the kernels are compiled."""
    device.gpu.reset_peak()
    with timeline.stage("memory"):
        engine = await build(device, store.manifest, options)
    try:
        engine.feed(store, options.host_budget)
        if await _fill(engine, store, options, emit, timeline):
            engine.hash_on_gpu(store)
    except BaseException:
        engine.destroy()
        raise
    return Model(device.gpu, store, engine, options)


async def _fill(
    engine: Engine,
    store: ShardStore,
    options: Options,
    emit: Emit[ProgressEvent],
    timeline: Timeline,
) -> bool:
    """Uploads the weights, and compiles the kernels meanwhile; -> whether the GPU hashed them."""
    compiled = _Compiling(emit)
    device, budget = engine.binder.device, options.gpu_budget
    with timeline.stage("weights"):
        on_gpu = await prepare_upload(device, engine.weights, store, budget)
        compiling = asyncio.ensure_future(timeline.of("compile", engine.prepare(compiled)))
        try:
            progress = Progress(emit, "verify")
            parts = engine.binder, engine.weights, store, on_gpu, progress
            await upload_weights(*parts, budget)
        except BaseException:
            await asyncio.wait([compiling])
            raise
    compiled.begin()
    await compiling
    return on_gpu


class _Compiling(Progress):
    """Progress of compiling, silent until it is what the load waits for."""

    def __init__(self, emit: Emit[ProgressEvent]) -> None:
        super().__init__(emit, "compile")
        self._waited_for = False

    def begin(self) -> None:
        self._waited_for = True

    def __call__(self, done: int, total: int) -> None:
        if self._waited_for:
            super().__call__(done, total)

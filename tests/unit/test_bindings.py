"""How many buffers a dispatch binds: every device has room for eight storage buffers."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from app_page import convert_all
from doppler.command.shapes import SHAPES
from doppler.engine.engine import Engine
from doppler.engine.plans import Key, Plan
from doppler.gpu.device import LEAST
from doppler.gpu.step import Step
from doppler.gpu.wgsl import parse
from doppler.store.manifest import MANIFEST_FILE, Manifest
from gpu_page import ROOT
from paper_engine import PaperGpu, large_gpu, least_gpu, paper_engine, synthetic

SOURCES = {path.stem: path.read_text() for path in (ROOT / "web/kernels").rglob("*.wgsl")}
FIXTURES = ROOT / "tests/fixtures"
CHECKPOINTS = sorted(path.name for path in FIXTURES.iterdir() if path.is_dir())


@cache
def uniforms(kernel: str) -> frozenset[str]:
    """What a kernel binds that counts as no storage."""
    bindings = parse(kernel, SOURCES).bindings
    return frozenset(binding.name for binding in bindings if binding.access == "uniform")


def storage_buffers(step: Step) -> int:
    """Those among a step's bindings, by what its kernel says of them."""
    return len(step.bindings.keys() - uniforms(step.kernel))


def all_steps(engine: Engine) -> list[Step]:
    """Of every list that is ever recorded."""
    steps = engine.steps(0, 1) + engine.steps(engine.context - 1, 1)
    seldom = engine._runner.plans.steps(Key(Plan.MASKED_SAMPLE), Key(Plan.DRAFT))
    return steps + engine.steps(0, engine.batch) + seldom


@pytest.fixture(params=[*SHAPES, *CHECKPOINTS])
def manifest(request: pytest.FixtureRequest, tmp_path: Path) -> Manifest:
    """Of a published shape, or of a tiny checkpoint of each architecture."""
    name: str = request.param
    if name in SHAPES:
        return synthetic(name)
    convert_all({name: FIXTURES / name}, tmp_path)
    return Manifest.from_json((tmp_path / name / MANIFEST_FILE).read_text("utf-8"), name)


@pytest.mark.parametrize("gpu", [large_gpu, least_gpu])
@pytest.mark.parametrize("batch", [8, 512])
def test_every_device_binds_what_plans_bind(
    manifest: Manifest, gpu: Callable[[], PaperGpu], batch: int
) -> None:
    engine = paper_engine(manifest, gpu(), batch=batch)
    most = max(all_steps(engine), key=storage_buffers)
    assert storage_buffers(most) <= LEAST["maxStorageBuffersPerShaderStage"] == 8, most.label


def test_keys_of_long_contexts_are_bound_in_slices() -> None:
    """128k positions of Llama 3.2 3B: 256 MiB of keys a layer in f16, of which 128 are bound."""
    gpu = least_gpu()
    engine = paper_engine(synthetic("llama-3.2-3b"), gpu, context=1 << 17, batch=64)
    most = gpu.limits["maxStorageBufferBindingSize"]
    for steps in (engine.steps(0, 1), engine.steps(0, 64)):
        keys: dict[str, list[tuple[str, float]]] = {}
        for step in steps:
            if "keys" in step.bindings:
                keys.setdefault(step.label, []).append((step.kernel, step.params["kv_head0"]))
                assert step.bindings["keys"].size <= most
        attention = [head for _, head in keys["blk.3.attention"]]
        assert attention == [0, 4]

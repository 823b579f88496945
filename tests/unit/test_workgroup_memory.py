"""What plans take for a kernel's workgroup memory, against what its source declares."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from doppler.gpu.wgsl import parse
from doppler.plan.capabilities import MATRIX_UNIT_BYTES
from doppler.plan.matmul import EXPERT_MATRIX_TILES, MATRIX_TILES, Tiling
from doppler.plan.matvec import STAGED, staging_bytes
from doppler.weights.placement import FORMS
from gpu_page import ROOT
from paper_engine import large_gpu, paper_engine, synthetic
from workgroup_memory import workgroup_bytes

SOURCES = {path.stem: path.read_text() for path in (ROOT / "web/kernels").rglob("*.wgsl")}
LEAST = 16 << 10  # bytes that every device has


@pytest.mark.parametrize("kernel", STAGED)
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_staging_is_counted_as_it_is_declared(kernel: str, form: int) -> None:
    columns = np.arange(1, 16385)
    constants = {"FORM": form, "COLS": columns, "STAGE": 1}
    declared = workgroup_bytes(parse(kernel, SOURCES), constants)
    assert [staging_bytes(kernel, form, int(count)) for count in columns] == declared.tolist()


@pytest.mark.parametrize("kernel", STAGED)
def test_without_staging_every_device_has_enough(kernel: str) -> None:
    for form in FORMS.values():
        constants = {"FORM": form, "COLS": 16384, "STAGE": 0}
        assert workgroup_bytes(parse(kernel, SOURCES), constants) <= LEAST


def test_every_device_has_enough_for_a_walk_over_tokens() -> None:
    """The most that are staged together, of keys of any width."""
    shader = parse("delta", SOURCES)
    for width in range(4, 257, 4):
        each = 8 * -(-width // 32)  # vec4s of a key, padded
        assert min(256 // each, 16) * each <= 256
    assert workgroup_bytes(shader, {"VALUE_DIM": 128}) <= LEAST


@pytest.mark.parametrize("tiling", MATRIX_TILES + EXPERT_MATRIX_TILES)
def test_matrix_units_are_counted_as_they_are_declared(tiling: Tiling) -> None:
    shader = parse("matmul_subgroup_matrix", SOURCES)
    assert workgroup_bytes(shader, tiling.constants) == MATRIX_UNIT_BYTES


@pytest.mark.parametrize("size", [MATRIX_UNIT_BYTES - 4, MATRIX_UNIT_BYTES])
def test_matrix_units_need_their_workgroup_memory(size: int) -> None:
    gpu = large_gpu()
    gpu.has_matrix_units = True
    gpu.limits["maxComputeWorkgroupStorageSize"] = size
    engine = paper_engine(synthetic("gemma-3-1b"), gpu)
    kernels = {step.kernel for step in engine.steps(0, 512)}
    assert ("matmul_subgroup_matrix" in kernels) == (size == MATRIX_UNIT_BYTES)
    assert ("matmul_tile" in kernels) == (size < MATRIX_UNIT_BYTES)


@pytest.mark.parametrize("columns", [3712, 3744, 3840])
@pytest.mark.parametrize("features", [{"subgroups"}, {"subgroups", "shader-f16"}])
def test_plans_stage_what_fits(columns: int, features: set[str]) -> None:
    """Hidden states about as wide as those for which 16 KiB were once too few."""
    manifest = synthetic("gemma-3-1b")
    config = replace(manifest.config, hidden=columns)
    shapes = config.tensor_shapes()
    tensors = tuple(
        replace(tensor, type="Q4_1", shape=shapes[tensor.name])
        if len(tensor.shape) == 2
        else replace(tensor, shape=shapes[tensor.name])
        for tensor in manifest.tensors
    )
    gpu = large_gpu()
    gpu.limits["maxComputeWorkgroupStorageSize"] = LEAST
    gpu.features = frozenset(features)
    engine = paper_engine(replace(manifest, config=config, tensors=tensors), gpu)
    matvecs = [step for step in engine.steps(128, 1) if step.kernel in STAGED]
    assert {step.kernel for step in matvecs} == {
        "matvec_half" if "shader-f16" in features else "matvec_subgroup"
    }
    assert any(step.constants["STAGE"] for step in matvecs)
    for step in matvecs:
        assert workgroup_bytes(parse(step.kernel, SOURCES), step.constants) <= LEAST

"""The tiny models that run on the kernels of GPUs run all that any of them would run there."""

from __future__ import annotations

from pathlib import Path

import pytest

from doppler.api.estimate import PaperGpu
from doppler.store.manifest import Manifest
from expert_files import converted
from fixture_sets import FAMILIES, FIXTURES, ON_GPUS, ON_LEAST, RECURRENT, TINY
from paper_engine import least_gpu, paper_engine

ALL = (*TINY, *FAMILIES, *RECURRENT)
# Constants that say how large something is, how threads share it, or how weights are packed: the
# cases of kernels vary those (doppler/workbench/cases).
SIZES = frozenset(
    ("COLS", "HEAD_DIM", "KEY_DIM", "VALUE_DIM", "TAPS", "BLOCK", "STAGE", "FORM", "SPLITS")
) | frozenset(("TEAM", "ROWS", "DEPTH", "TOKENS", "TURN", "LANES", "PARTS"))
LIMITS = least_gpu().limits
CPU = PaperGpu(LIMITS, is_cpu=True)
GPU = PaperGpu(LIMITS, frozenset({"subgroups"}), subgroup_size=32)

Runs = set[tuple[str, tuple[tuple[str, int | float], ...]]]  # a kernel, and its switches


@pytest.fixture(scope="module")
def manifests(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Manifest]:
    folder = tmp_path_factory.mktemp("converted")
    return {name: converted(FIXTURES / name, Path(folder / name)) for name in ALL}


def runs(manifest: Manifest, gpu: PaperGpu) -> Runs:
    """What a model runs there for a token, and for a batch."""
    engine = paper_engine(manifest, gpu, context=128, batch=32)
    return {
        (
            step.kernel,
            tuple(sorted(item for item in step.constants.items() if item[0] not in SIZES)),
        )
        for batch in (32, 1)
        for step in engine.steps(8, batch)
    }


def test_every_kernel_runs_with_every_switch(manifests: dict[str, Manifest]) -> None:
    on_cpus: Runs = set().union(*(runs(manifests[name], CPU) for name in ALL))
    on_gpus = {name: runs(manifests[name], GPU) for name in ALL}
    on_least = {name: runs(manifests[name], least_gpu()) for name in ALL}
    run = on_cpus.union(*(on_gpus[name] for name in ON_GPUS))
    assert set().union(*on_gpus.values()) <= run
    run = run.union(*(on_least[name] for name in ON_LEAST))
    assert set().union(*on_least.values()) <= run
    assert any(on_gpus[name] - on_cpus for name in ON_GPUS)

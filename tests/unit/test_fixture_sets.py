"""The tiny models that run on the kernels of GPUs run what any of them would run there."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from case_choice import Value, chosen, switched
from doppler.api.estimate import PaperGpu
from doppler.store.manifest import Manifest
from doppler.workbench.catalogue import CASES, cases_of
from doppler.workbench.features import lacking
from expert_files import converted
from fixture_sets import ALL, FIXTURES, HALTED, ON_GPUS, ON_LEAST
from paper_engine import least_gpu, paper_engine

SLOW = {"blake3", "blake3_tree", "sample"}  # cases that are many, or take long to make
LIMITS = least_gpu().limits
CPU = PaperGpu(LIMITS, is_cpu=True)
GPU = PaperGpu(LIMITS, frozenset({"subgroups"}), subgroup_size=32)

# These two differ in how threads add up their sums (include/subgroup_sums, workgroup_sums).
ROWS = {"matvec_subgroup": "matvec_rows", "matvec_workgroup": "matvec_rows"}

Runs = dict[str, set[Value]]  # kernels, and what of their switches is set together


@pytest.fixture(scope="module")
def manifests(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Manifest]:
    folder = tmp_path_factory.mktemp("converted")
    return {name: converted(FIXTURES / name, Path(folder / name)) for name in ALL}


def runs(manifests: Iterable[Manifest], gpu: PaperGpu) -> Runs:
    """What models run there for a token, and for a batch."""
    found: Runs = {}
    for manifest in manifests:
        engine = paper_engine(manifest, gpu, context=128, batch=32, kv="f32")
        for batch in (32, 1):
            for step in engine.steps(8, batch):
                found.setdefault(step.kernel, set()).update(switched(step.constants))
    return found


def shared(*several: Runs) -> Runs:
    """All of them, by the code that kernels share."""
    found: Runs = {}
    for each in several:
        for kernel, values in each.items():
            found.setdefault(ROWS.get(kernel, kernel), set()).update(values)
    return found


def cases() -> Runs:
    """What cases run by default on SwiftShader."""
    found: Runs = {}
    for kernel in {case.kernel for case in CASES if not lacking(case, {"subgroups"})} - SLOW:
        able = [case for case in cases_of(kernel) if not lacking(case, {"subgroups"})]
        for case in chosen(able):
            for launch in case.trial().launches:
                found.setdefault(launch.kernel, set()).update(switched(launch.constants))
    return found


def test_every_kernel_runs_with_every_two_switches(manifests: dict[str, Manifest]) -> None:
    """Beside float32, in a model or in a case; and every kernel of theirs in a model."""
    on_cpus = runs(manifests.values(), CPU)
    on_gpus = runs((manifests[name] for name in ON_GPUS), GPU)
    on_least = runs((manifests[name] for name in ON_LEAST), least_gpu())
    there = shared(cases(), on_cpus, on_gpus, on_least)
    for gpu, chosen_there in ((GPU, on_gpus), (least_gpu(), on_least)):
        wanted = runs(manifests.values(), gpu)
        assert wanted.keys() <= chosen_there.keys() | on_cpus.keys()
        for kernel, values in shared(wanted).items():
            assert not values - there[kernel], kernel
    of_gpus = on_gpus.keys() - on_cpus.keys()
    assert of_gpus
    assert of_gpus <= runs((manifests[name] for name in HALTED), GPU).keys()

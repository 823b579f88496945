"""What kernels say about themselves, read on CPython from the files that the page ships."""

from __future__ import annotations

import re
import struct
from typing import get_args

import pytest

from doppler.config.model import Activation
from doppler.gpu import sources
from doppler.gpu.wgsl import parse
from doppler.plan.layer import ACTIVATIONS
from doppler.weights.placement import FORMS
from gpu_page import ROOT

SOURCES = {path.stem: path.read_text() for path in (ROOT / "web/kernels").rglob("*.wgsl")}
ENABLED = {
    "lanes": ["subgroups"],
    "matvec_subgroup": ["subgroups"],
    "matvec_half": ["f16", "subgroups"],
    "attention_decode": ["subgroups"],
    "matmul_subgroup_matrix": ["f16", "chromium_experimental_subgroup_matrix"],
}
SHADERS = {name: parse(name, SOURCES) for name in sorted(SOURCES.keys() - sources.SHARED)}


def test_every_file_is_fetched() -> None:
    assert set(sources.PATHS) == set(SOURCES)


@pytest.mark.parametrize("name", SHADERS)
def test_kernels_run_on_every_adapter(name: str) -> None:
    """Workgroups that every device runs, and no optional feature but where the plan asks for it."""
    shader = SHADERS[name]
    assert len({b.index for b in shader.bindings}) == len(shader.bindings)
    enabled = re.findall(r"^enable (\w+);", shader.source, re.MULTILINE)
    assert enabled == ENABLED.get(name, [])
    sizes = re.findall(r"@workgroup_size\(([\w, ]+)\)", shader.source)
    assert len(sizes) == 1
    if sizes[0] != "THREADS":  # which is an override; test_workbench.py checks its values
        threads = 1
        for size in sizes[0].split(","):
            threads *= int(size)
        assert threads <= 256


def test_planes_come_before_the_kernels_that_use_them() -> None:
    shader = SHADERS["matvec_subgroup"]
    assert shader.source.startswith("enable subgroups;\ndiagnostic(off, subgroup_uniformity);\n")
    assert [b.name for b in shader.bindings][:2] == ["codes", "scales"]
    names = {"FORM", "COLS", "PROLOGUE", "ACTIVATION", "SPLITS", "STAGE", "ADDEND", "EXPERTS"}
    names |= {"SCALED"}
    assert shader.overrides == names | {"TEAM", "ROWS", "DEPTH", "TOKENS"}


def test_types_have_the_numbers_of_the_python_table() -> None:
    constants = re.findall(r"^const (\w+) = (\d+)u;$", SOURCES["types"], re.MULTILINE)
    assert {name: int(number) for name, number in constants} == FORMS
    compared = [re.findall(r"\b(?:FORM|TO) [=<>]+ (\w+)", source) for source in SOURCES.values()]
    assert {name for names in compared for name in names} <= FORMS.keys()


def test_pack_follows_the_struct() -> None:
    shader = SHADERS["norm"]
    values = {"offset": 1.0, "width": 640, "eps": 0.5, "stride": 644}
    values |= {"scale": 2.0, "branch_eps": 0.25, "each": 3}
    assert shader.pack(values) == struct.pack("<IIffIff", 640, 644, 0.5, 1.0, 3, 2.0, 0.25)
    with pytest.raises(KeyError, match="kernel norm takes params"):
        shader.pack({**values, "widht": 3})


def test_accesses() -> None:
    accesses = {b.name: b.access for b in SHADERS["rope"].bindings}
    assert accesses["keys"] == accesses["qkv"] == "storage"
    assert accesses["angles"] == accesses["q_norm"] == "read-only-storage"
    assert accesses["params"] == accesses["state"] == "uniform"


def test_activations_have_one_number() -> None:
    """The config's names, the plans' numbers and the kernel's are the same ones, but of xIELU: it
    is of no gates, and has a kernel of its own.
    """
    constants = re.findall(r"^const ([A-Z_]+) = (\d+)u;$", SOURCES["activation"], re.MULTILINE)
    assert {name.lower(): int(number) for name, number in constants} == ACTIVATIONS
    assert ACTIVATIONS.keys() | {"xielu"} == {*get_args(Activation)}


@pytest.mark.parametrize("folder", ["layer", "matmul", "attention", "recurrent", "moe", "sample"])
def test_kernels_of_plans_do_nothing_without_tokens(folder: str) -> None:
    """That is how a plan is halted; tests/models/halts.py runs most of them, others are read."""
    for kernel in sources.FOLDERS[folder]:
        told = "state.halted" if kernel == "copy" else "state.count"  # a copy is of no batch
        assert told in SHADERS[kernel].source, kernel

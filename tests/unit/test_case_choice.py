"""Which cases of kernels are run by default: what they leave out occurs in others."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from dataclasses import is_dataclass
from typing import Any

import pytest

from case_choice import ALIKE, SOURCES, UNPACKING, chosen, kind_of, variants_of
from doppler.gpu.sources import FOLDERS
from doppler.gpu.wgsl import parse
from doppler.weights.placement import FORMS
from doppler.workbench.case import Case, Launch
from doppler.workbench.catalogue import cases_of
from doppler.workbench.features import lacking
from fixture_sets import SIZES

KERNELS = [kernel for folder in ("matmul", "attention", "recurrent") for kernel in FOLDERS[folder]]
SWIFTSHADER = {"subgroups"}  # what it has of what cases need


def cases(kernel: str, features: set[str]) -> list[Case]:
    return [case for case in cases_of(kernel) if not lacking(case, features)]


def launches(found: Iterable[Case]) -> list[Launch]:
    """Those of the cases' own kernel."""
    return [it for case in found for it in case.trial().launches if it.kernel == case.kernel]


def constants(found: Iterable[Case]) -> set[Any]:
    """But for types of weights."""
    items = {item for launch in launches(found) for item in launch.constants.items()}
    return {(name, value) for name, value in items if name != "FORM"}


def forms(found: Iterable[Case]) -> set[float]:
    return {launch.constants["FORM"] for launch in launches(found)}


def pairs(found: Iterable[Case]) -> set[Any]:
    """Of switches: constants that are no sizes; a cap of scores is one, or none."""
    return {
        pair
        for launch in launches(found)
        for pair in itertools.permutations(
            [
                (name, bool(value) if name == "SCORE_CAP" else value)
                for name, value in launch.constants.items()
                if name not in SIZES
            ],
            2,
        )
    }


def bindings(found: Iterable[Case]) -> set[str]:
    return {name for launch in launches(found) for name in launch.bindings}


def fields(found: Iterable[Case]) -> set[str]:
    """Each field of what cases are made of, with its value."""
    return {
        f"{type(arg).__name__}.{name} = {value}"
        for case in found
        for arg in case.args
        if is_dataclass(arg)
        for name, value in vars(arg).items()
        if name not in ("cut", "kind")  # constants
    }


@pytest.mark.parametrize("kernel", KERNELS)
def test_all_values_and_all_pairs_of_switches_are_chosen(kernel: str) -> None:
    """On a device that has every feature."""
    everything = cases(kernel, {feature for case in cases_of(kernel) for feature in case.needs})
    picked = chosen(everything)
    for aspect in (constants, bindings, fields):
        assert aspect(picked) == aspect(everything)
    if kernel in ALIKE:
        everything = cases(ALIKE[kernel], SWIFTSHADER)
        picked = [*picked, *chosen(everything)]
    assert pairs(picked) >= pairs(everything)


@pytest.mark.parametrize("kernel", UNPACKING)
def test_every_type_of_weights_is_chosen(kernel: str) -> None:
    everything = cases(kernel, SWIFTSHADER)
    assert forms(chosen(everything)) == forms(everything)
    assert kernel == "gather" or forms(everything) == set(FORMS.values())


@pytest.mark.parametrize("kernel", ["matvec_subgroup", "matvec_workgroup", "matmul_tile"])
def test_types_that_a_kernel_tells_apart_are_chosen(kernel: str) -> None:
    everything = cases(kernel, SWIFTSHADER)
    kinds = {kind_of(kernel, form) for form in FORMS.values()}
    assert {kind_of(kernel, form) for form in forms(chosen(everything))} == kinds
    assert 1 < len(kinds) < len(FORMS)


def test_what_matmul_tile_tells_apart() -> None:
    """As its text says."""
    kinds = [kind_of("matmul_tile", FORMS[name]) for name in ("F32", "Q4_0", "Q8_0", "Q6_K")]
    assert len(set(kinds)) == 4
    assert kind_of("matmul_tile", FORMS["Q4_1"]) == kinds[1]


@pytest.mark.parametrize("kernel", ["matvec", "matvec_subgroup", "matvec_workgroup"])
def test_rows_that_end_within_a_vec4_are_chosen(kernel: str) -> None:
    def ends(found: Iterable[Case]) -> set[tuple[Any, bool]]:
        return {
            (kind_of(kernel, launch.constants["FORM"]), launch.constants["COLS"] % 4 == 0)
            for launch in launches(found)
        }

    everything = cases(kernel, SWIFTSHADER)
    assert ends(chosen(everything)) == ends(everything)
    assert {whole for _, whole in ends(everything)} == {True, False}


def test_what_is_compiled_is_a_part() -> None:
    """Of the kernels that take a CPU longest; and what is compiled is run in all its cases."""
    for kernel in ("attention_flash", "matvec_subgroup", "rope"):
        everything = cases(kernel, SWIFTSHADER)
        picked = chosen(everything)
        compiled = set().union(*(variants_of(case.trial()) for case in picked))
        every = set().union(*(variants_of(case.trial()) for case in everything))
        assert len(compiled) < 0.6 * len(every)
        assert all(case in picked for case in everything if variants_of(case.trial()) <= compiled)


@pytest.mark.parametrize(("kernel", "other"), ALIKE.items())
def test_what_is_alike_differs_in_text_that_no_switch_occurs_in(kernel: str, other: str) -> None:
    one, two = ({file for file, _ in parse(name, SOURCES).uses} for name in (kernel, other))
    switches = cases(kernel, SWIFTSHADER)[0].trial().launches[-1].constants.keys() - SIZES
    assert "PROLOGUE" in switches
    for text in [SOURCES[file] for file in (one ^ two) | {kernel, other}]:
        code = re.sub("//.*", "", text)
        assert not switches & set(re.findall(r"\w+", code))
    assert len(one ^ two) == 2

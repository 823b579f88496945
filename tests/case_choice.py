"""Which cases of a kernel are run by default: compiling is what they cost a CPU.

A variant of a kernel takes it a second or more to compile, and a case in one that is there,
milliseconds. So a few variants are chosen, in which each number that a case is made of, each
constant of the kernel, and each pair of constants that switch code occur; and of the cases all that
need no others. Of weight types, those count as one in whose place a kernel has the same text: all
unpack them by include/dequantize, of which UNPACKING run every type.
"""

from __future__ import annotations

import itertools
import operator
import re
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any

from doppler.gpu.wgsl import Number, parse
from doppler.weights.placement import FORMS
from doppler.workbench.case import Case, Launch, Trial
from fixture_sets import SIZES
from gpu_page import ROOT

UNPACKING = ("relayout", "gather", "matvec", "matmul")
# Kernels of which another has the same text but for a few functions that no constant switches: its
# pairs of constants are theirs (include/subgroup_sums and workgroup_sums).
ALIKE = {"matvec_workgroup": "matvec_subgroup"}
OPERATORS = {"==": operator.eq, "<": operator.lt, ">": operator.gt}
SOURCES = {path.stem: path.read_text() for path in (ROOT / "web/kernels").rglob("*.wgsl")}

Value = tuple[Hashable, ...]
Variant = tuple[str, tuple[tuple[str, Number], ...], frozenset[str]]


def variant_of(launch: Launch) -> Variant:
    """What is compiled for it: a kernel, its constants, and what it binds."""
    return launch.kernel, tuple(sorted(launch.constants.items())), frozenset(launch.bindings)


def variants_of(trial: Trial) -> set[Variant]:
    return {variant_of(launch) for launch in trial.launches}


def values_of(case: Case, trial: Trial) -> set[Value]:
    """What of it must be run in some case or other."""
    found: set[Value] = {("made of", *value) for value in _leaves(case.args)}
    for launch in trial.launches:
        if launch.kernel == case.kernel:
            found |= _of_launch(launch)
    return found


def switched(constants: Mapping[str, Number], bound: Collection[str] = ()) -> set[Value]:
    """Each two that are set together of a kernel's constants that switch code, and of what it
    binds.
    """
    switches: list[tuple[str, Hashable]] = [
        (name, value > 0 if name == "SCORE_CAP" else float(value))
        for name, value in constants.items()
        if name not in SIZES
    ]
    switches += [("binds", name) for name in bound]
    return set(itertools.combinations_with_replacement(sorted(switches, key=str), 2))


def _of_launch(launch: Launch) -> set[Value]:
    found = switched(launch.constants, launch.bindings)
    if launch.kernel in ALIKE:
        found = {(one, other) for one, other in found if one == other}
    found |= {item for item in launch.constants.items() if item[0] != "FORM"}
    if "FORM" in launch.constants:
        kind = kind_of(launch.kernel, launch.constants["FORM"])
        cols = launch.constants.get("COLS", launch.params.get("cols", 0))
        # Rows that end within a vec4 are read otherwise, by code of each type that may.
        found.add(("FORM", kind, cols % 4 == 0))
    return found


def kind_of(kernel: str, form: Number) -> Hashable:
    """What a kernel's text knows of a type of weights; the type, where it is one of UNPACKING."""
    if kernel in UNPACKING:
        return form
    return tuple(OPERATORS[how](form, FORMS[name]) for how, name in _comparisons(kernel))


@cache
def _comparisons(kernel: str) -> list[tuple[str, str]]:
    """Those with a type, in what makes a kernel, but for functions that all use that unpack."""
    files = {file for file, _ in parse(kernel, SOURCES).uses} - {"types", "dequantize"}
    texts = [SOURCES[file] for file in sorted({kernel, *files})]
    texts += re.findall("^override .*", SOURCES["dequantize"], re.MULTILINE)
    return re.findall(r"\bFORM (==|<|>) (\w+)", "\n".join(texts))


def _leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[Value]:
    """(path to it, number or word) of everything that `value` consists of."""
    if is_dataclass(value):
        for field in fields(value):
            within = (*path, type(value).__name__, field.name)
            yield from _leaves(getattr(value, field.name), within)
    elif isinstance(value, Mapping):
        for name, part in value.items():
            yield from _leaves(part, (*path, str(name)))
    elif isinstance(value, tuple):
        for number, part in enumerate(value):
            yield from _leaves(part, (*path, str(number)))
    elif isinstance(value, Hashable) and value not in FORMS:
        yield (*path, value)


def chosen(cases: Sequence[Case]) -> list[Case]:
    """Those of one kernel's cases that are run by default."""
    trials = {case: case.trial() for case in cases}
    values = {case: values_of(case, trial) for case, trial in trials.items()}
    variants = {case: variants_of(trial) for case, trial in trials.items()}
    missing: set[Value] = set().union(*values.values())
    compiled: set[Variant] = set()

    def worth(case: Case) -> float:
        return len(values[case] & missing) / (0.1 + len(variants[case] - compiled))

    while missing:
        best = max(cases, key=worth)
        missing -= values[best]
        compiled |= variants[best]
    return [case for case in cases if variants[case] <= compiled]

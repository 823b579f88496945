"""Which cases of a kernel are run by default: compiling is what they cost a CPU.

A variant of a kernel takes it a second or more to compile, and a case in one that is there,
milliseconds. So a few variants are chosen, in which each number that a case is made of, each
constant of the kernel, and each pair of constants that switch code occur; and of the cases all that
need no others.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from doppler.gpu.wgsl import Number
from doppler.workbench.case import Case, Launch, Trial
from fixture_sets import SIZES

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
    return {*found, *launch.constants.items(), *_row_ends(launch)}


def _row_ends(launch: Launch) -> Iterator[Value]:
    """Rows that are whole vec4s, and those that end within one, are read by code of each type."""
    cols = launch.constants.get("COLS", launch.params.get("cols"))
    if cols is not None and "FORM" in launch.constants:
        yield "row ends", launch.constants["FORM"], cols % 4 == 0


def _leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[Value]:
    """(path to it, number or word) of everything that `value` consists of."""
    if is_dataclass(value):
        for field in fields(value):
            yield from _leaves(getattr(value, field.name), (*path, field.name))
    elif isinstance(value, Mapping):
        for name, part in value.items():
            yield from _leaves(part, (*path, str(name)))
    elif isinstance(value, tuple):
        for number, part in enumerate(value):
            yield from _leaves(part, (*path, str(number)))
    elif isinstance(value, Hashable):
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

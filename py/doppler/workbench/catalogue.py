"""All cases, by their kernels."""

from __future__ import annotations

from doppler.errors import RequestError
from doppler.inputs.fields import shown
from doppler.workbench.case import Case
from doppler.workbench.cases import (
    attention,
    delta,
    device,
    layer,
    load,
    matmul,
    moe,
    recurrent,
    sample,
    slots,
)

FOLDERS = (load, layer, matmul, attention, recurrent, delta, moe, slots, sample, device)
CASES: tuple[Case, ...] = tuple(case for folder in FOLDERS for case in folder.CASES)


def cases_of(kernel: str) -> list[Case]:
    """Those that are meant for this kernel; others may launch it too."""
    return [case for case in CASES if case.kernel == kernel]


def find(kernel: str, name: str) -> Case:
    """A case by its name. Raises RequestError where there is none."""
    found = next((case for case in cases_of(kernel) if case.name == name), None)
    if found is None:
        raise RequestError(f"kernel {kernel} has no case {shown(name)}: `kernels` lists them")
    return found

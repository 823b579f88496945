"""Whether a device has what a case needs."""

from __future__ import annotations

from collections.abc import Collection

from doppler.gpu.device import MATRIX_UNITS, Gpu
from doppler.workbench.case import Case


def features_of(gpu: Gpu) -> set[str]:
    """The device's optional features; matrix units only where they are as kernels want them."""
    return {name for name in gpu.features if name != MATRIX_UNITS or gpu.has_matrix_units}


def lacking(case: Case, features: Collection[str]) -> list[str]:
    """What a device with these features lacks to run a case."""
    return [feature for feature in case.needs if feature not in features]

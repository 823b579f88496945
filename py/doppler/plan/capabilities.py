"""What plans ask of an adapter: the choice of kernels depends on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from doppler.gpu.device import Gpu

WIDE = 16  # lanes of a subgroup from which sharing a row among them pays: CPUs have 4 or 8
MATRIX_UNIT_BYTES = 28736  # workgroup memory of kernels/matmul_subgroup_matrix.wgsl


@dataclass(frozen=True)
class Adapter:
    """What the choice of kernels depends on."""

    subgroup_size: int  # lanes that share a row of a matvec; 0: none do
    workgroup_bytes: int  # workgroup memory
    is_cpu: bool  # a processor that passes for a GPU: tiles do not pay there
    half: bool  # products of f16, sums in f32
    matrix_units: bool  # that multiply f16


def adapter_of(gpu: Gpu, half: bool, taken_for: Mapping[str, Any]) -> Adapter:
    """What plans are made for: `half` products or not; `taken_for` says otherwise, in tests."""
    wide = "subgroups" in gpu.features and gpu.subgroup_size >= WIDE
    workgroup_bytes = gpu.limits["maxComputeWorkgroupStorageSize"]
    adapter = Adapter(
        subgroup_size=gpu.subgroup_size if wide else 0,
        workgroup_bytes=workgroup_bytes,
        is_cpu=gpu.is_cpu,
        half=half,
        matrix_units=half and gpu.has_matrix_units and workgroup_bytes >= MATRIX_UNIT_BYTES,
    )
    return replace(adapter, **taken_for)

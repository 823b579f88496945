"""What plans ask of an adapter: the choice of kernels depends on it."""

from __future__ import annotations

from dataclasses import dataclass

MATRIX_UNIT_BYTES = 28736  # workgroup memory of matmul_subgroup_matrix.wgsl


@dataclass(frozen=True)
class Adapter:
    """What the choice of kernels depends on."""

    subgroup_size: int  # lanes that share a row of a matvec; 0: none do
    workgroup_bytes: int  # workgroup memory
    is_cpu: bool  # a processor that passes for a GPU: tiles do not pay there
    half: bool  # products of f16, sums in f32
    matrix_units: bool  # that multiply f16

"""The launcher: how many workgroups each kernel needs.

A dimension of a grid takes so many only (65,535 on most devices). What may be more, such as tokens,
is folded over it and the next one, and kernels find its number with grid.wgsl.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from doppler.errors import DeviceError

Grid = tuple[int, int, int]

MOST_AT_ONCE = 2048  # workgroups of kernels that walk the rest: about what a large GPU runs at once


def _over(count: int, share: int) -> int:
    return -(-count // share)


def _folded(count: int, p: Mapping[str, Any]) -> tuple[int, int]:
    """`count` workgroups over a dimension and the next: as few as can be of the next."""
    rest = _over(count, p["most"])
    return _over(count, rest), rest


def _slots(p: Mapping[str, Any]) -> int:
    """Rows that a matvec computes: one, or one for each expert that a token uses."""
    return int(p["tokens"]) if p["EXPERTS"] else 1


def _heads(p: Mapping[str, Any]) -> int:
    """Query heads of the key-value heads that are bound."""
    return int(p["heads"] // p["kv_heads"] * p["kv_count"])


def _team_grid(p: Mapping[str, Any]) -> Grid:
    workgroups = _over(p["rows"], 256 // p["TEAM"] * p["ROWS"])
    return min(workgroups, MOST_AT_ONCE, p["most"]), 1, _slots(p)


# Workgroups from params and number of tokens, p; the shares are those of each file's header.
_GRIDS: dict[str, Callable[[Mapping[str, Any]], Grid]] = {
    "blake3": lambda p: (_over(max(p["length"], 1), 64 * 1024), 1, 1),
    "blake3_tree": lambda p: (_over(max(p["length"], 1), 1024 * p["block"]), 1, 1),
    "relayout": lambda p: (*_folded(_over(p["rows"] * _over(p["cols"], 32), 64), p), 1),
    "gather": lambda p: (_over(_over(p["cols"], 32), 32), *_folded(p["tokens"], p)),
    "norm": lambda p: (*_folded(p["tokens"], p), 1),
    "matmul": lambda p: (_over(p["rows"], 128), _over(p["tokens"], 16), 1),
    "matmul_tile": lambda p: (
        _over(p["rows"], 64 * p["ROW_BLOCKS"]),
        _over(p["tokens"], 64 * p["TOKEN_BLOCKS"]),
        1,
    ),
    "matmul_subgroup_matrix": lambda p: (
        _over(p["rows"], 32 * p["ROW_TILES"]),
        _over(p["tokens"], 64 * p["TOKEN_TILES"]),
        1,
    ),
    "matvec": lambda p: (*_folded(_over(p["rows"], 128), p), _slots(p)),
    "matvec_subgroup": _team_grid,
    "matvec_workgroup": _team_grid,
    "matvec_half": _team_grid,
    "heads_norm": lambda p: (2, *_folded(p["tokens"], p)),
    "rope": lambda p: (
        _heads(p) + (0 if p["PROJECTED"] == 2 else 2 * p["kv_count"]),
        *_folded(p["tokens"], p),
    ),
    "attention": lambda p: (_heads(p), *_folded(p["tokens"], p)),
    "attention_flash": lambda p: (
        _over(p["tokens"] * p["heads"] // p["kv_heads"], p["ROWS"]),
        p["kv_count"],
        1,
    ),
    "attention_decode": lambda p: (
        p["splits"],
        p["kv_count"],
        _over(p["heads"] // p["kv_heads"], 4),
    ),
    "attention_join": lambda p: (p["heads"], 1, 1),
    "delta": lambda p: (_over(p["VALUE_DIM"], 16), p["value_heads"], 1),
    "head_gate": lambda p: (p["heads"], *_folded(p["tokens"], p)),
    "gate": lambda p: (_over(_over(p["ffn"], 4), 64), *_folded(p["tokens"], p)),
    "xielu": lambda p: (_over(_over(p["ffn"], 4), 64), *_folded(p["tokens"], p)),
    "last": lambda _: (1, 1, 1),
    "conv": lambda p: (_over(p["channels"] // 4, 64), *_folded(_over(p["tokens"], 16), p)),
    "copy": lambda p: (*_folded(_over(p["size"], 256), p), 1),
    "route": lambda p: (*_folded(p["tokens"], p), 1),
    "lookup": lambda _: (1, 1, 1),
    "align": lambda _: (1, 1, 1),
    "sum": lambda p: (_over(p["stride"], 256), *_folded(p["tokens"], p)),
    "draft": lambda _: (1, 1, 1),
    "lanes": lambda _: (1, 1, 1),
    "bandwidth": lambda p: (min(p["tiles"], MOST_AT_ONCE), 1, 1),
    "cap": lambda p: (*_folded(_over(p["size"], 256), p), 1),
    "sample_blocks": lambda p: (_over(p["vocab"], 1024 // p["LANES"] * p["BLOCK"]), 1, 1),
    "sample": lambda _: (1, 1, 1),
}


def grid(kernel: str, params: Mapping[str, Any], most: int) -> Grid:
    """Workgroups for a kernel's constants and parameters, and the number of `tokens`.

    Raises DeviceError where a dimension would need more than `most`.
    """
    workgroups = _GRIDS[kernel]({**params, "most": most})
    if max(workgroups) > most:
        needed = " x ".join(map(str, workgroups))
        raise DeviceError(
            f"kernel {kernel} needs {needed} workgroups, and this adapter runs {most} in a "
            "dimension; use a smaller batch"
        )
    return workgroups

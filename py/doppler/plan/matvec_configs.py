"""How the threads of a matvec share its rows: a cut (matvec_rows.wgsl), and those near it.

The best differs from GPU to GPU by more than one would guess: engine/autotune.py measures it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from doppler.gpu.step import Step

MOST_AHEAD = 8  # groups that a thread asks for at once: DEPTH · ROWS in matvec_rows.wgsl


class Cut(NamedTuple):
    """Threads that share a row, rows that they do at once, and groups of 32 columns likewise."""

    team: int
    rows: int
    depth: int

    def constants(self) -> dict[str, int]:
        """Those of matvec_rows.wgsl."""
        return {"TEAM": self.team, "ROWS": self.rows, "DEPTH": self.depth}

    @classmethod
    def checked(cls, team: int, rows: int, depth: int) -> Cut:
        """One that was kept. Raises ValueError where no kernel can be cut so."""
        whole = all(type(number) is int and number > 0 for number in (team, rows, depth))
        if not whole or team & (team - 1) or team > 256 or rows not in (1, 2, 4):
            raise ValueError(f"{team} threads and {rows} rows are no cut")
        if rows * depth > MOST_AHEAD:
            raise ValueError(f"{rows} rows of {depth} groups are too much for a thread")
        return cls(team, rows, depth)

    @classmethod
    def of(cls, step: Step) -> Cut:
        """What a step of a matvec is cut by."""
        return cls(*(int(step.constants[name]) for name in ("TEAM", "ROWS", "DEPTH")))


Cuts = Mapping[str, Cut]  # by what `kind_of` says


def kind_of(kernel: str, constants: Mapping[str, int | float], rows: int) -> str:
    """What the best cut depends on, besides the device."""
    names = ("FORM", "COLS", "PROLOGUE", "ACTIVATION", "EXPERTS")
    return f"{kernel} {rows} rows {' '.join(f'{name} {constants[name]:g}' for name in names)}"


def near(cut: Cut, has_pairs: bool) -> list[Cut]:
    """The cut itself, and others that may be quicker; pairs of rows stay together."""
    found = [cut]
    for team in (cut.team, cut.team // 2, 2 * cut.team):
        for rows, depth in ((1, 1), (1, 2), (2, 1), (2, 2), (4, 1)):
            other = Cut(team, rows, depth)
            fits = 4 <= team <= 256 and rows * depth <= MOST_AHEAD
            if fits and not (has_pairs and rows == 1) and other not in found:
                found.append(other)
    return found


def unknown(steps: Sequence[Step], known: Cuts) -> dict[str, list[Step]]:
    """The matvecs among `steps`, by kind, whose best cut is not known."""
    kinds: dict[str, list[Step]] = {}
    for step in steps:
        if "TEAM" in step.constants:
            kind = kind_of(step.kernel, step.constants, int(step.params["rows"]))
            kinds.setdefault(kind, []).append(step)
    return {kind: group for kind, group in kinds.items() if kind not in known}

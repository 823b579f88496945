"""Activations that are never needed at once lie in the same memory.

When each is needed follows from the plan itself: from the step that first writes it to the last
that reads it before it is written again. Two share a buffer if these spans do not meet; and since
WebGPU refuses a step that reads and writes one buffer, even in different parts of it, what one
step binds never shares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from doppler.gpu.device import Slice
from doppler.gpu.step import Step

OUTPUT = "out"  # the binding that kernels only write; others are read, and some written too


def share(steps: Sequence[Step], slices: Mapping[str, Slice]) -> list[list[str]]:
    """Groups of names that can share a buffer of the size of their largest.

    `slices` are what the plan binds, each in a buffer of its own; names that it does not bind are
    in no group.
    """
    used = [_used(step, slices) for step in steps]
    apart: set[tuple[str, str]] = set()
    for alive in _alive(used):
        apart |= {(a, b) for a in alive for b in alive if a != b}
    groups: list[list[str]] = []
    bound = {name for bindings in used for name in bindings}
    for name in sorted(bound, key=lambda name: (-slices[name].size, name)):
        fits = (group for group in groups if not any((name, other) in apart for other in group))
        group = next(fits, None)
        if group is None:
            groups.append([name])
        else:
            group.append(name)
    return groups


def _used(step: Step, slices: Mapping[str, Slice]) -> dict[str, bool]:
    """Names that a step binds -> whether it only writes them."""
    names = {part.buffer: name for name, part in slices.items()}
    return {
        names[part.buffer]: binding == OUTPUT
        for binding, part in step.bindings.items()
        if part.buffer in names
    }


def _alive(used: Sequence[Mapping[str, bool]]) -> list[set[str]]:
    """At each step: what it binds, and what was written before it to be read after it."""
    alive: list[set[str]] = []
    needed: set[str] = set()  # by later steps
    for index in reversed(range(len(used))):
        alive.append(needed | used[index].keys())
        # Steps next to each other may fill an activation together: it is there from the first on.
        before = used[index - 1] if index else {}
        for name, only_writes in used[index].items():
            if not only_writes:
                needed.add(name)
            elif not before.get(name, False):
                needed.discard(name)
    return alive

"""Activations that are never needed at once lie in the same memory.

When each is needed follows from the plan itself: from the step that first writes it to the last
that reads it before it is written again. Two share a buffer if these spans do not meet; and since
WebGPU refuses a step that reads and writes one buffer, even in different parts of it, what one
step binds never shares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from doppler.gpu.step import Step
from doppler.plan.layer import PlannedModel
from doppler.plan.prefill import PrefillPlan
from doppler.plan.segments import Part, steps_of

OUTPUT = "out"  # the binding that kernels only write; others are read, and some written too


def batch_groups(model: PlannedModel) -> list[list[str]]:
    """What a batch's plan binds of its own, and the logits, by the buffer that it is to lie in.

    The first of a group is its largest.
    """
    layout = model.layout
    if layout.batch == 1:
        return [["logits"]]
    groups = share(_whole_batch(model), layout.batch_activations)
    if model.widths.are_whole:
        return groups
    # What is beyond a row's end must stay zero: no other activation may lie there.
    return [[name] for group in groups for name in group]


def _whole_batch(model: PlannedModel) -> list[Step]:
    """Every step of a batch. Experts that have slots are run in passes, as many as it takes: each
    reads what the first read, and leaves what those before it gave.
    """
    layout = model.layout
    segments = PrefillPlan(model).all(layout.batch)
    if not layout.slots:
        return steps_of(segments)
    steps = list[Step]()
    for segment in segments:
        steps += segment.steps
        if segment.place.part == Part.EXPERTS:
            steps += [_kept(step, "downs") for step in segment.steps]
    return steps


def _kept(step: Step, name: str) -> Step:
    """The step as one that adds to its output, if that is the activation of this name."""
    bindings = step.bindings
    if OUTPUT not in bindings or bindings[OUTPUT].buffer != name:
        return step
    rest = {key: view for key, view in bindings.items() if key != OUTPUT}
    return replace(step, bindings={**rest, "kept": bindings[OUTPUT]})


def share(steps: Sequence[Step], sizes: Mapping[str, int]) -> list[list[str]]:
    """Groups of names that can share a buffer of the size of their largest.

    `sizes` are bytes by name; names that the plan does not bind are in no group.
    """
    used = [_used(step, sizes) for step in steps]
    apart: set[tuple[str, str]] = set()
    for alive in _alive(used):
        apart |= {(a, b) for a in alive for b in alive if a != b}
    groups: list[list[str]] = []
    bound = {name for bindings in used for name in bindings}
    for name in sorted(bound, key=lambda name: (-sizes[name], name)):
        fits = (group for group in groups if not any((name, other) in apart for other in group))
        group = next(fits, None)
        if group is None:
            groups.append([name])
        else:
            group.append(name)
    return groups


def _used(step: Step, sizes: Mapping[str, int]) -> dict[str, bool]:
    """Those of the names that a step binds -> whether it only writes them."""
    return {
        view.buffer: binding == OUTPUT
        for binding, view in step.bindings.items()
        if view.buffer in sizes
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

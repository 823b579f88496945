"""The plan of a batch with drafts: looked up, run together, sampled one after another."""

from __future__ import annotations

from doppler.gpu.step import Step, View
from doppler.plan.layer import PlannedModel
from doppler.plan.prefill import PrefillPlan
from doppler.plan.segments import Part, Place, Segment

DRAFTS = 7  # of a batch, at most
LONGEST = 3  # ids that are looked up; fewer where so many stand nowhere else


def draft_plan(model: PlannedModel, plan: PrefillPlan, normed: View, logits: View) -> list[Segment]:
    """One batch: 1 to 1 + DRAFTS tokens. `normed` and `logits` have room for as many rows."""
    rows = 1 + DRAFTS
    m = model.memory(rows)
    bindings = {name: m[name] for name in ("history", "tokens", "verify_row", "state")}
    params = {"context": model.layout.context, "most": DRAFTS}
    draft = Step("draft", {"LONGEST": LONGEST}, bindings, params, 1, "draft")
    samples = [step for _ in range(rows) for step in model.sample_row(logits)]
    return [
        Segment(Place(Part.DRAFT), (draft,)),
        *plan.body(rows),
        plan.head_of_all(rows, normed, logits),
        Segment(Place(Part.SAMPLE), tuple(samples)),
    ]

"""The parts of a plan between which it can be halted, and from which it can go on.

Whoever halts it takes the tokens away (state.wgsl): no kernel does anything then, and what is
queued behind the cause is queued again once that is gone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from doppler.gpu.step import Step


class Part(StrEnum):
    """What a segment computes."""

    DRAFT = "draft"  # what may come next, looked up
    EMBEDDING = "embedding"  # token ids -> residual stream
    ATTENTION = "attention"  # of one layer, or its other mixer; norm and projections with it
    ROUTER = "router"  # of a mixture's layer: which experts its tokens use
    AHEAD = "ahead"  # of the same: which experts the next layer is expected to use
    BESIDE = "beside"  # of the same: what its experts read, and a dense FFN beside them
    EXPERTS = "experts"  # of the same: what they give for each token that uses them
    FFN = "ffn"  # of one layer, or the sum of what its experts give
    LAST = "last"  # of a chunk's tokens: it goes on alone
    HEAD = "head"  # last hidden state -> logits
    SAMPLE = "sample"  # logits -> the next token
    COPY = "copy"  # the recurrent state -> a checkpoint, or back


@dataclass(frozen=True, order=True)
class Place:
    """Where in a model a segment stands. Those outside the layers have layer 0."""

    part: Part
    layer: int = 0


@dataclass(frozen=True)
class Segment:
    """Steps that are recorded as one.

    It runs once a token: it may add to what it reads. A ROUTER does not, and may be run again as
    long as nothing behind it was; nor does AHEAD, which may be run then. EXPERTS may be run any
    number of times.
    """

    place: Place
    steps: tuple[Step, ...]


def steps_of(segments: Iterable[Segment]) -> list[Step]:
    """All steps in their order."""
    return [step for segment in segments for step in segment.steps]

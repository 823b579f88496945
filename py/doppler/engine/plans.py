"""The plans of one model by key: which a token or a chunk takes, and what each is made of."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from doppler.engine.memory import EngineMemory
from doppler.gpu.step import Step
from doppler.plan.bindings import HEAD_ROWS
from doppler.plan.decode import DecodePlan
from doppler.plan.draft import draft_plan
from doppler.plan.layer import PlannedModel
from doppler.plan.prefill import PrefillPlan
from doppler.plan.recurrent import keep, restore
from doppler.plan.segments import Segment, steps_of

BUCKETS = (256, 1024, 4096)  # contexts for which decoding is recorded, and then the whole


class Plan(StrEnum):
    """A run of segments that is always queued as one."""

    DECODE = "decode"  # a token's body, for contexts up to `size`
    PREFILL = "prefill"  # the layers of a chunk of `size` that fill the cache
    PASS = "pass"  # some experts of the layers of such a chunk that do not hold all
    REST = "rest"  # of the same: the others, which read others' keys
    LAST = "last"  # those of its last token alone, for contexts up to `size`
    HEAD = "head"  # logits after a chunk of `size`, of which more than 1 are the same
    ROWS = "rows"  # logits of several positions, from row `size` on
    SAMPLE = "sample"
    MASKED_SAMPLE = "masked sample"  # of the tokens that are allowed
    DRAFT = "draft"  # a whole batch with drafts
    AHEAD = "ahead"  # which experts the layers behind others are expected to use
    KEEP = "keep"  # the recurrent state -> the checkpoint in slot `size`
    RESTORE = "restore"  # and back


@dataclass(frozen=True)
class Key:
    """What is recorded: a plan for a size, which `Plan` tells the meaning of."""

    plan: Plan
    size: int = 0


class Plans:
    """All that can be queued of `model`. `memory` makes room for logits of several positions when
    a plan first wants them.
    """

    def __init__(self, model: PlannedModel, memory: EngineMemory) -> None:
        self._model, self._memory = model, memory
        self._decode_plan, self._prefill_plan = DecodePlan(model), PrefillPlan(model)

    def chunk(self, position: int, size: int, is_end: bool = True) -> list[Key]:
        """The body of a chunk, the first of whose tokens comes at `position`."""
        if size == 1:
            return [Key(Plan.DECODE, self.bucket(position + 1))]
        keys = [Key(Plan.PREFILL, size)]
        if is_end and self.has_rest(size):
            keys.append(Key(Plan.LAST, self.bucket(position + size)))
        return keys

    def has_rest(self, size: int) -> bool:
        """Whether only tokens of a chunk whose logits are wanted need all layers."""
        config = self._model.config
        return size > 1 and config.own_layers < len(config.layers)

    def head(self, size: int) -> Key:
        """Of a chunk's last token."""
        return Key(Plan.HEAD, 1 if self.has_rest(size) else min(size, 2))

    def token(self, bucket: int, sampler: Plan = Plan.SAMPLE) -> list[Key]:
        """All of a token of decode."""
        return [Key(Plan.DECODE, bucket), Key(Plan.HEAD, 1), Key(sampler)]

    def bucket(self, tokens: int) -> int:
        """The context for which a list is recorded that serves `tokens` tokens."""
        whole = self._model.layout.context
        return next((bucket for bucket in BUCKETS if tokens <= bucket < whole), whole)

    def segments(self, key: Key) -> list[Segment]:
        """What a plan is made of."""
        plan, size, model = key.plan, key.size, self._model
        match plan:
            case Plan.DECODE:
                return self._decode_plan.body(size)
            case Plan.PREFILL:
                return self._prefill_plan.caches(size)
            case Plan.PASS:
                return self._prefill_plan.passes(size)
            case Plan.REST:
                return self._prefill_plan.rest(size)
            case Plan.LAST:
                return self._decode_plan.rest(size)
            case Plan.HEAD:
                return [(self._decode_plan if size == 1 else self._prefill_plan).head()]
            case Plan.ROWS:
                return [self._prefill_plan.head_of_all(HEAD_ROWS, *self._memory.head_rows(size))]
            case Plan.SAMPLE:
                return [model.sample()]
            case Plan.MASKED_SAMPLE:
                return [model.masked_sample()]
            case Plan.AHEAD:
                return self._decode_plan.ahead()
            case Plan.KEEP:
                return [keep(model, size)]
            case Plan.RESTORE:
                return [restore(model, size)]
            case Plan.DRAFT:
                return draft_plan(model, self._prefill_plan, *self._memory.head_rows(0))

    def steps(self, *keys: Key) -> list[Step]:
        """The dispatches of plans one after another."""
        return [step for key in keys for step in steps_of(self.segments(key))]

    def to_compile(self) -> list[Step]:
        """Those that prefill, decode and sampling need."""
        buckets = {self.bucket(tokens) for tokens in (1, *BUCKETS, self._model.layout.context)}
        steps = [step for bucket in buckets for step in self.steps(*self.token(bucket))]
        batch = self._model.layout.batch
        if batch > 1:
            ends = [key for bucket in buckets for key in self.chunk(bucket - batch, batch)]
            steps += self.steps(*ends, self.head(batch))
            if self._model.layout.slots:
                steps += self.steps(Key(Plan.PASS, batch))
        if self._model.layout.slots:
            steps += self.steps(Key(Plan.AHEAD))
        if self._model.layout.checkpoints:
            steps += self.steps(Key(Plan.KEEP), Key(Plan.RESTORE))
        return steps

    def to_measure(self, tokens: int, batch: int) -> list[Step]:
        """The dispatches of a token after `tokens` of context, or of a prefill batch.

        Lookups among them do not halt what comes after them: who measures it brings nothing.
        """
        keys = self.token(self.bucket(tokens + 1))
        if batch > 1:
            keys = [*self.chunk(tokens, batch), self.head(batch)]
        return [
            replace(step, constants={"HALTS": 0}) if step.kernel == "lookup" else step
            for step in self.steps(*keys)
        ]

    def to_tune(self) -> list[Step]:
        """Those in which every matvec is whose cut is measured."""
        return self.steps(*self.token(self.bucket(1)), Key(Plan.HEAD, 2))

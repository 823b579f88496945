"""What one generation is asked for, and what it gave."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

from doppler.engine.rules import LogitRule
from doppler.engine.speculate import Speculate
from doppler.engine.stopping import FinishReason
from doppler.sampling import Sampling


@dataclass(frozen=True)
class GenerationConfig:
    """How tokens are chosen, how many there are at most, and after which ids there are no more.

    `sampling` holds everything that changes logits, also the penalty for ids already seen: the GPU
    applies it to each token by itself. `rules` are asked by the host, one token at a time; those
    that all of them allow are what is sampled from, and there are no drafts then.
    """

    sampling: Sampling
    max_tokens: int
    ends: Set[int] = frozenset()
    speculate: Speculate = "auto"
    rules: tuple[LogitRule, ...] = ()


@dataclass(frozen=True)
class Generation:
    """What was generated. `ttft_ms` is from the beginning to the first token; 0 without one."""

    ids: list[int]
    finish_reason: FinishReason
    reused_tokens: int = 0  # of the prompt, whose keys and values were cached
    ttft_ms: float = 0.0
    prefill_tok_s: float = 0.0
    decode_tok_s: float = 0.0
    batches: int = 0  # that carried drafts,
    batch_tokens: int = 0  # and the tokens that came of them

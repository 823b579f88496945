"""What one generation gave, and the clock that it went by."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

from doppler.engine.speculate import Speculation

FinishReason = Literal["stop", "length", "cancelled", "context"]


@dataclass(frozen=True)
class Generation:
    """What one call generated. Times are milliseconds, from the call on."""

    ids: list[int]
    finish_reason: FinishReason
    reused_tokens: int
    ttft_ms: float
    prefill_tok_s: float
    decode_tok_s: float
    batches: int  # that carried drafts,
    batch_tokens: int  # and the tokens that came of them


class Clock:
    """When a call began, gave its first token and its last."""

    def __init__(self) -> None:
        self._began = self._first = self._last = time.perf_counter()
        self._tokens = 0

    def token(self) -> None:
        self._last = time.perf_counter()
        if not self._tokens:
            self._first = self._last
        self._tokens += 1

    @property
    def decode_ms(self) -> float:
        """Milliseconds a token after the first; 0 before there are two."""
        return 1000 * (self._last - self._first) / max(self._tokens - 1, 1)

    def generation(
        self,
        ids: list[int],
        reason: FinishReason,
        reused: int,
        prompt: int,
        speculation: Speculation,
    ) -> Generation:
        prefill = max(self._first - self._began, 1e-9)
        return Generation(
            ids=ids,
            finish_reason=reason,
            reused_tokens=reused,
            ttft_ms=1000 * prefill,
            prefill_tok_s=(prompt - reused) / prefill,
            decode_tok_s=1000 / self.decode_ms if self.decode_ms else 0.0,
            batches=speculation.batches,
            batch_tokens=speculation.batch_tokens,
        )

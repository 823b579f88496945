"""Why a generation ends: rules that look at the ids so far, one for each reason.

Stop texts are no rule here: whoever makes text of ids ends a sequence by `Sequence.stop`.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Literal, Protocol

FinishReason = Literal["stop", "length", "cancelled", "context"]


class StopRule(Protocol):
    """Asked before the first id, and after each one."""

    def reason(self, ids: Sequence[int]) -> FinishReason | None:
        """Why nothing may follow `ids`, all that were generated; None where something may."""


@dataclass(frozen=True)
class EndTokens:
    """The model says that it has ended."""

    ends: Set[int]

    def reason(self, ids: Sequence[int]) -> FinishReason | None:
        return "stop" if ids and ids[-1] in self.ends else None


class Cancellation:
    """Somebody wants no more; that may be asked for before the sequence begins."""

    def __init__(self) -> None:
        self._is_asked = False

    def ask(self) -> None:
        """Ends the running sequence within a step, or the next one as soon as it comes."""
        self._is_asked = True

    def forget(self) -> None:
        """What it was meant for has ended."""
        self._is_asked = False

    def reason(self, ids: Sequence[int]) -> FinishReason | None:
        return "cancelled" if self._is_asked else None


@dataclass(frozen=True)
class TokenLimit:
    """At most so many ids: as many as were asked for, or as the context has room for."""

    most: int
    why: FinishReason

    @classmethod
    def of(cls, max_tokens: int, room: int) -> TokenLimit:
        """The one that is met first; of equal ones, `max_tokens`."""
        return cls(max_tokens, "length") if max_tokens <= room else cls(room, "context")

    def reason(self, ids: Sequence[int]) -> FinishReason | None:
        return self.why if len(ids) >= self.most else None

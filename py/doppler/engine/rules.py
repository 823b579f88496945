"""Which tokens may come next: rules that look at the ids so far, such as a grammar.

The host asks them, so the GPU cannot run ahead: what may follow an id is known when it has been
read back, and only then is the next step queued.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import and_
from typing import Protocol

from doppler.errors import RequestError
from doppler.sampling import mask_bytes


class LogitRule(Protocol):
    """Asked before each id of an answer, once and in order.

    Of an answer that goes on after it was cut off, the first time behind all that was written.
    """

    def mask(self, ids: Sequence[int]) -> bytes | None:
        """The tokens that may follow `ids`, all that were generated; None where every token may.

        A bit a token, set where it is allowed: token t's is bit t % 8 of byte t // 8, and tokens
        behind the last byte are not allowed. A model can end only where an end token is.
        """


def allowed(rules: Sequence[LogitRule], ids: Sequence[int], vocab: int) -> bytes | None:
    """The tokens that every rule allows after `ids`, in whole u32 words; None for all of `vocab`.

    Raises RequestError where there are none, and whatever a rule raises.
    """
    masks = [mask for rule in rules if (mask := rule.mask(ids)) is not None]
    if not masks:
        return None
    bits = reduce(and_, (int.from_bytes(mask, "little") for mask in masks), (1 << vocab) - 1)
    if not bits:
        names = ", ".join(type(rule).__name__ for rule in rules)
        raise RequestError(
            f"no token may be token {len(ids) + 1} of the answer: its rules ({names}) allow none; "
            "where nothing may follow, a rule must allow an end token"
        )
    return bits.to_bytes(mask_bytes(vocab), "little")

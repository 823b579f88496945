"""What the host makes of the state and the ring that it reads back."""

from __future__ import annotations

import asyncio
from array import array

import pytest

from doppler.engine.memory import BROKEN, Reading
from doppler.errors import DopplerError
from doppler.plan.bindings import RING, RING_AT


def read(ring: list[int], step: int, known: int) -> list[int]:
    words = array("I", [9, 1, step, 0]) + array("I", bytes(RING_AT - 16)) + array("I", ring)

    async def tokens() -> list[int]:
        done = asyncio.get_running_loop().create_future()
        done.set_result(words.tobytes())
        return await Reading(done).tokens(known)

    return asyncio.run(tokens())


def test_new_ids_come_in_order_across_the_end_of_the_ring() -> None:
    ring = list(range(1000, 1000 + RING))
    assert read(ring, RING + 2, RING - 1) == [1000 + RING - 1, 1000, 1001]
    assert read(ring, 5, 5) == []


def test_logits_that_are_no_numbers_are_an_error() -> None:
    ring = [7, 8, BROKEN, BROKEN] + [0] * (RING - 4)
    assert read(ring, 2, 0) == read(ring, 4, 0) == [7, 8]
    with pytest.raises(DopplerError, match="token 3 of the answer has logits that are infinite"):
        read(ring, 4, 2)

"""Who may use the loaded model: refused at once, or after the answer that makes way."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from doppler.api.turns import Turns
from doppler.errors import RequestError


class Desk:
    """Turns, an answer that runs until it is cancelled, and what happened in which order."""

    def __init__(self) -> None:
        self.turns = Turns(asyncio.Lock())
        self.told: list[str] = []
        self._cancelled = asyncio.Event()

    async def answer(self, name: str) -> None:
        async with self.turns.turn(name):
            await self._cancelled.wait()
            await asyncio.sleep(0)  # the token that is under way
            self.told.append(f"{name} ended")

    async def replace(self, name: str) -> None:
        await self.turns.instead(self._cancelled.set)
        async with self.turns.turn(name):
            await asyncio.sleep(0)
            self.told.append(f"{name} done")


async def together(*work: Coroutine[Any, Any, None]) -> list[str | None]:
    """Started in this order; the error of each, or None."""
    results = await asyncio.gather(*work, return_exceptions=True)
    return [None if result is None else str(result) for result in results]


@pytest.mark.parametrize("answer", ["chat", "complete"])
@pytest.mark.parametrize("action", ["load", "unload"])
def test_an_answer_makes_way(answer: str, action: str) -> None:
    async def run() -> list[str]:
        desk = Desk()
        assert await together(desk.answer(answer), desk.replace(action)) == [None, None]
        return desk.told

    assert asyncio.run(run()) == [f"{answer} ended", f"{action} done"]


def test_the_second_of_two_loads_is_refused() -> None:
    async def run() -> tuple[list[str | None], list[str]]:
        desk = Desk()
        work = desk.answer("chat"), desk.replace("load"), desk.replace("load")
        return await together(*work), desk.told

    errors, told = asyncio.run(run())
    assert errors == [None, None, "cannot load while load is running: cancel it first"]
    assert told == ["chat ended", "load done"]


@pytest.mark.parametrize("busy", ["profile", "logits", "load"])
def test_what_is_no_answer_is_not_ended(busy: str) -> None:
    async def run() -> None:
        desk = Desk()
        async with desk.turns.turn(busy):
            for name in ("chat", "unload"):
                with pytest.raises(RequestError, match=f"cannot {name} while {busy} is running"):
                    await desk.replace(name)
        await desk.replace("unload")  # it is free again

    asyncio.run(run())


def test_whoever_holds_the_gate_is_waited_for() -> None:
    async def run() -> None:
        gate = asyncio.Lock()
        turns = Turns(gate)
        await gate.acquire()
        holding = asyncio.ensure_future(turns.turn("chat").__aenter__())
        await asyncio.sleep(0)
        assert turns.answering
        assert not holding.done()
        gate.release()
        await holding

    asyncio.run(run())

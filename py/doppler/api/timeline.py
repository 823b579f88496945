"""When each stage of a start began and ended; stages overlap."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from doppler.api.messages import Stage

T = TypeVar("T")


class Timeline:
    """Stages in the order in which they ended, in milliseconds since 1970, as the page counts."""

    def __init__(self) -> None:
        self.stages: list[Stage] = []

    @contextmanager
    def stage(self, stage: str) -> Iterator[None]:
        """Notes when the block began and, unless it fails, ended."""
        start = time.time()
        yield
        self.stages.append({"stage": stage, "start": 1000 * start, "end": 1000 * time.time()})

    async def of(self, stage: str, work: Awaitable[T]) -> T:
        """Awaits `work` as a stage."""
        with self.stage(stage):
            return await work

    def durations(self) -> dict[str, float]:
        """Milliseconds by stage: more together than the start took, where stages overlap."""
        return {s["stage"]: round(s["end"] - s["start"], 1) for s in self.stages}

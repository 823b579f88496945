"""The graphics card and its clock, from nvidia-smi where there is one."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import IO

PERIOD_MS = 50


class Card:
    """The first card: its name, and its clock of the shaders in MHz, sampled all the time."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._samples: list[tuple[float, int]] = []  # (time.monotonic(), MHz)

    def clock_since(self, start: float) -> int | None:
        """The median clock since `start`, a time.monotonic(); None where it was not sampled."""
        clocks = [mhz for at, mhz in self._samples if at >= start]
        return round(median(clocks)) if clocks else None

    def watch(self, lines: IO[str]) -> None:
        """Takes one sample a line until there are no more."""
        for line in lines:
            if line.strip().isdecimal():
                self._samples.append((time.monotonic(), int(line)))


@contextmanager
def watched_card() -> Iterator[Card | None]:
    """The card of this machine while the block runs; None without nvidia-smi."""
    command = shutil.which("nvidia-smi")
    name = _ask(command) if command else ""
    if not command or not name:
        yield None
        return
    card = Card(name)
    query = [command, "-i", "0", "--query-gpu=clocks.sm", "--format=csv,noheader,nounits"]
    with subprocess.Popen(
        [*query, f"--loop-ms={PERIOD_MS}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as sampling:
        assert sampling.stdout is not None
        thread = threading.Thread(target=card.watch, args=(sampling.stdout,), daemon=True)
        thread.start()
        try:
            yield card
        finally:
            sampling.terminate()
            thread.join()


def _ask(command: str) -> str:
    """The card's name; "" where nvidia-smi finds none."""
    done = subprocess.run(
        [command, "-i", "0", "--query-gpu=name", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() if done.returncode == 0 else ""

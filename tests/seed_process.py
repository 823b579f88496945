"""`doppler seed` in a process of its own: libtorrent's session may hang when it ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WAIT = 60.0  # seconds for what takes one or two; the machine may be busy


@dataclass
class Seed:
    """A running `doppler seed`: what it printed, the file of what it logs, and the seconds that its
    start took.
    """

    process: subprocess.Popen[str]
    told: dict[str, Any]
    log: Path
    start: float

    def logged(self, text: str) -> bool:
        """Whether that is in its log soon."""
        return soon(lambda: text in self.log.read_text())

    def end(self, number: int = signal.SIGTERM) -> None:
        """Interrupts it: it ends within seconds, on a machine as busy as at its start."""
        began = time.monotonic()
        self.process.send_signal(number)
        assert self.process.wait(WAIT) == 130
        assert time.monotonic() - began < 5 + 2 * self.start


@contextmanager
def seed(folder: Path, tracker: str, *more: str, log: Path | None = None) -> Iterator[Seed]:
    """The command, once it shares the model; log: a file, else one beside the folder."""
    log = log or folder.with_suffix(".log")
    command = [sys.executable, "-m", "doppler.cli", "seed", str(folder), "--json"]
    began = time.monotonic()
    with (
        log.open("w") as errors,
        subprocess.Popen(
            [*command, "--tracker", tracker, *more],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert line, log.read_text()
            yield Seed(process, json.loads(line), log, time.monotonic() - began)
        finally:
            process.kill()


def soon(holds: Callable[[], bool]) -> bool:
    """Whether it holds within a while."""
    end = time.monotonic() + WAIT
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.2)
    return True

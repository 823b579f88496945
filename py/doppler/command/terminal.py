"""What the command line shows: results on standard output, progress and logs on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

Report = Callable[[int, int], None]  # bytes done, bytes in all


class Terminal:
    """as_json: one object on standard output and nothing else."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self._console = Console(stderr=True, highlight=False)

    def log(self, message: str) -> None:
        """A line for people, beside the result."""
        self._console.print(message, markup=False, soft_wrap=True)

    def write(self, text: str) -> None:
        """A piece of the result as it comes; with JSON it waits for `result`."""
        if not self.as_json:
            sys.stdout.write(text)
            sys.stdout.flush()

    def aside(self, text: str) -> None:
        """A piece of what comes beside the result, as it comes; with JSON it waits, too."""
        if not self.as_json:
            self._console.print(text, style="dim", end="", markup=False, soft_wrap=True)

    def result(self, data: dict[str, Any], text: str) -> None:
        """The outcome: `data` with --json, else `text`."""
        line = json.dumps(data, ensure_ascii=False) if self.as_json else text
        if line:
            print(line, flush=True)

    @contextmanager
    def bar(self, title: str) -> Iterator[Report]:
        """A progress bar in bytes, where somebody looks: not in files and pipes. Call what it
        yields with (done, total)."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
        hidden = not sys.stderr.isatty()
        with Progress(*columns, console=self._console, disable=hidden) as progress:
            task = progress.add_task(title, total=None)

            def report(done: int, total: int) -> None:
                progress.update(task, completed=done, total=total)

            yield report
            progress.update(task, completed=progress.tasks[0].total)  # padding is not reported

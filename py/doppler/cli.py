"""The command line: serve, seed, pull, convert, verify, generate and others.

Results go to standard output, progress and logs to standard error; with --json a command prints one
object. Exit codes: 0 done, 1 damaged or failed, 2 asked wrongly, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper

from doppler.command.interrupts import INTERRUPTED, end, heed


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. Without argv it is the whole process."""
    try:
        if argv is None:
            heed()
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, TextIOWrapper):  # a name of a file may hold what has no letters
                stream.reconfigure(errors="backslashreplace")
        try:
            # Here, so that an interrupt is heard while all of it is read, which takes a while.
            from doppler.command.commands import run

            return run(sys.argv[1:] if argv is None else argv)
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        print("doppler: interrupted", file=sys.stderr)
        return INTERRUPTED if argv is not None else end(INTERRUPTED)
    except BrokenPipeError:  # whoever read the output has enough: there is nobody to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


if __name__ == "__main__":
    sys.exit(main())

"""Reads mutated files of one format, in a process of its own; prints what went wrong as JSON.

    python tests/fuzz/worker.py FORMAT --seconds 4          # seeds 0, 1, 2, ...
    python tests/fuzz/worker.py FORMAT --seed 17 [--keep]   # that one, told; kept in the corpus

Right is: nothing but DopplerErrors, whose message is one short printable line; at most 5 seconds;
no more memory than four times the files and 64 MiB.
"""

from __future__ import annotations

import argparse
import json
import resource
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from cases import CORPUS, Case, from_text, to_text, total  # noqa: E402
from formats import FORMATS  # noqa: E402

from doppler.errors import DopplerError  # noqa: E402

SECONDS = 5
LONGEST_MESSAGE = 600
ROOM = 64 << 20
MOST_MEMORY = 4 << 30  # of the process, so that a fault does no harm around it
STATUS, PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class TooLong(BaseException):
    """The time is over. No Exception, so that no reader takes it for one."""


def memory(key: str) -> int:
    """A figure of the kernel's, in bytes."""
    for line in STATUS.read_text().splitlines():
        if line.startswith(key):
            return 1024 * int(line.split()[1])
    raise AssertionError(key)


def tried(kind: str, case: Case) -> str | None:
    """Reads a case; what is wrong about how that went."""
    PEAK.write_text("5")  # the peak is counted from here on
    before, start = memory("VmRSS"), time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        FORMATS[kind].read(case)
    except DopplerError as error:
        problem = wrong_message(str(error))
    except TooLong:
        problem = f"takes more than {SECONDS} s"
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(frame.filename).name}:{frame.lineno}"
        problem = f"{type(error).__name__} at {where}: {str(error)[:200]}"
    else:
        problem = None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    taken, allowed = memory("VmHWM") - before, 4 * total(case) + ROOM
    if problem is None and taken > allowed:
        problem = f"takes {taken >> 20} MiB, and {allowed >> 20} are allowed"
    if problem is None and time.monotonic() - start > SECONDS:
        problem = f"takes {time.monotonic() - start:.1f} s"
    return problem


def wrong_message(message: str) -> str | None:
    if len(message) > LONGEST_MESSAGE:
        return f"a message of {len(message)} characters: {message[:200]!r}"
    return None if message.isprintable() else f"a message with marks: {message[:200]!r}"


def seeds(args: argparse.Namespace) -> Iterator[int]:
    """The one that was asked for, or all until the time is over."""
    if args.seed is not None:
        yield args.seed
        return
    seed, end = args.first, time.monotonic() + args.seconds
    while time.monotonic() < end:
        yield seed
        seed += 1


def run(args: argparse.Namespace) -> dict[str, Any]:
    failures: dict[str, str] = {}
    kept = sorted(CORPUS.glob(f"{args.format}-*.json"))
    for path in kept if args.seed is None else []:
        if problem := tried(args.format, from_text(path.read_text())):
            failures[path.name] = problem
    count = 0
    for seed in seeds(args):
        print(seed, file=sys.stderr, flush=True) if args.told else None
        case = FORMATS[args.format].make(Random(f"{args.format} {seed}"))
        count += 1
        if problem := tried(args.format, case):
            failures[f"seed {seed}"] = problem
            if args.keep:
                (CORPUS / f"{args.format}-{seed}.json").write_text(to_text(case))
        if len(failures) > 20:
            break
    return {"format": args.format, "kept": len(kept), "cases": count, "failures": failures}


def out_of_time(_number: int, _frame: object) -> None:
    raise TooLong


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("format", choices=FORMATS)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--first", type=int, default=0, help="seed to begin with")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--told", action="store_true", help="tell each seed before it is read")
    signal.signal(signal.SIGALRM, out_of_time)
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    print(json.dumps(run(parser.parse_args()), indent=1))


if __name__ == "__main__":
    main()

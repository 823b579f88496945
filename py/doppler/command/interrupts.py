"""Ctrl-C ends a command soon, whatever it is at.

Python hears a signal between two of its own steps: not while it hashes a large file or multiplies
large matrices. And what a signal's handler raises may be lost, as in a destructor. So a
thread hears it, too, and ends the process where the command does not do so by itself: what it had
begun to write is then as after a failure. It imports little, as it is there before all else.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from contextlib import suppress
from types import FrameType
from typing import NoReturn

INTERRUPTED = 130  # the exit code
HEARING = 0.7  # seconds that Python may take to hear a signal
ENDING = 5.0  # and that a command may take to end after that: closing browsers, leaving peers
_SHOW_CURSOR = "\x1b[?25h"  # which progress bars hide

_heard = threading.Event()


def heed() -> None:
    """From now on an interrupt raises KeyboardInterrupt, and ends the process in any case.

    Where interrupts are ignored, as in the background of a script, they stay so.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return
    ours, pythons = socket.socketpair()
    pythons.setblocking(False)
    signal.set_wakeup_fd(pythons.detach(), warn_on_full_buffer=False)
    threading.Thread(target=_wait, args=(ours,), daemon=True).start()
    # asyncio has a handler of its own in the place of the default one, and that waits for the next
    # await that waits.
    signal.signal(signal.SIGINT, _interrupt)


def on_signal() -> threading.Event:
    """An event that SIGINT and SIGTERM set from now on, for what ends in its own way."""
    ended = threading.Event()

    def hear(*_: object) -> None:
        _heard.set()
        ended.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, hear)
    return ended


def end(code: int) -> NoReturn:
    """Ends the process now: threads that hash a model, or belong to libtorrent, are not awaited."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # of whoever stopped reading
            stream.flush()
    os._exit(code)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    _heard.set()
    raise KeyboardInterrupt


def _wait(ours: socket.socket) -> None:
    while signal.SIGINT not in ours.recv(64):
        pass
    if _heard.wait(HEARING):
        # A second one is somebody who waits no longer.
        ours.settimeout(ENDING)
        with suppress(TimeoutError):
            ours.recv(64)
    shown = _SHOW_CURSOR if sys.stderr.isatty() else ""
    os.write(2, f"{shown}doppler: interrupted\n".encode())
    os._exit(INTERRUPTED)

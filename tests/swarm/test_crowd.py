"""The tracker of `doppler serve`, in a process of its own, among 1,000 connections."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import IO

import pytest

from tracker_client import TrackerClient, offers, peers

HONEST, CROWDED = "ab" * 20, "cd" * 20
MOST_GROWTH = 128 << 20  # bytes of memory; about 60 MiB were measured
PAUSE = 0.6  # seconds between two handshakes: of a peer the tracker passes on two offers a second
MEDIAN, SLOWEST = 3.0, 15.0  # seconds for a handshake, on a machine that does other things, too


@contextmanager
def served(models: Path) -> Iterator[tuple[str, int]]:
    """`doppler serve`: the tracker's address, and the process."""
    command = [sys.executable, "-m", "doppler.cli", "serve", "--json", "--port", "0"]
    command += ["--models", str(models), "--allow", HONEST, "--allow", CROWDED]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())["tracker"], process.pid
        finally:
            process.terminate()
            process.wait(20)
    assert process.returncode == 130


@contextmanager
def crowd(url: str) -> Iterator[IO[str]]:
    """The crowd's process: what it prints."""
    command = [sys.executable, str(Path(__file__).with_name("crowd.py")), url]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout
        finally:
            process.communicate(timeout=20)


def memory_of(pid: int) -> int:
    """Bytes of memory that a process has."""
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) << 10


async def shake_hands(one: TrackerClient, other: TrackerClient, turn: int) -> float:
    """Seconds from an announce to the answer of the other peer."""
    began, name = time.monotonic(), f"{turn}-{other.name}"
    await other.announce(HONEST, offers=offers(name))
    while (offer := await one.heard()).get("offer_id") != f"{name}-0":
        pass
    await one.answer(HONEST, other.name, offer["offer_id"])
    while (await other.heard()).get("offer_id") != f"{name}-0":
        pass
    return time.monotonic() - began


async def among(url: str, pid: int) -> tuple[list[float], int, int]:
    """Times of handshakes amid the crowd, growth of the tracker, connections that it kept."""
    async with peers(url, "a", "b") as (a, b):
        await a.joined(HONEST)
        before, times, growth, ready = memory_of(pid), [], 0, ""
        with crowd(url) as said:
            heard = asyncio.create_task(asyncio.to_thread(said.readline))
            while ready != "done\n":
                times.append(await shake_hands(a, b, len(times)))
                growth = max(growth, memory_of(pid) - before)
                await asyncio.wait([heard], timeout=PAUSE)
                if heard.done():
                    ready = heard.result()
                    assert ready in ("1000\n", "done\n"), ready
                    heard = asyncio.create_task(asyncio.to_thread(said.readline))
            async with peers(url, "c") as (c,):
                kept = (await c.joined(CROWDED))["incomplete"]
        await heard
        times.append(await shake_hands(a, b, len(times)))
        return times, growth, kept


@pytest.mark.skipif(sys.platform != "linux", reason="127.0.1.1 and /proc are Linux's")
def test_a_thousand_connections(tmp_path: Path) -> None:
    with served(tmp_path) as (url, pid):
        times, growth, kept = asyncio.run(among(url, pid))
    print(
        f"{len(times)} handshakes: median {median(times):.2f} s, at most {max(times):.2f} s; "
        f"{growth / 2**20:.0f} MiB more, {kept} connections kept"
    )
    assert len(times) > 5
    assert median(times) < MEDIAN
    assert max(times) < SLOWEST
    assert growth < MOST_GROWTH
    assert 200 <= kept <= 600  # those that talk; floods, garbage and long messages are gone

"""Ctrl-C: whatever a command is at, it ends soon, with a line and a code of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from doppler.cli import main
from storable import storable

SOON = 3.0  # seconds: the promise is about one, and other tests run beside
# The command line with one function that tells that it was reached, and then never ends.
STUCK = """
import hashlib, importlib, sys
from doppler.cli import main

module, name, way = sys.argv[1:4]
owner = importlib.import_module(module)
*inner, name = name.split(".")
for part in inner:
    owner = getattr(owner, part)

def busy(*args, **named):
    print("reached", flush=True)
    while way == "python":
        pass
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)

async def waits_for_nothing(*args, **named):
    busy()

setattr(owner, name, waits_for_nothing if way == "await" else busy)
sys.argv[1:] = sys.argv[4:]
way = "python" if way == "await" else way
sys.exit(main())
"""


def interrupted(command: list[str], environment: dict[str, str] | None = None) -> str:
    """Interrupts it once it says that it was reached; what it says of that."""
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "reached\n"
            time.sleep(0.1)
            began = time.monotonic()
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=60)
            assert time.monotonic() - began < SOON
            assert process.returncode == 130
            return said
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("place", "way", "words"),
    [
        ("doppler.store.verify verify_shards", "await", "verify {noise}"),
        ("doppler.inputs.buffers MemoryBuffers.blake3", "C", "verify {noise}"),
        ("doppler.swarm.metainfo blake3_hex", "python", "seed {noise}"),
        ("doppler.swarm.peer Peer._wait_for_port", "C", "seed {noise}"),
        ("doppler.convert.convert outline_path", "await", "convert {noise} -o {new}"),
    ],
)
def test_it_ends_in_the_midst_of_anything(place: str, way: str, words: str, tmp_path: Path) -> None:
    storable().save(tmp_path / "noise")
    asked = words.format(noise=tmp_path / "noise", new=tmp_path / "new")
    said = interrupted([sys.executable, "-c", STUCK, *place.split(), way, *asked.split()])
    assert said == "doppler: interrupted\n"


def test_it_ends_while_it_starts(tmp_path: Path) -> None:
    (tmp_path / "rich.py").write_text("print('reached', flush=True)\nwhile True: pass\n")
    path = os.pathsep.join([str(tmp_path), *sys.path])
    command = [sys.executable, "-m", "doppler.cli", "verify", "x"]
    said = interrupted(command, {**os.environ, "PYTHONPATH": path})
    assert said == "doppler: interrupted\n"


def test_half_a_model_is_none(tmp_path: Path) -> None:
    """And the same command once more writes it whole."""
    storable().save(tmp_path / "noise")
    asked = ["recut", str(tmp_path / "noise"), "--shard-size", "1M", "-o", str(tmp_path / "new")]
    place = ["doppler.store.rewrite", "verified_tokenizer", "await"]
    interrupted([sys.executable, "-c", STUCK, *place, *asked])
    assert (tmp_path / "new" / "shard-00000.bin").exists()
    assert main(["verify", str(tmp_path / "new")]) == 1
    assert main(asked) == 0
    assert main(["verify", str(tmp_path / "new")]) == 0

"""`doppler seed` beside stock libtorrent clients: each in a process of its own."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from doppler.command.server import Server
from doppler.swarm.metainfo import make_torrent
from seed_process import WAIT, seed, soon
from storable import storable
from tracker_client import peers


@contextmanager
def stock_client(**asked: Any) -> Iterator[tuple[str, IO[str]]]:
    """The client's address, and what it prints after that."""
    command = [sys.executable, str(Path(__file__).with_name("stock_client.py"))]
    with subprocess.Popen(
        [*command, json.dumps(asked)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip(), process.stdout
        finally:
            process.communicate(timeout=WAIT)


@contextmanager
def deaf() -> Iterator[str]:
    """The address of a tracker that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"ws://127.0.0.1:{listening.getsockname()[1]}/tracker"


def write_torrent(folder: Path, file: Path) -> None:
    """The torrent of the stored noise, without trackers."""
    file.write_bytes(make_torrent(folder, storable().manifest).metainfo())


def test_a_stock_client_takes_a_shard_and_hands_it_back(tmp_path: Path) -> None:
    noise, torrent = storable(), tmp_path / "noise.torrent"
    noise.save(tmp_path / "whole")
    noise.save(tmp_path / "part")
    (tmp_path / "part" / "shard-00001.bin").unlink()
    bad = bytearray(noise.shard(2))
    bad[:4096] = bytes(4096)
    (tmp_path / "part" / "shard-00002.bin").write_bytes(bad)
    write_torrent(tmp_path / "whole", torrent)
    got = tmp_path / "got" / noise.manifest.identity
    # A tracker that is not there: these peers know each other.
    with seed(tmp_path / "whole", "ws://127.0.0.1:9/tracker") as first:
        assert first.told["identity"] == noise.manifest.identity
        assert first.told["page"] is None
        assert first.told["link"].startswith("#model=")
        asked = {"torrent": str(torrent), "folder": str(tmp_path / "got")}
        with stock_client(**asked, only=1, peer=first.told["listen"]) as (_, said):
            assert int(said.readline()) >= len(noise.shard(1))
            assert (got / "shard-00001.bin").read_bytes() == noise.shard(1)
        # All the rest, by the link alone: the metadata comes from the seed, too.
        asked = {"magnet": first.told["magnet"], "folder": str(tmp_path / "got")}
        with stock_client(**asked, peer=first.told["listen"]) as (_, said):
            assert int(said.readline()) < len(noise.data) - len(noise.shard(1)) + (1 << 20)
            first.end()
    with seed(tmp_path / "part", "ws://127.0.0.1:9/tracker") as second:
        assert second.told["infohash"] == first.told["infohash"]
        asked = {"torrent": str(torrent), "folder": str(tmp_path / "got")}
        with stock_client(**asked, seeds=True, peer=second.told["listen"]):
            assert second.logged("is whole again: every block was verified")
        second.end(signal.SIGINT)
    for index, shard in enumerate(noise.manifest.shards):
        assert (tmp_path / "part" / shard.name).read_bytes() == noise.shard(index)


def seeds_at(tracker: str, infohash: str) -> int:
    """How many seeds a tracker knows."""

    async def ask() -> int:
        async with peers(tracker, "asks") as (client,):
            return int((await client.joined(infohash))["complete"])

    return asyncio.run(ask())


def test_a_stock_client_takes_a_shard_from_the_web_seed(tmp_path: Path) -> None:
    noise, torrent = storable(), tmp_path / "noise.torrent"
    noise.save(tmp_path / "models" / "noise")
    with Server(tmp_path / "models") as server:
        identity = noise.manifest.identity
        with urllib.request.urlopen(f"{server.url}seed/{identity}.torrent") as answer:
            torrent.write_bytes(answer.read())
        asked = {"torrent": str(torrent), "folder": str(tmp_path / "got"), "only": 2}
        with stock_client(**asked) as (_, said):
            assert int(said.readline()) >= len(noise.shard(2))
    assert (tmp_path / "got" / identity / "shard-00002.bin").read_bytes() == noise.shard(2)


def test_a_tracker_that_was_restarted_hears_of_the_seed_again(tmp_path: Path) -> None:
    storable().save(tmp_path / "noise")
    first = Server(tmp_path).start()
    with seed(tmp_path / "noise", first.tracker) as running:
        assert running.logged("knows this peer")
        assert running.told["page"] == first.url
        infohash = running.told["infohash"]
        assert seeds_at(first.tracker, infohash) == 1
        first.stop()
        with Server(tmp_path, first.port) as again:
            assert soon(lambda: seeds_at(again.tracker, infohash) == 1)
            running.end()
            assert soon(lambda: seeds_at(again.tracker, infohash) == 0)


def test_a_refusal_is_told(tmp_path: Path) -> None:
    storable().save(tmp_path / "noise")
    (tmp_path / "none").mkdir()
    with (
        Server(tmp_path / "none") as server,
        seed(tmp_path / "noise", server.tracker) as running,
    ):
        infohash = running.told["infohash"]
        assert running.logged(f"this tracker does not carry {infohash}")
        running.end()


def test_a_tracker_that_is_not_there_is_told(tmp_path: Path) -> None:
    storable().save(tmp_path / "noise")
    with seed(tmp_path / "noise", "ws://127.0.0.1:9/tracker") as running:
        assert running.logged(
            "ws://127.0.0.1:9/tracker: nobody listens at this address; start doppler serve there, "
            "or name another tracker with --tracker"
        )


def test_it_ends_while_a_tracker_keeps_it_waiting(tmp_path: Path) -> None:
    storable().save(tmp_path / "noise")
    with deaf() as tracker, seed(tmp_path / "noise", tracker) as running:
        time.sleep(1)
        running.end()
    assert "sent 0 bytes, got 0" in running.log.read_text()


def test_the_upload_rate_holds_for_neighbours_too(tmp_path: Path) -> None:
    noise, torrent = storable(), tmp_path / "noise.torrent"
    noise.save(tmp_path / "noise")
    write_torrent(tmp_path / "noise", torrent)
    rate = ("--upload-rate", "2MiB")
    with seed(tmp_path / "noise", "ws://127.0.0.1:9/tracker", *rate) as running:
        began = time.monotonic()
        asked = {"torrent": str(torrent), "folder": str(tmp_path / "got"), "only": 0}
        with stock_client(**asked, peer=running.told["listen"]) as (_, said):
            assert said.readline()
    assert time.monotonic() - began > 1.5  # for 4 MiB; without a limit 0.1 s or so


def test_damage_that_nobody_can_mend_is_an_error(tmp_path: Path) -> None:
    noise = storable(77)  # whose torrent was never made
    noise.save(tmp_path / "noise")
    path = tmp_path / "noise" / "shard-00000.bin"
    path.write_bytes(bytes(path.stat().st_size))
    command = [sys.executable, "-m", "doppler.cli", "seed", str(tmp_path / "noise"), "--json"]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=WAIT
    )
    assert done.returncode == 1
    error = json.loads(done.stdout)["error"]
    assert error["kind"] == "CorruptError"
    assert "block 0 of shard-00000.bin is damaged" in error["message"]


def test_an_address_that_is_not_to_be_had(tmp_path: Path) -> None:
    storable().save(tmp_path / "noise")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "doppler.cli", "seed", str(tmp_path / "noise")]
        done = subprocess.run(
            [*command, "--listen", f"127.0.0.1:{port}"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=WAIT,
        )
    assert done.returncode == 1
    assert f"port {port} of 127.0.0.1 cannot be used" in done.stderr

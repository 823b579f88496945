"""The page's Python quantises as the command line does, from files that lie on a server."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from checkpoint_files import write_checkpoint
from doppler.command.server import Server
from doppler.store.manifest import Manifest
from model_server import model_server
from visited import Visited
from worker_tab import Tab

CONVERT = """
import doppler_runtime as runtime
await runtime.loadNumpy()
from doppler.convert.convert import convert_safetensors

files = {{name: HttpSource("{url}" + name, buffers) for name in {names}}}
async with root.importing() as unfinished:
    manifest = await convert_safetensors(
        files, unfinished.storage, buffers, name="x", quant="{quant}", shard_size=1 << 20
    )
    await unfinished.keep(manifest.identity)
manifest.to_json()
"""


def test_pages_and_command_line_make_the_same_model(visited: Visited, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "hf", 20_000)
    names = [path.name for path in folder.iterdir()]
    (tmp_path / "none").mkdir()
    with (
        Server(tmp_path / "none", visited.port) as server,
        model_server(folder) as files,
        visited.opened() as context,
    ):
        tab = Tab(context.pages[0], server.url + "models.json")
        for quant in ("q4_0", "q8_0"):
            text = tab.run(CONVERT.format(url=files.url, names=names, quant=quant))
            made = Manifest.from_json(text, quant)
            assert len(made.shards) > 1
            assert made.identity == identity_here(folder, tmp_path / quant, quant)


def identity_here(folder: Path, target: Path, quant: str) -> str:
    """In a process of its own: Playwright's loop runs in this thread."""
    command = [sys.executable, "-m", "doppler.cli", "convert", str(folder), "-o", str(target)]
    command += ["--quant", quant, "--quality-tokens", "0", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    identity: str = json.loads(done.stdout)["id"]
    return identity

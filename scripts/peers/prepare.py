"""Everything that a run needs beside the repository, made once in .cache/peers.

packages/  files of pinned npm packages, only those that pages load; they are never shipped
models/    a GGUF file, and the ONNX export of the same weights

The tools that make these stay in .cache/peers-build, which a run does not need.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from doppler.command import catalogue
from doppler.command.terminal import Terminal
from doppler.command.wheel import ROOT
from doppler.errors import SourceError

PEERS = ROOT / ".cache" / "peers"
BUILD = ROOT / ".cache" / "peers-build"
MODEL = "gemma-3-270m"
GGUF = PEERS / "models" / f"{MODEL}.gguf"
SYNTH = PEERS / "models" / "gemma-3-1b-q4_0.gguf"
ONNX = PEERS / "models" / f"{MODEL}-onnx"


@dataclass(frozen=True)
class Package:
    """An npm package; `files` are those that a page loads, without their folder."""

    name: str
    version: str
    folder: str
    files: tuple[str, ...]


PACKAGES: Mapping[str, Package] = {
    "wllama": Package("@wllama/wllama", "3.13.0", "esm", ("index.js", "wasm/wllama.wasm")),
    "transformers": Package("@huggingface/transformers", "4.3.1", "dist", ("transformers.min.js",)),
    "onnxruntime": Package(  # the one version that transformers 4.3.1 goes with
        "onnxruntime-web",
        "1.31.0-dev.20260914-8d85527a0",
        "dist",
        ("ort-wasm-simd-threaded.asyncify.mjs", "ort-wasm-simd-threaded.asyncify.wasm"),
    ),
}
# transformers 5 tells Gemma 3's two rope bases in a way that the model builder does not know.
EXPORTER = (
    "accelerate==1.15.0",
    "gguf==0.19.0",
    "onnx==1.23.2",
    "onnx-ir==1.1.0",
    "onnxruntime==1.32.0",
    "onnxruntime-genai==0.12.2",
    "torch==2.13.0",
    "transformers==4.57.6",
)


def prepare(terminal: Terminal, synth: bool) -> dict[str, int]:
    """Makes what is not there yet, with synth SYNTH too; -> bytes of each file of .cache/peers.

    Raises SourceError where npm, pip or the export fails; they say why on standard error.
    """
    BUILD.mkdir(parents=True, exist_ok=True)
    for name, package in PACKAGES.items():
        unpack(name, package)
    with terminal.bar("Gemma 3 270M") as report:
        catalogue.fetch(catalogue.find(MODEL), report, GGUF.parent)
    export()
    if synth and not SYNTH.exists():
        from doppler.command.shapes import SHAPES  # a run needs neither these nor their packages
        from peers.synth_gguf import write

        write(SHAPES["gemma-3-1b"], GGUF, SYNTH)
    files = sorted(path for path in PEERS.rglob("*") if path.is_file())
    return {str(path.relative_to(PEERS)): path.stat().st_size for path in files}


def unpack(name: str, package: Package) -> None:
    """The package's files in packages/`name`."""
    target = PEERS / "packages" / name
    if all((target / file).exists() for file in package.files):
        return
    spec = f"{package.name}@{package.version}"
    archive = BUILD / _run("npm", "pack", "--silent", "--pack-destination", str(BUILD), spec)
    with tarfile.open(archive) as packed:
        for file in package.files:
            content = packed.extractfile(f"package/{package.folder}/{file}")
            assert content is not None
            (target / file).parent.mkdir(parents=True, exist_ok=True)
            (target / file).write_bytes(content.read())
    archive.unlink()


def export() -> None:
    """The GGUF's weights as ONNX, in 4 bits; with a Python environment of its own."""
    if (ONNX / "config.json").exists():  # what is written last
        return
    python = BUILD / "venv" / "bin" / "python"
    if not python.exists():
        _run(sys.executable, "-m", "venv", str(python.parent.parent))
    _run(str(python), "-m", "pip", "install", "--quiet", *EXPORTER)
    script = Path(__file__).with_name("export_onnx.py")
    _run(str(python), str(script), str(GGUF), str(ONNX), str(BUILD))


def _run(*command: str) -> str:
    """Runs it; -> the last line that it printed."""
    try:
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SourceError(
            f"{' '.join(command[:4])} … failed ({error}); see what it says above, then try again"
        ) from error
    return (done.stdout.strip().splitlines() or [""])[-1]

"""`doppler recut`: a model's folder in shards of another size."""

from __future__ import annotations

import argparse
import asyncio
import os
from pathlib import Path

from doppler.command.output import QUALITY_FILE, check_output
from doppler.command.served import manifest_in
from doppler.command.terminal import Terminal
from doppler.errors import RequestError
from doppler.inputs.buffers import MemoryBuffers
from doppler.inputs.source import Progress
from doppler.store.folder import FolderStorage
from doppler.store.manifest import Manifest
from doppler.store.rewrite import rewrite


def run(folder: Path, args: argparse.Namespace, terminal: Terminal) -> Manifest:
    """Writes the model of `folder` into args.output. Its identity and its name stay."""
    if os.path.realpath(args.output) == os.path.realpath(folder):
        raise RequestError(f"{args.output} holds the model to re-cut: give -o another folder")
    check_output(args.output)
    manifest = manifest_in(folder)
    with terminal.bar(f"recut {manifest.title}") as progress:
        return asyncio.run(_written(manifest, folder, args, progress))


async def _written(
    manifest: Manifest, folder: Path, args: argparse.Namespace, progress: Progress
) -> Manifest:
    source, target = FolderStorage(folder), FolderStorage(args.output)
    cut = await rewrite(
        source, target, manifest, args.shard_size, MemoryBuffers(), progress, str(folder)
    )
    if (size := await source.size(QUALITY_FILE)) is not None:
        await target.write(QUALITY_FILE, 0, await source.read(QUALITY_FILE, 0, size))
    return cut

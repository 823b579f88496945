"""`doppler convert`: one model into a folder, and what quantising it cost.

The report on that is printed, and kept beside the model as quality.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from doppler.command.output import QUALITY_FILE, write_model
from doppler.command.sample_text import TEXT
from doppler.command.terminal import Terminal
from doppler.convert.convert import outline_path
from doppler.convert.quality import Quality
from doppler.errors import RequestError, SourceError
from doppler.inputs.buffers import MemoryBuffers
from doppler.quantization.block_types import block_type
from doppler.store.folder import FolderStorage
from doppler.store.manifest import SHARD_SIZE, Manifest

QUALITY_TOKENS = 256


@dataclass(frozen=True)
class Report:
    """What was quantised and what was not; how good the model is still, where that was measured."""

    quant: str
    matrices: int
    kept: tuple[str, ...]  # those that are floats still
    text: str | None
    quality: Quality | None

    def described(self) -> dict[str, Any]:
        """As plain data: what quality.json holds."""
        data: dict[str, Any] = {"quant": self.quant, "matrices": self.matrices}
        data["kept"] = list(self.kept)
        if self.quality is not None:
            data |= {"text": self.text, **self.quality.described()}
        return data

    def __str__(self) -> str:
        lines = []
        if self.kept:
            lines.append(
                f"matrices left as they were: {len(self.kept)} of {self.matrices} "
                f"({self.kept[0]} first); their rows are no whole number of blocks of 32 weights, "
                "or they choose a mixture's experts"
            )
        if self.quality is not None:
            lines.append(
                f"quality against the unquantised model, {self.quality.tokens} tokens "
                f"({self.text}): {self.quality}"
            )
        return "\n".join(lines)


@dataclass(frozen=True)
class Converted:
    """The model, and a report where it was quantised. warnings: what it lacks, or was guessed."""

    manifest: Manifest
    warnings: tuple[str, ...]
    report: Report | None


def run(args: argparse.Namespace, terminal: Terminal) -> Converted:
    """Converts; the model's name is that of the output folder."""
    text = _text(args)
    output = os.path.realpath(args.output)  # Path.resolve fails where links make a loop
    if output == os.path.realpath(args.source):
        raise RequestError(f"{args.output} holds the model to convert: give -o another folder")
    if not args.source.exists():
        raise SourceError(f"{args.source} is not there: give a .gguf file, or a model's folder")
    size = SHARD_SIZE if args.shard_size is None else args.shard_size
    with terminal.bar(f"convert {args.source.name}") as progress:
        name = Path(output).name
        reading = outline_path(args.source, MemoryBuffers(), name=name, quant=args.quant)
        outline = asyncio.run(reading)
        manifest = write_model(outline, args.output, size, progress)
    storage = FolderStorage(args.output)
    asyncio.run(storage.remove(QUALITY_FILE))  # of an earlier conversion
    if args.quant == "none":
        return Converted(manifest, outline.warnings, None)
    report = _report(args, manifest, text, terminal)
    data = json.dumps(report.described(), indent=1) + "\n"
    asyncio.run(storage.write(QUALITY_FILE, 0, data.encode()))
    return Converted(manifest, outline.warnings, report)


def _text(args: argparse.Namespace) -> str:
    if args.quant == "none" and args.text is not None:
        raise RequestError("--text is what the quality of a --quant is measured on: give both")
    if args.quant == "none" and args.quality_tokens is not None:
        raise RequestError(
            "--quality-tokens is how the quality of a --quant is measured: give both"
        )
    if args.text is None:
        return TEXT
    if args.quality_tokens == 0:
        raise RequestError("--text is to measure on, and --quality-tokens 0 measures nothing")
    from doppler.command.quality import read_text

    return read_text(args.text)


def _report(args: argparse.Namespace, manifest: Manifest, text: str, terminal: Terminal) -> Report:
    from doppler.command.quality import measure, random_ids, token_ids

    matrices = [tensor for tensor in manifest.tensors if len(tensor.shape) == 2]
    kept = tuple(tensor.name for tensor in matrices if block_type(tensor.type).elements == 1)
    most = QUALITY_TOKENS if args.quality_tokens is None else args.quality_tokens
    if not most:
        return Report(args.quant, len(matrices), kept, None, None)
    ids = token_ids(manifest, args.output, text, most)
    about = "built-in text" if args.text is None else args.text.name
    if ids is None:
        ids = random_ids(manifest.config, most)
        about = "random ids: the model has no tokenizer"
    with terminal.bar("measure quality") as progress:
        quality = measure(args.source, manifest, args.output, ids, progress)
    return Report(args.quant, len(matrices), kept, about, quality)

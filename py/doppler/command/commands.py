"""What each command does, by its name, and how what fails is told."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from doppler.command.arguments import MODELS
from doppler.command.interrupts import INTERRUPTED, end, on_signal
from doppler.command.models import find_model
from doppler.command.parser import Misused, Parser, build
from doppler.command.terminal import Terminal
from doppler.errors import DopplerError, RequestError, SourceError, StorageError


def run(argv: Sequence[str]) -> int:
    """Run one command; returns the exit code."""
    terminal = Terminal("--json" in argv)
    try:
        args = parser().parse_args(argv)
        terminal.as_json = args.json
        args.run(args, terminal)
    except Misused as error:
        print(error.usage, end="", file=sys.stderr)
        _tell(RequestError(str(error)), terminal)
        sys.exit(2)
    except DopplerError as error:
        _tell(error, terminal)
        return 2 if isinstance(error, RequestError) else 1
    except BrokenPipeError:
        raise
    except OSError as error:  # of a file that a command writes, or of standard output
        _tell(StorageError(f"{error.filename or 'the output'}: {error.strerror}"), terminal)
        return 1
    return 0


def _tell(error: DopplerError, terminal: Terminal) -> None:
    print(f"doppler: {error}", file=sys.stderr)
    terminal.result({"error": {"kind": type(error).__name__, "message": str(error)}}, "")


def parser() -> Parser:
    """All commands and their options."""
    runs = (serve, seed, pull, convert, recut, verify, generate, bench, quality, synth, adapter)
    return build({run.__name__: run for run in runs})


def serve(args: argparse.Namespace, terminal: Terminal) -> None:
    """Serve until interrupted."""
    from doppler.command.browser import open_window
    from doppler.command.served import listing
    from doppler.command.server import Server
    from doppler.command.swarm_routes import Sharing
    from doppler.command.wheel import build_wheel

    models: Path = MODELS if args.models is None else args.models
    if args.models is not None and not models.is_dir():
        raise SourceError(f"{models} is no folder; give --models one that holds model folders")
    if build_wheel():
        terminal.log("built the page's wheel from py/")
    ended = on_signal()
    sharing = Sharing(args.allow, args.tracker)
    with Server(models, args.port, names=args.host_name, sharing=sharing) as server:
        found = listing(models)
        for problem in found.problems:
            terminal.log(f"not served: {problem}")
        names = ", ".join(model["name"] for model in found.models)
        text = f"{server.url}  ({names or 'no models yet: doppler pull NAME'})"
        told = {"url": server.url, "tracker": server.tracker, "models": found.models}
        terminal.result(told, text)
        if args.open:
            open_window(server.url)
        ended.wait()
    end(INTERRUPTED)


def seed(args: argparse.Namespace, terminal: Terminal) -> None:
    """Share a model until interrupted."""
    from doppler.command.seed import run

    end(run(find_model(args.model), args, terminal))


def pull(args: argparse.Namespace, terminal: Terminal) -> None:
    """Fetch and convert what is not there yet."""
    from doppler.command import catalogue
    from doppler.command.output import write_model
    from doppler.command.served import describe
    from doppler.convert.convert import outline_path
    from doppler.inputs.buffers import MemoryBuffers
    from doppler.store.manifest import SHARD_SIZE

    wanted = [catalogue.find(name) for name in args.name]
    if any(it.is_file() for it in (args.models, *args.models.parents)):
        raise SourceError(f"{args.models} is no folder; give --models one to keep models in")
    for entry in wanted:
        folder = args.models / entry.name
        if _is_there(args.models, entry.name, terminal):
            terminal.log(f"{entry.title} is in {folder}")
            continue
        with terminal.bar(f"{entry.title}: fetch") as report:
            source = catalogue.fetch(entry, report)
        with terminal.bar(f"{entry.title}: convert") as report:
            outline = asyncio.run(outline_path(source, MemoryBuffers(), name=entry.name))
            # Title and license lie beside the identity; GGUF files often have poor ones or none.
            own = replace(outline.manifest, title=entry.title, license=entry.license)
            write_model(replace(outline, manifest=own), folder, SHARD_SIZE, report)
        source.unlink()  # the shards hold every byte of it that counts
    result = [describe(args.models, entry.name) for entry in wanted]
    terminal.result({"models": result, "folder": str(args.models)}, "")


def _is_there(models: Path, name: str, terminal: Terminal) -> bool:
    """Whether the model need not be fetched; one that is damaged is, and that is told."""
    from doppler.command.output import model_there
    from doppler.command.served import describe

    if model_there(models / name) is None:
        return False
    try:
        describe(models, name)
    except DopplerError as error:
        terminal.log(f"{name} is fetched again: {error}")
        return False
    return True


def convert(args: argparse.Namespace, terminal: Terminal) -> None:
    """Convert one model; tell what quantising it cost, where it was quantised."""
    from doppler.command.convert import run
    from doppler.text.templates import open_template

    done = run(args, terminal)
    info = done.manifest.tokenizer
    _, problem = open_template(None if info is None else info.chat_template)
    warnings = [*done.warnings, *([] if problem is None else [f"it does not chat: {problem}"])]
    for warning in warnings:
        terminal.log(f"warning: {warning}")
    told: dict[str, Any] = {"warnings": warnings}
    if done.report is not None:
        told["quality"] = done.report.described()
    _summarise(done.manifest, args.output, terminal, told, str(done.report or ""))


def synth(args: argparse.Namespace, terminal: Terminal) -> None:
    """Write one model; its name is that of the output folder."""
    from doppler.command.synth import write

    manifest = write(args.shape, args.output, terminal, layers=args.layers)
    _summarise(manifest, args.output, terminal)


def adapter(args: argparse.Namespace, terminal: Terminal) -> None:
    """Make, sign, verify or show an adapter."""
    from doppler.command.adapter import RUNS

    RUNS[args.action](args, terminal)


def recut(args: argparse.Namespace, terminal: Terminal) -> None:
    """Write one model in another cut; tell what became of its shards."""
    from doppler.command.recut import run
    from doppler.command.served import manifest_in

    folder = find_model(args.model)
    before = manifest_in(folder)
    manifest = run(folder, args, terminal)
    text = (
        f"{len(before.shards)} shards of {folder} became {len(manifest.shards)}; the identity is "
        f"{manifest.identity} still"
    )
    _summarise(manifest, args.output, terminal, {"shards_before": len(before.shards)}, text)


def verify(args: argparse.Namespace, terminal: Terminal) -> None:
    """Raises CorruptError that names the damaged block."""
    from doppler.command.served import manifest_in
    from doppler.store.verify import verify as verify_model

    folder = find_model(args.model)
    manifest = manifest_in(folder)
    storage, buffers = _folder(folder)
    with terminal.bar(f"verify {manifest.title}") as report:
        asyncio.run(verify_model(storage, manifest, buffers, report, str(folder)))
    _summarise(manifest, folder, terminal)


def generate(args: argparse.Namespace, terminal: Terminal) -> None:
    """Stream the answer, or print all about it as JSON."""
    from doppler.command.browser import find_browser
    from doppler.command.generate import generate as run
    from doppler.command.generate import job_of
    from doppler.command.wheel import build_wheel

    job = job_of(args)
    browser = find_browser(args.browser, args.adapter)
    build_wheel()
    result = run(job, browser, terminal)
    terminal.write("\n")  # ends the line that was streamed
    terminal.result(result, "")


def bench(args: argparse.Namespace, terminal: Terminal) -> None:
    """Print the figures as tables, or as JSON; draw them where asked to."""
    from doppler.command.bench.command import run
    from doppler.command.wheel import build_wheel

    build_wheel()
    run(args, terminal)


def quality(args: argparse.Namespace, terminal: Terminal) -> None:
    """Print what each type of keys and values costs, or all of it as JSON."""
    from doppler.command.cache_quality import run
    from doppler.command.wheel import build_wheel

    build_wheel()
    run(args, terminal)


def _folder(path: Path) -> tuple[Any, Any]:
    from doppler.inputs.buffers import MemoryBuffers
    from doppler.store.folder import FolderStorage

    return FolderStorage(path), MemoryBuffers()


def _summarise(
    manifest: Any,
    folder: Path,
    terminal: Terminal,
    told: Mapping[str, Any] | None = None,
    text: str = "",
) -> None:
    """told, text: what is to be said besides, as data and for people."""
    data = {
        "name": manifest.name,
        "id": manifest.identity,
        "folder": str(folder),
        "architecture": manifest.config.architecture,
        "quantization": manifest.quantization,
        "parameters": manifest.parameters,
        "bytes": manifest.bytes,
        "blocks": len(manifest.blocks),
        "shards": len(manifest.shards),
        "tokenizer": manifest.tokenizer is not None,
    }
    sound = f"{folder}: {len(manifest.shards)} shards, {len(manifest.blocks)} blocks, all sound"
    terminal.result({**data, **(told or {})}, f"{sound}\n{text}".rstrip())
